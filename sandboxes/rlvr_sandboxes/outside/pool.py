"""A pool of warm slots: one per core, started on demand, replaced when worn or broken.

    run -> acquire (waits in order when all slots are busy) -> slot -> release -> the next in line

Callers may live in several threads, each with its event loop. Nothing here blocks a loop: starting and stopping boxes
happens in a few threads of the pool. The queue has no bound, because callers wait in it; it is served in order.
"""

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rlvr.errors import SandboxError
from rlvr_sandboxes.outside.slot import GRACE_S, Slot

_log = logging.getLogger(__name__)
_MAX_FAILURES = 3  # consecutive failed starts before waiting callers get an error


@dataclass(slots=True)
class Counters:
    """What happened in a pool since it was made."""

    sessions: int = 0
    started: int = 0
    replaced_worn: int = 0
    replaced_broken: int = 0
    retried_broken: int = 0
    cpu_s: float = 0.0


@dataclass(slots=True)
class _Waiter:
    count: int
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[list[Slot]]" = field(repr=False)


class Pool:
    """`acquire` and `release` slots. Belongs to the process that made it."""

    def __init__(self, make_slot: Callable[[], Slot], *, size: int, recycle_after: int) -> None:
        self.size = size
        self.counters = Counters()
        self._make_slot = make_slot
        self._recycle_after = recycle_after
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._slots: set[Slot] = set()
        self._lent: set[Slot] = set()
        self._num_starting = 0
        self._num_failures = 0
        self._waiters: deque[_Waiter] = deque()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="rlvr-box")
        self._is_closed = False
        self._pid = os.getpid()
        _pools.add(self)

    async def acquire(self, count: int = 1) -> list[Slot]:
        """`count` slots at once, when that many are free and no earlier caller waits.

        Raises: SandboxError when boxes do not start, or after `close`; ValueError for more slots than the pool has.
        """
        if count > self.size:
            raise ValueError(f"{count} slots at once from a pool of {self.size}; raise slots in the sandbox's config")
        loop = asyncio.get_running_loop()
        with self._lock:
            self._check_open()
            if not self._waiters:
                self._drop_dead()
                if len(self._free) >= count:
                    return self._lend(count)
            future: asyncio.Future[list[Slot]] = loop.create_future()
            waiter = _Waiter(count, loop, future)
            self._waiters.append(waiter)
            self._grow()
        try:
            return await future
        except asyncio.CancelledError:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                self._serve()
            if future.done() and not future.cancelled() and future.exception() is None:
                for slot in future.result():
                    self.release(slot)
            raise

    def release(self, slot: Slot) -> None:
        """Gives a slot back; a broken or worn one is replaced. Does nothing for a slot that is not lent."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if slot not in self._lent:
                return
            self._lent.discard(slot)
            slot.give_back()
            is_worn = slot.num_runs >= self._recycle_after
            if not self._is_closed and slot.is_alive() and not is_worn:
                self._free.append(slot)
                self._serve()
                return
            self._retire(slot, broken=not slot.is_alive())

    def abandon(self, slot: Slot) -> None:
        """Gives back a slot whose caller was cancelled: its run is ended first, in a thread."""
        slot.cancel()
        with self._lock:
            if not self._is_closed:
                self._threads.submit(self._drain, slot)
                return
        self.release(slot)

    def close(self) -> None:
        """Ends every box, busy ones too, and waits until they are gone."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            waiters, self._waiters = list(self._waiters), deque()
            slots, self._slots = list(self._slots), set()
            self._free.clear()
        for waiter in waiters:
            _fail(waiter, SandboxError("the sandbox was closed"))
        for slot in slots:
            self._stop(slot)
        self._threads.shutdown(wait=True)

    def forget(self) -> None:
        """In a forked child: lets go of the boxes without touching them."""
        self._is_closed = True
        for slot in self._slots:
            slot.forget()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise SandboxError("this sandbox belongs to another process; make one in each process that uses it")
        if self._is_closed:
            raise SandboxError("the sandbox was closed")

    def _lend(self, count: int) -> list[Slot]:
        """Takes slots. The lock is held, and that many are free."""
        slots = [self._free.pop() for _ in range(count)]
        for slot in slots:
            slot.lend()
        self._lent.update(slots)
        return slots

    def _serve(self) -> None:
        """Hands free slots to those who wait, in order. The lock is held."""
        self._drop_dead()
        while self._waiters and len(self._free) >= self._waiters[0].count:
            waiter = self._waiters.popleft()
            slots = self._lend(waiter.count)
            try:
                waiter.loop.call_soon_threadsafe(self._deliver, waiter, slots)
            except RuntimeError:  # its loop is closed
                for slot in slots:
                    self._lent.discard(slot)
                    slot.give_back()
                self._free += slots
        self._grow()

    def _deliver(self, waiter: _Waiter, slots: list[Slot]) -> None:
        if waiter.future.done():
            for slot in slots:
                self.release(slot)
        else:
            waiter.future.set_result(slots)

    def _drop_dead(self) -> None:
        """Replaces free slots that died while idle. The lock is held."""
        for slot in [slot for slot in self._free if not slot.is_alive()]:
            self._free.remove(slot)
            self._retire(slot, broken=True)

    def _retire(self, slot: Slot, *, broken: bool) -> None:
        """The lock is held."""
        self._slots.discard(slot)
        if broken:
            self.counters.replaced_broken += 1
        else:
            self.counters.replaced_worn += 1
        if self._is_closed:
            return
        self._threads.submit(self._stop, slot)
        self._grow()

    def _grow(self) -> None:
        """Starts boxes while those who wait need more than are free or starting. The lock is held."""
        wanted = sum(waiter.count for waiter in self._waiters)
        while (
            not self._is_closed
            and len(self._slots) + self._num_starting < self.size
            and wanted > len(self._free) + self._num_starting
        ):
            self._num_starting += 1
            self._threads.submit(self._start)

    def _start(self) -> None:
        slot: Slot | None = None
        failure: Exception | None = None
        try:
            slot = self._make_slot()
            slot.start()
        except (SandboxError, OSError) as error:
            failure = error
        with self._lock:
            self._num_starting -= 1
            if failure is None and slot is not None:
                self._num_failures = 0
                self.counters.started += 1
                if not self._is_closed:
                    self._slots.add(slot)
                    self._free.append(slot)
                    self._serve()
                    return
            else:
                self._num_failures += 1
                _log.warning("a sandbox box did not start: %s", failure)
                if self._num_failures >= _MAX_FAILURES and not self._num_starting:
                    self._num_failures = 0
                    self._tell(SandboxError(f"{failure} ({_MAX_FAILURES} tries in a row)"))
                self._grow()
                return
        self._stop(slot)

    def _tell(self, error: SandboxError) -> None:
        """Those who wait for more boxes than live learn why. The lock is held."""
        for waiter in list(self._waiters):
            if waiter.count > len(self._slots):
                self._waiters.remove(waiter)
                _fail(waiter, error)

    def _drain(self, slot: Slot) -> None:
        if not slot.answer_blocking(GRACE_S):
            slot.is_broken = True
        self.release(slot)

    def _stop(self, slot: Slot) -> None:
        try:
            slot.stop()
        except (SandboxError, OSError) as error:
            _log.warning("a sandbox box left something behind: %s", error)


def _fail(waiter: _Waiter, error: SandboxError) -> None:
    def settle() -> None:
        if not waiter.future.done():
            waiter.future.set_exception(error)

    try:
        waiter.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        _log.debug("failed with no caller waiting: %s", error)


_pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()


def _close_all() -> None:
    for pool in list(_pools):
        if not pool.is_closed:
            pool.close()


def _forget_all() -> None:
    for pool in list(_pools):
        pool.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
