"""Stops a run on request, and enforces it.

    first Ctrl-C    the current step is finished and saved
    SIGTERM         the same, within `run.grace_s`; a step that takes longer is dropped
    second Ctrl-C   the current step is dropped; after `run.grace_s` the process ends, whatever still runs
    third Ctrl-C    ends at once
    run.max_hours   same as the first Ctrl-C

Dropping a step loses only that step: the newest checkpoint is complete whenever the process ends. Python runs signal
handlers between two instructions of the main thread, so a long library call would delay them; deadlines are therefore
enforced by a separate thread, which the kernel notifies of signals through a pipe.
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
_RESERVE_S = 5.0  # of the grace period, for closing after a step was dropped
_RESERVE_SHARE = 0.25  # of the grace period, if that is less
_SHOW_CURSOR = b"\x1b[?25h"


class Demand(Enum):
    """What a signal asks for."""

    FINISH = auto()
    FINISH_IN_TIME = auto()
    DROP = auto()
    END = auto()


class Demands:
    """Maps each signal to a demand, given the earlier ones.

    >>> demands = Demands()
    >>> [demands.of(signal.SIGINT).name for _ in range(3)]
    ['FINISH', 'DROP', 'END']
    """

    def __init__(self) -> None:
        self._num_interrupts = 0

    def of(self, number: int) -> Demand:
        """The demand of one more signal; a SIGTERM counts as the first Ctrl-C if there was none."""
        if number == signal.SIGTERM:
            self._num_interrupts = max(1, self._num_interrupts)
            return Demand.FINISH_IN_TIME
        self._num_interrupts += 1
        return {1: Demand.FINISH, 2: Demand.DROP}.get(self._num_interrupts, Demand.END)


class StopRequest:
    """A request to end the run after the current step, or to drop that step."""

    def __init__(self, max_hours: float | None = None) -> None:
        """Args: max_hours: time limit from now; None: no limit."""
        self._max_hours = max_hours
        self._until = float("inf") if max_hours is None else time.monotonic() + 3600 * max_hours
        self._was_asked = False
        self._drop: Callable[[], None] | None = None
        self.is_dropped = False

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._was_asked

    @property
    def is_due(self) -> bool:
        """Whether the run ends after this step: a stop was requested, or the time is up."""
        return self._was_asked or time.monotonic() >= self._until

    @property
    def reason(self) -> str:
        """Why it is due; begins a sentence."""
        return "stopped" if self._was_asked else f"run.max_hours={self._max_hours} is up: stopped"

    def ask(self) -> None:
        """Requests that the run ends after the current step."""
        self._was_asked = True

    def drop(self) -> bool:
        """Drops the current step; False if there is none to drop yet. Call from any thread."""
        self._was_asked = self.is_dropped = True
        if self._drop is not None:
            self._drop()
        return self._drop is not None

    @contextmanager
    def droppable(self) -> Iterator[None]:
        """Context in which `drop` cancels the current task."""
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
    except RuntimeError:  # the loop has ended already
        return


@contextmanager
def listen_for_stop(
    *, grace_s: float, max_hours: float | None, note: Callable[[str], None], final_message: Callable[[], str]
) -> Iterator[StopRequest]:
    """Context in which SIGINT and SIGTERM act as the module docstring says. Raises KeyboardInterrupt for a second
    Ctrl-C before there is a step to drop.

    Works in the main thread only; elsewhere signals are ignored.

    Args:
        note: shows a line on the console.
        final_message: the text printed when the process ends at once.
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

    enforcer = _Enforcer(stop, grace_s=grace_s, final_message=final_message)
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        enforcer.close()


class _Enforcer:
    """Ends the process if it does not end by itself in time."""

    def __init__(self, stop: StopRequest, *, grace_s: float, final_message: Callable[[], str]) -> None:
        self._stop = stop
        self._grace_s = grace_s
        self._final_message = final_message
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
                    self._apply(demands.of(number))
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
        return os.read(self._reader, 64) if select.select([self._reader], [], [], wait_s)[0] else b""

    def _apply(self, demand: Demand) -> None:
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
        """Ends the process without waiting for its threads; children end with it."""
        try:
            if os.isatty(1):
                os.write(1, _SHOW_CURSOR)
            os.write(2, f"rlvr: {self._final_message()}\n".encode())
        finally:
            os._exit(EXIT_CODE)
