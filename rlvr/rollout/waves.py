"""Batches all open requests of an in-process engine into waves, which run one after another in one thread.

    generate() x N --(this turn of the event loop)--> pending --flush--> wave --thread--> completions --> each caller

A caller waits for its own completions; the thread wakes it for each. Requests that arrive in one turn of the loop form
one wave, in the order of arrival, so the composition of a batch does not depend on timing. While a wave runs, later
requests wait for the next one (the queue is bounded by what the sampler admits).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from rlvr.errors import RolloutError
from rlvr.protocols import GenerationRequest
from rlvr.records import Completion

T = TypeVar("T")
Emit = Callable[[Completion], None]
RunWave = Callable[[Sequence[GenerationRequest], Emit], None]


@dataclass(slots=True)
class _Caller:
    requests: Sequence[GenerationRequest]
    queue: "asyncio.Queue[Completion | BaseException]" = field(default_factory=asyncio.Queue)


class WaveScheduler:
    """Owns the engine's thread. `run_wave` is called in it, one wave at a time."""

    def __init__(self, run_wave: RunWave, *, name: str) -> None:
        self._run_wave = run_wave
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: list[_Caller] = []
        self.num_open = 0
        self._closed = False

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes. Raises RolloutError when the wave failed or the engine is closed."""
        if self._closed:
            raise RolloutError("the engine is closed")
        if not requests:
            return
        loop = asyncio.get_running_loop()
        caller = _Caller(requests)
        if not self._pending:
            loop.call_soon(self._flush, loop)
        self._pending.append(caller)
        num_open = len(requests)
        self.num_open += num_open
        try:
            for _ in requests:
                item = await caller.queue.get()
                if isinstance(item, BaseException):
                    raise RolloutError(f"generation failed: {type(item).__name__}: {item}") from item
                num_open -= 1
                self.num_open -= 1
                yield item
        finally:
            self.num_open -= num_open  # of a caller that was cancelled, or whose wave failed

    async def call(self, function: Callable[[], T]) -> T:
        """Runs `function` in the engine's thread, after the waves before it. Raises RolloutError if it is closed."""
        if self._closed:
            raise RolloutError("the engine is closed")
        running = self._thread.submit(function)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and (task is None or not task.cancelling()):
                raise RolloutError("the engine was closed") from None
            raise

    def close(self) -> None:
        """Waits for the running wave and ends the thread."""
        self._closed = True
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        callers, self._pending = self._pending, []
        owner = {request.request_id: caller for caller in callers for request in caller.requests}
        wave = [request for caller in callers for request in caller.requests]

        def emit(completion: Completion) -> None:
            caller = owner[completion.completion_id]
            loop.call_soon_threadsafe(caller.queue.put_nowait, completion)

        def cancelled(wave: "Future[None]") -> None:
            if wave.cancelled():
                for caller in callers:
                    caller.queue.put_nowait(RolloutError("the engine was closed"))

        def work() -> None:
            try:
                if len(owner) != len(wave):
                    raise ValueError("two open requests share a request_id")
                self._run_wave(wave, emit)
            except BaseException as error:  # noqa: BLE001 - thread boundary; each caller re-raises it
                for caller in callers:
                    loop.call_soon_threadsafe(caller.queue.put_nowait, error)

        if self._closed:
            error = RolloutError("the engine was closed")
            for caller in callers:
                caller.queue.put_nowait(error)
            return
        self._thread.submit(work).add_done_callback(cancelled)
