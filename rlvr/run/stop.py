"""Ctrl-C and SIGTERM: the first finishes the step and saves, a second one stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user asked the run to end."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def listen_for_stop(on_first: Callable[[], None]) -> Iterator[StopRequest]:
    """Within it, the first SIGINT or SIGTERM only sets the flag (and calls `on_first`); the second one raises.

    Works in the main thread only; elsewhere it yields a flag that nobody sets.
    """
    stop = StopRequest()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        on_first()

    previous: dict[int, object] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() itself returned
