"""How a run is asked to end, and that it does.

    first Ctrl-C    the step that runs is finished and saved
    SIGTERM         the same, within `run.grace_s`; a step that takes longer is dropped
    second Ctrl-C   the step that runs is dropped; what still runs after `run.grace_s` is left where it is
    third Ctrl-C    ends at once
    run.max_hours   as the first Ctrl-C

To drop a step loses no more than that step: the newest checkpoint is whole whenever the process ends. Python runs
signal handlers between two instructions of the main thread, so a long call into a library would put them off; what must
end in time is therefore left to a thread of its own, which the kernel tells of signals through a pipe.
"""

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from types import FrameType

EXIT_CODE = 130
_RESERVE_S = 5.0  # of the grace, for what has to be closed after a step was dropped
_RESERVE_SHARE = 0.25  # of the grace, where that is less
_SHOW_CURSOR = b"\x1b[?25h"


class Demand(Enum):
    """What a signal asks for."""

    FINISH = auto()
    FINISH_IN_TIME = auto()
    DROP = auto()
    END = auto()


class Demands:
    """What each signal asks for, given those before it.

    >>> demands = Demands()
    >>> [demands.of(signal.SIGINT).name for _ in range(3)]
    ['FINISH', 'DROP', 'END']
    """

    def __init__(self) -> None:
        self._num_interrupts = 0

    def of(self, number: int) -> Demand:
        """The demand of one more signal; a SIGTERM counts as the first Ctrl-C where there was none."""
        if number == signal.SIGTERM:
            self._num_interrupts = max(1, self._num_interrupts)
            return Demand.FINISH_IN_TIME
        self._num_interrupts += 1
        return {1: Demand.FINISH, 2: Demand.DROP}.get(self._num_interrupts, Demand.END)


class StopRequest:
    """Whether the run should end after the step that runs, or drop it."""

    def __init__(self, max_hours: float | None = None) -> None:
        """Args: max_hours: from now on; None: no limit."""
        self._max_hours = max_hours
        self._until = float("inf") if max_hours is None else time.monotonic() + 3600 * max_hours
        self._was_asked = False
        self._drop: Callable[[], None] | None = None
        self.is_dropped = False

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self._was_asked

    @property
    def is_due(self) -> bool:
        """Whether the run ends after this step: somebody asked, or the time is over."""
        return self._was_asked or time.monotonic() >= self._until

    @property
    def reason(self) -> str:
        """Why it is due: the beginning of a sentence."""
        return "stopped" if self._was_asked else f"run.max_hours={self._max_hours} is over: stopped"

    def ask(self) -> None:
        """The run ends after the step that runs."""
        self._was_asked = True

    def drop(self) -> bool:
        """The step that runs is dropped; False where there is none to drop yet. From any thread."""
        self._was_asked = self.is_dropped = True
        if self._drop is not None:
            self._drop()
        return self._drop is not None

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Within it, `drop` cancels the task that runs."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._drop = lambda: _cancel(loop, task)
        try:
            yield
        finally:
            self._drop = None


def _cancel(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[object]") -> None:
    try:
        loop.call_soon_threadsafe(task.cancel)
    except RuntimeError:  # the loop has ended meanwhile
        return


@contextmanager
def listen_for_stop(
    *,
    grace_s: float,
    max_hours: float | None,
    note: Callable[[str], None],
    last_words: Callable[[], str],
) -> Iterator[StopRequest]:
    """Within it, SIGINT and SIGTERM do what the top of this module says. Raises KeyboardInterrupt for a second Ctrl-C
    before there is a step that could be dropped.

    Works in the main thread only; elsewhere nobody listens.

    Args:
        note: tells the person at the console.
        last_words: what a process says that has to end at once.
    """
    stop = StopRequest(max_hours)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    demands = Demands()

    def handle(number: int, _frame: FrameType | None) -> None:
        demand = demands.of(number)
        if demand is Demand.DROP:
            note("dropping this step; once more to end at once")
            if not stop.drop():
                raise KeyboardInterrupt
        elif demand is not Demand.END:
            stop.ask()
            limit = f", in {grace_s:g} s at most" if demand is Demand.FINISH_IN_TIME else ""
            note(f"stopping after this step{limit}; Ctrl-C drops the step")

    enforcer = _Enforcer(stop, grace_s=grace_s, last_words=last_words)
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        enforcer.close()


class _Enforcer:
    """Ends the process where it does not end by itself in time."""

    def __init__(self, stop: StopRequest, *, grace_s: float, last_words: Callable[[], str]) -> None:
        self._stop = stop
        self._grace_s = grace_s
        self._last_words = last_words
        self._drop_at = self._end_at = float("inf")
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="rlvr-stop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        signal.set_wakeup_fd(self._before)
        self._is_closed = True
        os.write(self._writer, b"\0")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _run(self) -> None:
        demands = Demands()
        while not self._is_closed:
            for number in self._signals():
                if number in (signal.SIGINT, signal.SIGTERM):
                    self._heed(demands.of(number))
            if self._is_closed:
                return
            if time.monotonic() >= self._end_at:
                self._end()
            if time.monotonic() >= self._drop_at:
                self._drop_at = float("inf")
                self._stop.drop()

    def _signals(self) -> bytes:
        """The numbers of the signals that arrive until the next deadline."""
        until = min(self._drop_at, self._end_at)
        wait_s = None if until == float("inf") else max(0.0, until - time.monotonic())
        return (
            os.read(self._reader, 64) if select.select([self._reader], [], [], wait_s)[0] else b""
        )

    def _heed(self, demand: Demand) -> None:
        now = time.monotonic()
        if demand is Demand.END:
            self._end()
        elif demand is Demand.DROP:
            self._end_at = min(self._end_at, now + self._grace_s)
        elif demand is Demand.FINISH_IN_TIME:
            self._end_at = min(self._end_at, now + self._grace_s)
            reserve_s = min(_RESERVE_S, _RESERVE_SHARE * self._grace_s)
            self._drop_at = min(self._drop_at, self._end_at - reserve_s)

    def _end(self) -> None:
        """Ends the process without a look at its threads, which may be anywhere; children end with it."""
        try:
            if os.isatty(1):
                os.write(1, _SHOW_CURSOR)
            os.write(2, f"rlvr: {self._last_words()}\n".encode())
        finally:
            os._exit(EXIT_CODE)
