"""The single thread in which the learner works, which keeps the event loop free for the engine and the verifiers."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Hook = Callable[[], Awaitable[None]]


class LearnerThread:
    """Runs the learner's work, one call after another."""

    def __init__(self, *, before_training: Hook | None = None) -> None:
        """Args: before_training: awaited before each call of `train`, for example to free the devices of engines."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="rlvr-learner")
        self._before_training = before_training

    async def run(self, function: Callable[[], T]) -> T:
        """Runs the function in the thread and returns its result; the event loop stays free meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def train(self, function: Callable[[], T]) -> T:
        """Runs work that computes gradients, after awaiting `before_training`."""
        if self._before_training is not None:
            await self._before_training()
        return await self.run(function)

    def close(self) -> None:
        """Waits for the running call and ends the thread."""
        self._executor.shutdown(wait=True)
