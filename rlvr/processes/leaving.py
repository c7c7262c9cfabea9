"""What a supervised fleet knows of members that leave: the nodes that are drained, and the ends that are under way."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class DrainedNodes:
    """The nodes that are drained, and when each of them ends."""

    def __init__(self) -> None:
        self._ends_at: dict[str, float | None] = {}

    def __contains__(self, node: str) -> bool:
        """Whether the node is drained."""
        return node in self._ends_at

    def add(self, node: str, *, within_s: float | None) -> None:
        """Args: within_s: seconds until what is on the node must have left it; None: there is no limit."""
        self._ends_at[node] = None if within_s is None else time.monotonic() + within_s

    def remaining_s(self, node: str) -> float | None:
        """Seconds until what is on a drained node must have left it, at least 0; None if there is no limit."""
        ends_at = self._ends_at[node]
        return None if ends_at is None else max(0.0, ends_at - time.monotonic())


class Endings:
    """Ends of members that go on in the background. One that fails is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, ending: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Ends a member in the background."""
        task = asyncio.create_task(ending)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait(self) -> None:
        """Returns when none is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("a process was not ended in order: %s: %s", type(error).__name__, error)
