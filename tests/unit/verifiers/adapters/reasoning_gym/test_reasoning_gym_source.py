"""`source: reasoning_gym:TASK`: rows of another interpreter, drawn once; what is refused."""

import logging
from pathlib import Path
from typing import Any

import pytest

from rlvr.config.load import load_recipe
from rlvr.config.recipe import DataConfig, DataSource
from rlvr.data.load import OpenedSource, open_eval, open_train
from rlvr.errors import ConfigError, DataError, PluginError
from rlvr.run.record.inputs import input_digests
from rlvr_verifiers.adapters.reasoning_gym import known_flaws as table
from rlvr_verifiers.adapters.reasoning_gym.known_flaws import KnownFlaws
from rlvr_verifiers.adapters.reasoning_gym.source import cache_folder
from tests.reasoning_gym_table import exploitable


def source(task: str, python: str, /, *, split: str = "train", **settings: Any) -> DataSource:
    given = {"size": 30, "python": python} | settings
    return DataSource(source=f"reasoning_gym:{task}", verifier=f"reasoning_gym:{task}", split=split, settings=given)


def starts(python: str) -> int:
    return len(Path(python).with_name("starts").read_text().splitlines())


def test_a_row_holds_the_question_and_the_entry(gym_python: str):
    opened = OpenedSource(source("grids", gym_python, config={"low": 5}), seed=0)
    assert (opened.name, opened.num_rows) == ("grids", 30)
    prompt = opened.prompt(0)
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert "<answer>" in prompt.messages[0].content
    reference: Any = prompt.checks[0].reference
    assert prompt.messages[1].content == reference["question"]
    assert (reference["task"], reference["config"]) == ("grids", {"low": 5})
    assert reference["metadata"]["cells"]["$tuple"][0].keys() == {"$tuple"}
    assert prompt.tags == {"task": "grids"}


def test_the_system_message_can_be_left_out(gym_python: str):
    prompt = OpenedSource(source("sums", gym_python, instructions="none"), seed=0).prompt(0)
    assert [message.role for message in prompt.messages] == ["user"]


def test_rows_are_drawn_once_and_then_read_from_the_file(gym_python: str):
    first = OpenedSource(source("prints", gym_python), seed=0)
    num_starts = starts(gym_python)
    second = OpenedSource(source("prints", gym_python), seed=0)
    assert first.rows == second.rows
    assert starts(gym_python) == num_starts + 1  # it is only asked for its version
    other = OpenedSource(source("prints", gym_python), seed=1)
    assert other.prompt(0) != first.prompt(0)
    fixed = [OpenedSource(source("prints", gym_python, seed=5), seed=seed).prompt(0) for seed in (0, 1)]
    assert fixed[0] == fixed[1]


def test_a_damaged_file_is_found(gym_python: str):
    OpenedSource(source("sums", gym_python), seed=0)
    [file] = cache_folder().iterdir()
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-5]) + '{"num_rows": 30}\n')
    with pytest.raises(DataError, match="is damaged; remove it"):
        OpenedSource(source("sums", gym_python), seed=0)


def test_train_and_evaluation_share_no_question_and_epochs_are_shuffled(gym_python: str):
    config = DataConfig(train=[source("sums", gym_python)], eval=[source("sums", gym_python, split="test")])
    stream = open_train(config, seed=0)
    epochs = [[stream.take().prompt for _ in range(30)] for _ in range(2)]
    asked = [{prompt.messages[1].content for prompt in epoch} for epoch in epochs]
    assert asked[0] == asked[1]
    assert epochs[0] != epochs[1]
    [evaluation] = open_eval(config, 10, seed=0).values()
    assert not asked[0] & {prompt.messages[1].content for prompt in evaluation}


def test_a_resumed_run_finds_the_same_data_and_notices_other_parameters(gym_python: str):
    recipe = load_recipe("tiny", []).recipe

    def digest(**settings: Any) -> str:
        data = DataConfig(train=[source("sums", gym_python, **settings)])
        found = input_digests(recipe.model_copy(update={"data": data}))
        return found["data.train.0 (reasoning_gym:sums)"]

    first = digest()
    for file in cache_folder().iterdir():
        file.unlink()
    assert digest() == first
    assert digest(config={"high": 50}) != first


def test_a_mixture_names_the_task_of_each_row(gym_python: str):
    tasks = {"sums": {"weight": 2}, "no_gold": {"config": {"high": 50}}}
    opened = OpenedSource(source("composite", gym_python, tasks=tasks), seed=0)
    references: list[Any] = [opened.prompt(index).checks[0].reference for index in range(30)]
    assert {reference["task"] for reference in references} == {"sums", "no_gold"}
    assert all(("config" in reference) == (reference["task"] == "no_gold") for reference in references)


def test_fewer_rows_than_asked_for_are_reported(gym_python: str, caplog: pytest.LogCaptureFixture):
    opened = OpenedSource(source("sums", gym_python, config={"high": 2}), seed=0)
    assert opened.num_rows is not None
    assert 0 < opened.num_rows < 10
    assert "begin to repeat" in caplog.text


@pytest.mark.parametrize(
    ("task", "settings", "error", "message"),
    [
        ("nothing", {}, DataError, "Dataset 'nothing' not registered"),
        ("sums", {"config": {"low": 9, "high": 1}}, DataError, "low must be below high"),
        ("sums", {"sise": 3}, ConfigError, "sise: Extra inputs are not permitted.*Its settings: size, seed"),
        ("sums", {"tasks": {"sums": {}}}, ConfigError, "settings.tasks are for reasoning_gym:composite"),
        ("composite", {}, ConfigError, "needs settings.tasks"),
        ("sums", {"python": "/nowhere/python"}, PluginError, "'/nowhere/python' cannot be run"),
        ("", {}, ConfigError, "nothing follows the scheme"),
    ],
)
def test_what_cannot_be_drawn_says_why(
    gym_python: str, task: str, settings: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        OpenedSource(source(task, gym_python, **settings), seed=0)


def test_an_unknown_split_is_refused(gym_python: str):
    with pytest.raises(ConfigError, match="no split 'training'; it has train, dev, test"):
        OpenedSource(source("sums", gym_python, split="training"), seed=0)


def test_an_interpreter_without_the_package_is_named(gym_python: str, tmp_path: Path):
    script = tmp_path / "bare"
    script.write_text('#!/bin/sh\necho \'{"version": ""}\'\n')
    script.chmod(0o755)
    with pytest.raises(PluginError, match=f"{script} does not have the package"):
        OpenedSource(source("sums", str(script)), seed=0)


def test_an_exploitable_task_is_refused_with_the_reason(gym_python: str, monkeypatch: pytest.MonkeyPatch):
    flaws = KnownFlaws(version="0.1.25", exploitable={"pays_all": "pays for any text"}, remarks={})
    monkeypatch.setattr(table, "known_flaws", lambda: flaws)
    with pytest.raises(PluginError, match=r"pays_all: pays for any text.*allow_exploitable=true"):
        OpenedSource(source("pays_all", gym_python), seed=0)
    tasks = {"sums": {}, "pays_all": {}}
    with pytest.raises(PluginError, match="pays_all: pays for any text"):
        OpenedSource(source("composite", gym_python, tasks=tasks), seed=0)
    assert OpenedSource(source("pays_all", gym_python, allow_exploitable=True), seed=0).num_rows == 30


def test_the_page_of_the_audit_and_the_table_name_the_same_tasks():
    lines = (Path(__file__).parents[5] / "verifiers" / "REASONING_GYM.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines if line.startswith("| ")][1:]
    assert len(cells) == 105
    flaws = table.known_flaws()
    assert {task: why for task, why in cells if why} == dict(flaws.exploitable)
    assert set(flaws.remarks) <= {task for task, _ in cells}


@pytest.mark.parametrize(
    ("attack", "executed", "expected"),
    [
        (
            {"kind": "constants", "name": "'0' in that of the completion", "full_rate": 1.0, "mean": 1.0},
            0,
            "pays in full for '0'",
        ),
        (
            {"kind": "other rows' gold", "name": "another row's", "full_rate": 0.0, "mean": 0.8},
            0,
            "pays 0.80 on average",
        ),
        ({"kind": "mutated gold", "name": "a digit after", "full_rate": 1.0, "mean": 1.0}, 0, ""),
        ({"kind": "constants", "name": "'0'", "full_rate": 0.1, "mean": 0.3}, 0, ""),
        ({"kind": "constants", "name": "'0'", "full_rate": 0.0, "mean": 0.0}, 3, "executes the answer"),
    ],
)
def test_what_of_an_audit_makes_a_task_exploitable(attack: dict[str, Any], executed: int, expected: str):
    found = {"execution": {"executed": executed}, "attacks": [{"rows": 12, "chance": 0.0, **attack}]}
    assert expected in exploitable(found)
    assert bool(exploitable(found)) is bool(expected)


def test_another_version_than_the_audited_one_warns(
    gym_python: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    flaws = KnownFlaws(version="0.1.24", exploitable={}, remarks={})
    monkeypatch.setattr(table, "known_flaws", lambda: flaws)
    with caplog.at_level(logging.WARNING):
        OpenedSource(source("sums", gym_python), seed=0)
    assert "reasoning-gym 0.1.25 is installed, and its scorers were audited in version 0.1.24" in caplog.text
