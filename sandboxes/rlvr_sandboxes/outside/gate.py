"""A counter of free slots that callers of any thread and event loop wait for, first come first served."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Waiter:
    wanted: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    has_slots: bool = False


class SlotGate:
    """At most `slots` at a time. Whoever wants several takes them at once, so that no two callers block each other."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = slots
        self._queue: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    async def acquire(self, wanted: int = 1) -> None:
        """Waits until `wanted` slots are free; a `release` wakes it.

        Raises: ValueError when there are fewer slots than that.
        """
        if wanted > self.slots:
            raise ValueError(f"{wanted} slots are wanted at once, but there are {self.slots}")
        loop = asyncio.get_running_loop()
        waiter = _Waiter(wanted, loop, loop.create_future())
        with self._lock:
            self._queue.append(waiter)
            self._serve()
        try:
            await waiter.future
        except asyncio.CancelledError:
            with self._lock:
                if waiter.has_slots:
                    self._free += wanted
                else:
                    self._queue.remove(waiter)
                self._serve()
            raise

    def release(self, number: int = 1) -> None:
        """Gives slots back."""
        with self._lock:
            self._free += number
            self._serve()

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[None]:
        """One slot for as long as the block runs."""
        await self.acquire()
        try:
            yield
        finally:
            self.release()

    def _serve(self) -> None:
        while self._queue and self._queue[0].wanted <= self._free:
            waiter = self._queue.popleft()
            self._free -= waiter.wanted
            waiter.has_slots = True
            try:
                waiter.loop.call_soon_threadsafe(_wake, waiter.future)
            except RuntimeError:  # its loop was closed: the caller is gone
                self._free += waiter.wanted


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
