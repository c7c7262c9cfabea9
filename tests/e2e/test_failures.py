"""Failures inside the loop reach the user; nothing waits forever."""

import sqlite3
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.errors import RolloutError
from rlvr.run.launch import local
from rlvr.run.launch.preflight import opened
from rlvr.run.launch.request import RunRequest
from rlvr.run.record.console import Console
from rlvr.run.record.directory import open_directory
from rlvr.run.record.recorder import Recorder

SMALL = ["cold_start.steps=0", "rollout.prompts_per_step=2", "rollout.group_size=2", "run.steps=3", "run.trackers=[]"]


def train(folder: Path, *changes: str) -> None:
    loaded = load_recipe("tiny", [*SMALL, *changes])
    with opened(loaded.recipe) as (service, data):
        directory = open_directory(folder / "run", recipe_name="tiny", resume=False)
        local.train(RunRequest(loaded=loaded, service=service, data=data, directory=directory, console=Console()))


def test_a_ledger_that_cannot_be_written_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    issued = Recorder.issued

    def full_disk(self: Recorder, index: int, *rest: object) -> None:
        if index == 3:
            raise sqlite3.OperationalError("disk is full")
        issued(self, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Recorder, "issued", full_disk)
    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        train(tmp_path, "data.eval=[]")


@pytest.mark.parametrize("evaluation", [[], ["data.eval=[]"]])
def test_an_engine_that_fails_is_one_error_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluation: list[str]
):
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no room for the cache")

    monkeypatch.setattr("rlvr.rollout.transformers_engine.decode_rows", broken)
    with pytest.raises(RolloutError, match="no room for the cache"):
        train(tmp_path, *evaluation)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "no room for the cache" in events
