"""The command line answers wrong calls with a clear line and the right exit code, before anything is made.

One call of each kind has a process of its own, as a user's has; the others share that of the tests.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from rlvr import __version__
from tests.e2e.in_process import command_here

OK = (
    "name: ok\nmodel: {tiny: {}}\nrun: {steps: 1, trackers: []}\n"
    "data: {train: [{source: rows.jsonl, template: plain, verifier: math}]}\n"
)
ROW = '{"prompt": "1+1?", "reference": "2"}\n'
ON_VLLM = ["rollout.engine=vllm", "cluster.backend=ray"]


def rlvr(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a process."""
    command = [sys.executable, "-m", "rlvr.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "rows", "expected"),
    [
        (["run.stepz=1"], ROW, "run.stepz=1: unknown key; did you mean run.steps?"),
        (["rollout.group_size=four"], ROW, "rollout.group_size=four: must be a whole number"),
        (["num_generations=8"], ROW, "did you mean rollout.group_size? num_generations is its name in TRL"),
        (["rollout.group_size=1"], ROW, "needs at least 2; 8 is usual"),
        (["data.train.0.source=gone.jsonl"], ROW, "'gone.jsonl' does not exist"),
        ([], ROW + '{"prompt": "?"}\n', "rows.jsonl:2: "),
        ([], '{"prompt": "?", "reference": "\\\\frac{1}{"}\n', "cannot be read as mathematics"),
        (["model.path=./gone", "model.tiny=null"], ROW, "model.path='./gone': this folder does not exist"),
        ([*ON_VLLM, "rollout.engine_args.dtype=half"], ROW, "dtype cannot be set: set rollout.engine_dtype"),
        (["data.train.0.verifier=mth"], ROW, "Did you mean 'math'?"),
        (["data.train.0.verifier=bad.py:check"], ROW, "No module named 'nonexistent_package'"),
        (["data.train.0.verifier=syntax.py:check"], ROW, "SyntaxError"),
        (["--run-dir", "full"], ROW, "is not empty and holds no run; choose another --run-dir"),
        (["--run-dir", "/proc/nope"], ROW, "cannot be written"),
        (["--resume", "--run-dir", "gone"], ROW, "gone"),
        (["--bogus"], ROW, "No such option: --bogus"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_answered_in_one_message_and_makes_nothing(
    tmp_path: Path, arguments: list[str], rows: str, expected: str
):
    call = ("train", "ok.yaml", *arguments)
    (tmp_path / "ok.yaml").write_text(OK)
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "bad.py").write_text("import nonexistent_package\n")
    (tmp_path / "syntax.py").write_text("def check(:\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "metrics.jsonl").write_text("{}\n")
    before = sorted(tmp_path.rglob("*"))
    in_process = arguments[:1] not in (["run.stepz=1"], ["data.train.0.verifier=bad.py:check"], ["--bogus"])
    code, output = command_here(*call, cwd=tmp_path) if in_process else rlvr(tmp_path, *call)
    assert code == 2, output
    assert expected in output
    assert "Traceback" not in output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [
    ["eval", "gone/model", "--recipe", "tiny"], ["verify", "math", "--input", "gone", "--output", "o"],
    ["verify", "math"], ["report", "gone"], ["recipes", "show", "gone"], ["verifiers", "show", "gone"], ["gone"],
])  # fmt: skip
def test_other_commands_refuse_with_exit_code_2(tmp_path: Path, arguments: list[str]):
    code, output = command_here(*arguments, cwd=tmp_path)
    assert code == 2, output
    assert "Traceback" not in output


def test_listings_and_the_skeleton_work(tmp_path: Path):
    for arguments in (["recipes"], ["recipes", "show", "tiny"], ["verifiers"], ["verifiers", "show", "math"]):
        code, output = command_here(*arguments, cwd=tmp_path)
        assert code == 0, output
        assert "tiny" in output or "math" in output
    assert command_here("verifiers", "new", "mine", cwd=tmp_path)[0] == 0
    assert command_here("verifiers", "show", "mine.py:mine", cwd=tmp_path)[0] == 0
    assert command_here("verifiers", "new", "mine", cwd=tmp_path)[0] == 2
    assert rlvr(tmp_path, "doctor")[0] == 0


def test_the_version_and_a_keys_meaning_are_printed(tmp_path: Path):
    assert rlvr(tmp_path, "--version") == (0, f"rlvr {__version__}\n")
    code, output = command_here("recipes", "explain", "rollout.group_size", cwd=tmp_path)
    assert code == 0, output
    assert "Completions per prompt" in output
    assert command_here("recipes", "explain", "rollout.grp_size", cwd=tmp_path)[0] == 2


def test_a_malformed_row_is_answered_and_ends_with_exit_code_1(tmp_path: Path):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "completion": "\\\\boxed{2}", "reference": "2"}\n{"id": "b"\n')
    code, output = rlvr(tmp_path, "verify", "math", "--input", "in.jsonl", "--output", "out.jsonl")
    assert code == 1, output
    rows = (tmp_path / "out.jsonl").read_text().splitlines()
    assert '"PASS"' in rows[0]
    assert '"ERROR"' in rows[1]
    assert "line 2" in rows[1]


def test_a_file_named_like_a_standard_module_changes_nothing_and_a_module_of_ones_own_is_found(tmp_path: Path):
    for name in ("math", "random", "json", "queue"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
    (tmp_path / "helper.py").write_text("import random\ngold = '2'\n")
    (tmp_path / "my_checks.py").write_text(
        "from helper import gold\nfrom rlvr.plugin import verifier\n\n"
        "@verifier(version='1')\ndef same(text: str, reference: str) -> bool:\n    return text == gold == reference\n"
    )
    (tmp_path / "in.jsonl").write_text('{"completion": "2", "reference": "2"}\n')
    for name in ("math", "my_checks:same", "my_checks.py:same"):
        command = [
            sys.executable,
            "-P",
            "-m",
            "rlvr.cli",
            "verify",
            name,
            "--input",
            "in.jsonl",
            "--output",
            "out.jsonl",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"PASS"' in (tmp_path / "out.jsonl").read_text()
