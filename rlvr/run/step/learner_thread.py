"""The single thread in which the learner works, which keeps the event loop free for the engine and the verifiers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class LearnerThread:
    """Runs the learner's work, one call after another."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="rlvr-learner")

    async def run(self, function: Callable[[], T]) -> T:
        """Runs the function in the thread and returns its result; the event loop stays free meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def close(self) -> None:
        """Waits for the running call and ends the thread."""
        self._executor.shutdown(wait=True)
