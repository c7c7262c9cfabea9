"""Every wait of a run has an owner, a component waited for, and a deadline; on timeout the error names both.

    with board.wait("the run", on="engine-1", what="16 requests", deadline_s=60): ...

When a deadline passes, `WaitExpired` carries the table of all open waits and the stacks of this process and, if it
answers, of the process waited for. `Sentinel` is the last resort: a thread that ends the process when a wait is overdue
and was not handled (the event loop itself is stuck).
"""

import itertools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rlvr.errors import RlvrError

OVERDUE_S = 60.0  # a wait should have raised by this long after its deadline
_MAX_STACK_LINES = 40


class WaitExpired(RlvrError):  # noqa: N818 - names the event
    """A component did not answer by its deadline; the message names it and the component that waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`owner` waits for `on` to do `what`, since `since` (monotonic), until `deadline_s` later."""

    owner: str
    on: str
    what: str
    deadline_s: float
    since: float = field(default_factory=time.monotonic)

    @property
    def waited_s(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self.since

    def __str__(self) -> str:
        return (
            f"{self.owner} has waited for {self.on} ({self.what}) for {self.waited_s:.1f} s, "
            f"deadline {self.deadline_s:g} s"
        )


class WaitBoard:
    """The open waits of a process; safe to use from several threads."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, Wait] = {}

    @contextmanager
    def wait(self, owner: str, *, on: str, what: str, deadline_s: float) -> Iterator[Wait]:
        """Context in which the wait is listed."""
        number = next(self._numbers)
        self._open[number] = entry = Wait(owner=owner, on=on, what=what, deadline_s=deadline_s)
        try:
            yield entry
        finally:
            del self._open[number]

    @property
    def waits(self) -> tuple[Wait, ...]:
        """The open waits, oldest first."""
        return tuple(sorted(self._open.copy().values(), key=lambda wait: wait.since))

    def expired(self, wait: Wait, *, stacks: str = "") -> WaitExpired:
        """The error of a wait whose deadline passed. Args: stacks: of the process waited for, if it answered."""
        others = "\n  ".join(str(other) for other in self.waits if other is not wait)
        lines = [f"{wait}: no answer in time"]
        if others:
            lines.append(f"also open:\n  {others}")
        lines.append(f"stacks of {wait.on}:\n{stacks or '  (it does not answer: hung or frozen)'}")
        lines.append(f"stacks of this process:\n{stacks_here()}")
        return WaitExpired("\n".join(lines))


def stacks_here() -> str:
    """The stack of every thread of this process, innermost frames last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts: list[str] = []
    for ident, frame in sys._current_frames().items():
        lines = "".join(traceback.format_stack(frame)).splitlines()[-_MAX_STACK_LINES:]
        parts.append(f"  thread {names.get(ident, ident)}:\n" + "\n".join(f"  {s}" for s in lines))
    return f"  process {os.getpid()}\n" + "\n".join(parts)


class Sentinel:
    """Ends the process when a wait is `OVERDUE_S` past its deadline."""

    def __init__(
        self, board: WaitBoard, *, end: Callable[[str], None], overdue_s: float = OVERDUE_S, every_s: float = 1.0
    ) -> None:
        """Args: end: called once with the report; it should not return."""
        self._board = board
        self._end = end
        self._overdue_s = overdue_s
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rlvr-sentinel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            late = [w for w in self._board.waits if w.waited_s > w.deadline_s + self._overdue_s]
            if late:
                self._end(str(self._board.expired(late[0])))
                return


def end_process(report: str) -> None:
    """Prints the report on stderr and ends this process with exit code 1, whatever its threads do."""
    os.write(2, f"rlvr: {report}\n".encode())
    os._exit(1)
