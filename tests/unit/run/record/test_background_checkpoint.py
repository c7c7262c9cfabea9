"""A checkpoint that learners write while training continues: it counts when it is complete, and its errors surface."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from rlvr.batch import Learner
from rlvr.errors import CheckpointError
from rlvr.run.record.checkpoints import choose_checkpoint
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recorder import Recorder


class SlowLearner:
    """Writes its part at once, and says so when `is_written`; raises `error` instead if there is one."""

    def __init__(self) -> None:
        self.is_written = False
        self.error = ""
        self.num_started = 0

    def start_save(self, folder: Path) -> None:
        self.num_started += 1
        (folder / "part").write_text(str(self.num_started))

    def is_saved(self, *, waits: bool) -> bool:
        if self.error:
            raise CheckpointError(self.error)
        self.is_written |= waits
        return self.is_written


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(
        RunDirectory.create(tmp_path / "run", "tiny"),
        console=Console(),
        sinks=(),
        prompt_text=lambda _: "",
        keep_checkpoints=2,
        show_rollout_every_steps=0,
    )


def save(recorder: Recorder, step: int, learner: SlowLearner, *, waits: bool = False) -> None:
    state = {"stream": {}, "governor": {}}
    recorder.checkpoint(step, learner=cast(Learner, learner), state=state, waits=waits)


def until(is_true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60.0
    while not is_true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in (folder / "run" / "checkpoints").iterdir()}


def test_a_checkpoint_counts_only_when_all_is_written(recorder: Recorder, tmp_path: Path):
    learner = SlowLearner()
    save(recorder, 1, learner)
    assert all(name.endswith(".tmp") for name in names(tmp_path))
    recorder.finish_checkpoint(cast(Learner, learner), waits=False)
    assert choose_checkpoint(RunDirectory(tmp_path / "run")) is None
    learner.is_written = True

    def is_complete() -> bool:
        recorder.finish_checkpoint(cast(Learner, learner), waits=False)
        return names(tmp_path) == {"step_1"}

    until(is_complete)
    chosen = choose_checkpoint(RunDirectory(tmp_path / "run"))
    assert chosen is not None
    assert chosen.has_digests


def test_the_next_checkpoint_completes_the_one_before_and_the_last_one_is_waited_for(
    recorder: Recorder, tmp_path: Path
):
    learner = SlowLearner()
    save(recorder, 1, learner)
    save(recorder, 2, learner, waits=True)
    assert names(tmp_path) == {"step_1", "step_2"}
    assert (tmp_path / "run" / "checkpoints" / "step_1" / "part").read_text() == "1"


def test_an_error_surfaces_at_the_next_look_and_leaves_no_draft(recorder: Recorder, tmp_path: Path):
    learner = SlowLearner()
    save(recorder, 1, learner)
    learner.error = "the disk is full"
    with pytest.raises(CheckpointError, match="the disk is full"):
        recorder.finish_checkpoint(cast(Learner, learner), waits=False)
    assert names(tmp_path) == set()
    recorder.finish_checkpoint(cast(Learner, learner), waits=True)  # it is over


def test_a_restart_drops_what_was_being_written(recorder: Recorder, tmp_path: Path):
    learner = SlowLearner()
    save(recorder, 1, learner)
    recorder.rewind(0, next_issue=0)
    assert names(tmp_path) == set()
    save(recorder, 1, SlowLearner(), waits=True)
    assert names(tmp_path) == {"step_1"}


def test_a_lost_learner_leaves_the_checkpoint_of_which_it_had_written_its_part(recorder: Recorder, tmp_path: Path):
    learner = SlowLearner()
    save(recorder, 1, learner)
    learner.is_written = True
    recorder.finish_checkpoint(cast(Learner, learner), waits=False)  # begins to compute the digests
    recorder.salvage_checkpoint()
    assert names(tmp_path) == {"step_1"}
    save(recorder, 2, SlowLearner())
    recorder.salvage_checkpoint()
    assert names(tmp_path) == {"step_1"}
    recorder.salvage_checkpoint()  # there is none any more
