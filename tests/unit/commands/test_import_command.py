"""`rlvr import`: what it prints and writes, and its exit codes."""

import json
import sys
from pathlib import Path

import pytest

from rlvr import cli
from rlvr.commands.import_config.arguments import TRAINERS, complete_trainer
from rlvr.config.load import load_recipe
from rlvr.imports import table

CONFIG = "learning_rate: 2e-6\nper_device_train_batch_size: 8\nmodel_name_or_path: m\nlogging_steps: 1\nbeta: 0.1\n"


def rlvr(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rlvr", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grpo.yaml").write_text(CONFIG, encoding="utf-8")


def test_without_an_output_file_the_recipe_is_standard_output_and_the_report_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlvr(monkeypatch, "import", "trl", "grpo.yaml", "num_processes=4") == 0
    said = capsys.readouterr()
    Path("recipe.yaml").write_text(said.out, encoding="utf-8")
    recipe = load_recipe("recipe.yaml").recipe
    assert (recipe.learner.lr, recipe.rollout.prompts_per_step) == (2e-6, 4)
    assert "lr: 2.0e-06  # grpo.yaml:1 learning_rate" in said.out
    titles = [line for line in said.err.splitlines() if line and not line.startswith(" ")]
    assert [title.partition(" (")[0] for title in titles] == [
        "taken over exactly",
        "taken over with a difference in meaning",
        "not taken over",
        "to do by hand",
    ]
    assert "logging_steps=1" in said.err


def test_an_output_file_is_written_once_and_the_report_is_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlvr(monkeypatch, "import", "trl", "grpo.yaml", "--output", "mine.yaml") == 0
    said = capsys.readouterr()
    assert "use_bias_correction_kl=true (default)" in said.out
    assert "rlvr check mine.yaml" in said.out
    assert load_recipe("mine.yaml").recipe.algorithm.kl_coef == 0.1
    before = Path("mine.yaml").read_text(encoding="utf-8")
    assert rlvr(monkeypatch, "import", "trl", "grpo.yaml", "learning_rate=1", "--output", "mine.yaml") == 2
    assert "mine.yaml exists" in capsys.readouterr().err
    assert Path("mine.yaml").read_text(encoding="utf-8") == before


def test_the_json_report_has_every_key_and_the_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlvr(monkeypatch, "import", "trl", "grpo.yaml", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    keys = [entry["key"] for group in ("exactly", "differently", "not") for entry in report[group] if entry["place"]]
    assert sorted(keys) == sorted(line.partition(":")[0] for line in CONFIG.splitlines())
    assert report["exactly"][0]["recipe"]
    assert report["recipe"].startswith("# Imported from grpo.yaml, a configuration of TRL")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trl", "missing.yaml"), "missing.yaml"),
        (("trl", "grpo.yaml", "no pair"), "command line: 'no pair' is no key=value"),
        (("verl", "grpo.yaml"), "try `rlvr import trl grpo.yaml`"),
        (("trl", "grpo.yaml", "--output", "missing/mine.yaml"), "there is no folder"),
        (("trl",), "Missing argument"),
    ],
)
def test_a_wrong_call_has_exit_code_2(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rlvr(monkeypatch, "import", *arguments) == 2
    assert message in capsys.readouterr().err


def test_the_shell_completes_the_trainers() -> None:
    assert set(TRAINERS) == set(table.TRAINERS)
    assert complete_trainer("") == list(TRAINERS)
    assert complete_trainer("p") == ["prime-rl"]
