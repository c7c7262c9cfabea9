"""Resumes that do not train from a checkpoint: there is none yet, or it is the last one."""

import logging
from typing import Protocol

from rlvr.records import Json
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.journal import EventsFile, MetricsFile, read_line
from rlvr.run.record.recorder import Recorder
from rlvr.run.record.resume import BEFORE_EVERYTHING, Resume

logger = logging.getLogger(__name__)


class Record(Protocol):
    """Writes an event."""

    def __call__(self, kind: str, **fields: Json) -> None: ...


def warn(record: Record, text: str) -> None:
    """Reports damage on standard error and in events.jsonl."""
    logger.warning("%s", text)
    record("resume_warning", message=text)


def start_over(recorder: Recorder) -> None:
    """Starts a run over that saved no checkpoint: its metrics, rollouts and ledger are discarded, its events stay."""
    recorder.remark(
        "start_over",
        "the run ended before it saved a checkpoint, so it starts over from the first step "
        "(run.checkpoint_every_steps sets how much can be lost)",
    )
    recorder.rewind(BEFORE_EVERYTHING, next_issue=0)


def finish_trained(directory: RunDirectory, last: Resume, *, console: Console) -> None:
    """Finishes a run that has its last checkpoint: that step's row is written, but `done` may not be recorded."""
    was_done = _is_done(directory, last.step)
    events = EventsFile(directory.events)
    metrics = MetricsFile(directory.metrics)
    try:
        metrics.truncate_after(last.step)
        for warning in last.warnings:
            warn(events.write, warning)
        if not was_done:
            events.write("done", step=last.step, seconds=round(float(last.state["elapsed_s"]), 1))
    finally:
        metrics.close()
        events.close()
    console.note(
        f"{directory.path} is at step {last.step}, as run.steps asks for: there is nothing left to train; to continue, "
        f"raise it, for example run.steps={2 * last.step}"
    )
    console.note(f"done  {directory.path}")


def _is_done(directory: RunDirectory, step: int) -> bool:
    if not directory.events.is_file():
        return False
    rows = (read_line(line) for line in directory.events.read_bytes().split(b"\n"))
    return any(row and row.get("kind") == "done" and row.get("step") == step for row in rows)
