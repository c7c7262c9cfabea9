"""The actor's side of a stream: results are sent as they finish, all that are ready in one message."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from rlvr.errors import RlvrError

T = TypeVar("T")


async def in_bunches(source: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    """Yields everything that `source` yielded since the last bunch, whenever there is anything.

    The source is read concurrently, whether or not bunches are read; the queue in between holds at most one call's
    results.
    """
    queue: asyncio.Queue[T | BaseException | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async for item in source:
                queue.put_nowait(item)
            queue.put_nowait(None)
        except asyncio.CancelledError:  # also one of the source's own, for which the reader must not wait
            queue.put_nowait(RlvrError("what a stream reads from was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - passed to the reader, which raises it
            queue.put_nowait(error)

    pumping = asyncio.create_task(pump())
    try:
        while True:
            items = [await queue.get()]
            while not queue.empty():
                items.append(queue.get_nowait())
            bunch = [i for i in items if i is not None and not isinstance(i, BaseException)]
            if bunch:
                yield bunch
            last = items[-1]
            if isinstance(last, BaseException):
                raise last
            if last is None:
                return
    finally:
        pumping.cancel()
