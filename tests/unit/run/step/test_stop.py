"""What signals ask of a run, and that it ends in time whatever its main thread is doing."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlvr.run.record.directory import RunDirectory
from rlvr.run.step.stop import Demand, Demands, StopRequest, listen_for_stop

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(("signals", "demands"), [
    ((INT, INT, INT), (Demand.FINISH, Demand.DROP, Demand.END)),
    ((TERM, INT, INT), (Demand.FINISH_IN_TIME, Demand.DROP, Demand.END)),
    ((INT, TERM, TERM), (Demand.FINISH, Demand.FINISH_IN_TIME, Demand.FINISH_IN_TIME)),
])  # fmt: skip
def test_each_signal_asks_for_more(signals: tuple[int, ...], demands: tuple[Demand, ...]):
    found = Demands()
    assert tuple(found.of(number) for number in signals) == demands


def test_the_time_makes_a_stop_due_but_nobody_has_asked():
    stop = StopRequest(max_hours=1e-12)
    assert stop.is_due
    assert not stop.requested
    assert "run.max_hours=1e-12 is up" in stop.reason
    assert not StopRequest(max_hours=1000).is_due
    assert not StopRequest().is_due


def listening(grace_s: float, notes: list[str]):
    return listen_for_stop(grace_s=grace_s, max_hours=None, note=notes.append, final_message=lambda: "goodbye")


def test_the_second_interrupt_cancels_the_task_that_can_be_dropped():
    notes: list[str] = []

    async def work(stop: StopRequest) -> None:
        with stop.droppable():
            os.kill(os.getpid(), INT)
            await asyncio.sleep(0)
            assert stop.requested
            os.kill(os.getpid(), INT)
            await asyncio.sleep(1000)

    before = signal.getsignal(INT)
    with listening(1000, notes) as stop:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(work(stop))
        assert stop.is_dropped
    assert [note.split()[0] for note in notes] == ["stopping", "dropping"]
    assert signal.getsignal(INT) is before
    assert not any(thread.name == "rlvr-stop" for thread in threading.enumerate())


def test_the_second_interrupt_before_there_is_a_step_is_raised():
    with listening(1000, []):
        os.kill(os.getpid(), INT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), INT)


STUCK = """
import asyncio, ctypes, os, signal, sys
from rlvr.run.step.stop import listen_for_stop

async def work(stop):
    with stop.droppable():
        for name in sys.argv[2:]:
            os.kill(os.getpid(), getattr(signal, name))
        while True:  # in a library, and the event loop never gets to cancel anything
            ctypes.CDLL(None).sleep(1000)

with listen_for_stop(grace_s=float(sys.argv[1]), max_hours=None, note=print, final_message=lambda: "goodbye") as stop:
    asyncio.run(work(stop))
"""


@pytest.mark.parametrize(("grace_s", "signals"), [
    ("0.2", ["SIGTERM"]), ("1000", ["SIGINT", "SIGTERM", "SIGINT", "SIGINT"]),
])  # fmt: skip
def test_a_process_that_is_stuck_ends_when_the_grace_is_over_or_at_the_third_interrupt(
    grace_s: str, signals: list[str]
):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", STUCK, grace_s, *signals],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "rlvr: goodbye"


def test_the_last_line_names_the_newest_whole_checkpoint_and_how_to_go_on(tmp_path: Path):
    directory = RunDirectory.create(tmp_path / "my run", "x")
    assert "there is no checkpoint yet; continue with: rlvr train" in directory.resume_hint()
    directory.checkpoint(3).mkdir()
    (directory.checkpoint(3) / "complete.json").touch()
    directory.checkpoint(4).mkdir()  # torn
    assert directory.resume_hint("stopped after step 4") == (
        f"stopped after step 4; the newest checkpoint is {directory.checkpoint(3)}; continue with: rlvr train "
        f"'{directory.recipe}' --run-dir '{directory.path}' --resume"
    )
