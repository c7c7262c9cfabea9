"""Recipes that are too deep, too large or hold no sane number: one message, in little time and memory."""

import os
import tracemalloc
from pathlib import Path

import pytest

from rlvr.config.document.overrides import parse_settings
from rlvr.config.load import load_recipe
from rlvr.config.sections.bounds import MAX_DEPTH, MAX_PROBLEMS, MAX_VALUES
from rlvr.errors import ConfigError
from rlvr.storage.input_files import other_kind
from tests.unit.config.recipe_cases import ALIASES

SOUND = """name: x
model: {tiny: {layers: 2, hidden_size: 32, characters: "0123456789:"}}
data:
  train:
    - {source: "generator:sort_digits", template: plain, verifier: text_match}
run: {steps: 1}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fault(text: str | bytes, *overrides: str) -> str:
    Path("r.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_recipe("r.yaml", overrides)
    return str(caught.value)


def test_aliases_that_multiply_are_refused_before_they_are_written_out() -> None:
    tracemalloc.start()
    message = fault(ALIASES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"the recipe has more than {MAX_VALUES:,} values" in message
    assert message.startswith("r.yaml:4: a3.")
    assert peak < 30e6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 20000 + "]" * 20000, f"values nest deeper than {MAX_DEPTH} levels"),
        ("".join(" " * i + f"a{i}:\n" for i in range(500)), "line 32: not valid YAML: values nest"),
        ("{a: " * 5000 + "1" + "}" * 5000, "values nest deeper"),
        ("a: [" + "x, " * 100_000 + "x]", f"there are more than {MAX_VALUES:,} values"),
        ("# " + "x" * (1 << 20), "r.yaml is longer than 1,048,576 bytes"),
        (SOUND.replace("steps: 1", "steps: 1" + "0" * 5000), "a number of 5,001 digits is too long"),
        ('name: "\\ud800"\n' + SOUND[8:], "r.yaml:1: name: '\\ud800' is half of a surrogate pair"),
        ('name: "\\UFFFFFFFF"\n', "not valid YAML"),
        (b"name: x\nb: \xff\n", "r.yaml is not UTF-8 text (byte 11, line 2)"),
        (SOUND + "learner: {lr: 1e999}\n", "r.yaml:7: learner.lr: must be a finite number"),
        (
            SOUND.replace("text_match", "text_match, verifier_settings: {x: [1, .nan]}"),
            "r.yaml:5: data.train.0.verifier_settings.x.1: must be a finite number (got nan)",
        ),
        (SOUND.replace('"generator:sort_digits"', '""'), "source is empty: name a file"),
        (SOUND.replace("layers: 2", "layers: 100000"), "at most 1,000,000,000 are built"),
    ],
)  # fmt: skip
def test_values_beyond_the_bounds_are_reported(text: str | bytes, message: str) -> None:
    assert message in fault(text)


def test_very_many_problems_are_not_all_listed() -> None:
    unknown = fault(SOUND + "".join(f"k{i}: 1\n" for i in range(1000)))
    assert len(unknown.splitlines()) == MAX_PROBLEMS + 1
    assert "and 900 more problems" in unknown
    twice = fault(SOUND + "name: x\n" * 1000)
    assert len(twice.splitlines()) == MAX_PROBLEMS + 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.lr=inf", "must be a finite number"),
        ("learner.lr=nan", "must be a finite number"),
        ("learner.lr=1e999", "must be a finite number"),
        ("learner.max_grad_norm=.inf", "must be a finite number"),
        ("rollout.engine_args.x=.inf", "must be a finite number"),
        ("rollout.temperature=1e-300", "must be at least 0.01"),
        ("reward.verifier_deadline_s=1e300", "must be at most 10000000.0"),
        ("run.steps=99999999999999999999", "must be at most 1000000000"),
        ("seed=99999999999999999999", "must be below 9223372036854775808"),
        ("run.steps=" + "9" * 5000, "a number of 5,000 digits is too long"),
        ("rollout.group_size=1000000000", "8,000,000,000 completions per step; the limit is 4,194,304"),
        ("data.train.²=1", "name one by its position"),
        ("data.train." + "9" * 5000 + "=1", "name one by its position"),
        ("a." * 5000 + "a=1", "the key has 5,001 parts"),
        ("name=\udcff", "half of a surrogate pair"),
    ],
)  # fmt: skip
def test_an_override_with_an_absurd_value_is_reported(override: str, message: str) -> None:
    found = fault(SOUND, override)
    assert message in found
    assert len(found.splitlines()) == 1


def test_settings_of_the_command_line_are_finite_too() -> None:
    for pair in ("x=.nan", "x=1e999", "x=[1, .inf]", "x=" + "9" * 5000):
        with pytest.raises(ConfigError, match=r"finite number|5,000 digits"):
            parse_settings([pair])


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a device", "File name too long"])
def test_the_error_says_what_a_recipe_path_is_if_not_a_file(kind: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    name = {"a folder": "folder", "a named pipe": "pipe", "a device": "/dev/zero"}
    with pytest.raises(ConfigError, match=f"is .*{kind}.*and a recipe is a YAML file") as caught:
        load_recipe(name.get(kind, "x" * 5000))
    assert len(str(caught.value)) < 1000


def test_a_dangling_link_is_reported() -> None:
    Path("link").symlink_to("gone")
    assert other_kind(Path("link")) == "a broken link"
    assert other_kind(Path("gone")) == ""


def test_a_byte_order_mark_is_read_over() -> None:
    Path("r.yaml").write_bytes(b"\xef\xbb\xbf" + SOUND.encode())
    assert load_recipe("r.yaml").recipe.name == "x"
