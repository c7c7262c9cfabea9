"""Bad recipes, overrides, data and calls through the command line: an exit code, one message that names the cause.

Each case runs in this process, as `main` would: an exception that is no error of ours fails the test as a traceback.
"""

import gzip
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr import cli
from tests.unit.config.recipe_cases import ALIASES

GOOD = "".join(json.dumps({"prompt": f"{i}:", "reference": str(i)}) + "\n" for i in range(20))
SOUND = """name: x
model: {tiny: {layers: 2, hidden_size: 32, characters: "0123456789:"}}
data:
  train:
    - {source: good.jsonl, template: plain, verifier: text_match}
rollout: {prompts_per_step: 2, group_size: 2, max_completion_tokens: 4}
run: {steps: 1}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("good.jsonl").write_text(GOOD)


def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """(exit code, standard error) of `rlvr ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["rlvr", *arguments])
    code = cli._exit_code()
    return code, capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    before = sorted(os.listdir())
    code, output = answer(capsys, monkeypatch, *arguments)
    assert code == 2, output
    assert "Traceback" not in output
    assert len(output) < 3000
    assert not any(ord(character) < 32 for character in output.replace("\n", ""))
    assert sorted(os.listdir()) == before
    return output


RECIPES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file is empty"),
    "null": ("null\n", "a recipe is a mapping"),
    "a list": ("- a\n- b\n", "a recipe is a mapping"),
    "a number": ("42\n", "a recipe is a mapping"),
    "a null character": (b"name: x\x00y\n", "the character '\\x00'"),
    "not UTF-8": (b"name: \xff\xfe\n", "is not UTF-8 text (byte 6, line 1)"),
    "UTF-16": ("name: x\n".encode("utf-16"), "is not UTF-8 text (byte 0"),
    "deep lists": ("a: " + "[" * 20000 + "]" * 20000, "values nest deeper than 32 levels"),
    "deep mappings": ("".join(" " * i + f"a{i}:\n" for i in range(900)), "values nest deeper"),
    "aliases that multiply": (ALIASES, "the recipe has more than 5,000 values"),
    "an alias in itself": ("name: x\ndata: &d\n  train: [*d]\n", "an alias refers to a value that"),
    "a merge key": ("x: &x {<<: *x}\n", "merge keys are not supported"),
    "a Python tag": ("name: !!python/object/apply:os.system ['touch PWNED']\n", "is not supported"),
    "a key twice": (SOUND + "name: y\n", "name is given twice (first at line 1)"),
    "a key twice below": (SOUND.replace("steps: 1", "steps: 1, steps: 2"), "run.steps is given twice"),
    "a number as a key": (SOUND + "5: y\n", "unknown key"),
    "a list as a key": (SOUND + "? [a, b]\n: y\n", "a key must be plain text"),
    "digits": (SOUND.replace("steps: 1", "steps: 1" + "0" * 5000), "a number of 5,001 digits"),
    "a large number": (SOUND.replace("steps: 1", "steps: 1" + "0" * 22), "must be at most 1000000000"),
    "extends itself": ("extends: r.yaml\nname: x\n", "the recipe extends itself"),
    "extends nothing": ("extends: nope.yaml\n", "extends: no recipe 'nope.yaml'"),
    "extends a device": ("extends: /dev/zero\n", "extends: '/dev/zero' is a device"),
    "a name that is a path": (SOUND.replace("name: x", "name: ../../evil"), "must be letters, digits, "),
    "control characters": (SOUND.replace("name: x", 'name: "a\\nb\\e[31m"'), "must be letters, digits, "),
    "no name": (SOUND.replace("name: x", 'name: ""'), "must be letters, digits, "),
    "a long name": (SOUND.replace("name: x", "name: " + "x" * 5000), "at most 100 characters"),
    "a device as source": (SOUND.replace("good.jsonl", "/dev/zero"), "'/dev/zero' is a device"),
    "no source": (SOUND.replace("good.jsonl", '""'), "source is empty: name a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_a_bad_recipe(case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = RECIPES[case]
    Path("r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in (["train", "r.yaml", "--dry-run"], ["check", "r.yaml"]):
        assert message in refused(capsys, monkeypatch, *command)
    assert not Path("PWNED").exists()


OVERRIDES = {
    "learner.lr=nan": "finite number",
    "learner.lr=inf": "finite number",
    "learner.lr=-1": "must be above 0",
    "learner.lr=true": "must be a number",
    "run.steps=true": "must be a number",
    "run.steps=1.5": "whole number",
    "run.steps=-1": "at least 1",
    "run.steps=0": "at least 1",
    "run.steps=99999999999999999999": "at most 1000000000",
    "rollout.group_size=true": "needs at least 2",
    "rollout.group_size=1": "needs at least 2",
    "rollout.group_size=1000000000": "the limit is",
    "rollout.prompts_per_step=100000000": "the limit is",
    "seed=-1": "at least 0",
    "seed=99999999999999999999999": "must be below",
    "learner.adam_betas=[nan, 0.9]": "finite number",
    "learner.adam_betas=[.nan, 0.9]": "finite number",
    "learner.adam_betas=[0.9]": "needs 2 entries",
    "learner.adam_betas=[2, 3]": "at most 1",
    "rollout.temperature=0": "at least 0.01",
    "rollout.temperature=1e-300": "at least 0.01",
    "model.tiny.hidden_size=1000000": "at most 1,000,000,000 are built",
    "model.tiny.layers=100000": "at most 1,000,000,000 are built",
    "model.tiny.hidden_size=7": "not divisible by heads",
    "model.tiny.characters=": "must be distinct and not empty",
    "model.tiny.characters=aa": "must be distinct and not empty",
    "=1": "no key before the equals sign",
    "a=": "unknown key",
    "learner.lr": "no equals sign",
    "learner..lr=1": "has an empty part",
    "learner.lr.x=1": "is a value",
    "__class__=1": "unknown key",
    'run.trackers=["../../x"]': "must be one of",
    "learner.lr=[[[[[[[": "not valid YAML",
    "learner.lr=!!python/name:os.system": "must be a number",
    "run.keep_checkpoints=0": "at least 1",
    "run.checkpoint_every_steps=-3": "at least 0",
    "reward.verifier_workers=-1": "at least 1",
    "reward.verifier_workers=100000": "at most",
    "reward.verifier_deadline_s=0": "above 0",
    "reward.verifier_deadline_s=nan": "finite number",
    "cold_start.steps=1000000000000": "at most 1000000000",
    "cluster.learners=0": "at least 1",
    "cluster.learners=1000": "each is a process",
    "learner.num_threads=-1": "at least 0",
    "learner.num_threads=100000": "0 lets torch choose",
    "learner.device=banana": "cannot be used",
    "data.train=[]": "needs at least 1 entry",
    "data.train=null": "must be a list",
    "name=\udcff": "half of a surrogate pair",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_bad_override(override: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output = refused(capsys, monkeypatch, "train", "tiny", override, "--dry-run")
    assert OVERRIDES[override] in output
    assert len(output.strip().splitlines()) <= 2


ROW = b'{"prompt": "1:", "reference": "1"}\n'
DATA: dict[str, tuple[bytes, str]] = {
    "empty.jsonl": (b"", "is empty: it has no row"),
    "blank.jsonl": (b"\n\n\n", "is empty: it has no row"),
    "nulls.jsonl": (ROW + b"\x00\x00\n", "nulls.jsonl:2: not JSON"),
    "latin.jsonl": (b'{"prompt": "\xff"}\n', "can't decode byte 0xff"),
    "torn.jsonl": (ROW + b'{"prompt": "2:"', "torn.jsonl:2: not JSON"),
    "list.jsonl": (b"[1, 2]\n", "expected an object, found list"),
    "numbers.jsonl": (b'{"prompt": 1, "reference": 2}\n', "holds int, expected text"),
    "nothing.jsonl": (b'{"prompt": null, "reference": null}\n', "(columns.prompt) is empty"),
    "nan.jsonl": (b'{"prompt": "1:", "reference": NaN}\n', "(columns.reference) is empty"),
    "inf.jsonl": (b'{"prompt": "1:", "reference": 1e999}\n', "holds inf"),
    "digits.jsonl": (b'{"prompt": "1:", "reference": ' + b"9" * 6000 + b"}\n", "4,300 digits"),
    "deep.jsonl": (b'{"prompt": "1:", "x": ' + b"[" * 9999 + b"]" * 9999 + b"}\n", "deeper than"),
    "half.jsonl": (b'{"prompt": "\\ud800:", "reference": "1"}\n', "half of a surrogate pair"),
    "other.jsonl": (b'{"question": "1:", "answer": "1"}\n', "has no column 'prompt'"),
    "mixed.jsonl": (ROW + b'{"prompt": ["a"], "reference": 1}\n', "not of messages with role"),
    "text.json": (b"hello", "not JSON"),
    "object.json": (b'{"a": 1}', "expected a list of objects, found dict"),
    "torn.jsonl.gz": (gzip.compress(GOOD.encode())[:40], "ended before the end-of-stream marker"),
    "plain.jsonl.gz": (b"hello", "Not a gzipped file"),
    "fake.parquet": (b"PAR1" + b"\xff" * 200 + b"PAR1", "as Parquet"),
    "empty.parquet": (b"", "as Parquet"),
    "data.txt": (ROW, "has an unsupported ending"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_bad_data(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = DATA[name]
    Path(name).write_bytes(content)
    Path("r.yaml").write_text(SOUND.replace("good.jsonl", name))
    assert message in refused(capsys, monkeypatch, "train", "r.yaml", "--dry-run")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("a.parquet", {"prompt": [1, 2], "reference": [b"a", b"b"]}, "holds int, expected text"),
        ("b.parquet", {"prompt": [["a"]], "reference": [None]}, "not of messages with role"),
        ("c.parquet", {"prompt": [float("nan")], "reference": ["1"]}, "holds float, expected text"),
        ("d.parquet", {"prompt": ["1"], "reference": [b"\xff"]}, "is not a JSON value"),
    ],
)
def test_bad_columns(
    name: str, columns: dict[str, list[object]], message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pq.write_table(pa.table(columns), name)
    Path("r.yaml").write_text(SOUND.replace("good.jsonl", name))
    assert message in refused(capsys, monkeypatch, "train", "r.yaml", "--dry-run")


CALLS = {
    "trian tiny": "No such command",
    "train": "Missing argument",
    "train nope.yaml": "no recipe 'nope.yaml'",
    "train .": "is a folder, and a recipe is a YAML file",
    "train pipe": "is a named pipe, and a recipe is a YAML file",
    "train tiny --run-dir good.jsonl": "is a file; choose another",
    "train tiny --run-dir /dev/null/x": "cannot be written",
    f"train tiny --run-dir {'a' * 300}": "File name too long",
    "train tiny --run-dir /proc/x": "cannot be written",
    "train tiny --run.steps=2": "keys of a recipe are written without dashes: run.steps=VALUE",
    "train tiny run.steps = 2": "write key=value without spaces",
    "report good.jsonl": "it is a file",
    "train tiny --resume": "there is no runs/latest",
    "train tiny --dry-run --run-dir good.jsonl": "is a file; choose another",
    "train tiny --dry-run --run-dir /dev/null/x": "cannot be written: '/dev/null' is not a folder",
    f"train tiny --dry-run --run-dir {'a' * 300}": "File name too long",
    "train tiny --dry-run --run-dir .": "is not empty and holds no run",
    "train tiny --dry-run --resume": "there is no runs/latest",
    "train tiny --dry-run --resume --run-dir nope": "does not exist",
    "train tiny --resume --run-dir nope": "does not exist",
    "eval nope": "needs --recipe NAME",
    "eval .": "needs --recipe NAME",
    "eval tiny --recipe tiny --samples-per-prompt -1": "greater than or equal to 1",
    "eval tiny --recipe tiny --server file:///etc/passwd": "is not a server URL",
    "report nope": "there is no such folder",
    "verify math --input /dev/zero --output o": "input file '/dev/zero' is a device",
    "verify math --input pipe --output o": "input file 'pipe' is a named pipe",
    "verify math --input folder --output o": "input file 'folder' is a folder",
    "verify math --input good.jsonl --output folder": "cannot be written",
    "verify math --input good.jsonl --output good.jsonl": "are one file",
    "verify math --input good.jsonl --output o --workers -1": "greater than or equal to 1",
    "verify math --input good.jsonl --output o --workers 999999": "verifier workers: each is a",
    "verify math --input good.jsonl --output o --deadline-s nan": "greater than or equal to 0.01",
    "verify math --input good.jsonl --output o --deadline-s inf": "the deadline of one item cannot be inf s",
    "verify code --input good.jsonl --output o --sandbox-setting slots=-1": "slots: Input should",
    "verify code --input good.jsonl --output o --sandbox-setting slots=999999": "slots: Input should",
    "verify code --input good.jsonl --output o --sandbox-setting slots=.nan": "finite number",
    "verifiers show ../../etc/passwd": "is not installed",
    "sandboxes show nope": "is not installed",
    "recipes show ../../etc/passwd": "no recipe",
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call(call: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    assert CALLS[call] in refused(capsys, monkeypatch, *call.split())
