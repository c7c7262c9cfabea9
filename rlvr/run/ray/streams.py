"""The actor's side of a stream: results are sent as they come, all that are ready in one message."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def in_bunches(source: AsyncIterator[T]) -> AsyncIterator[list[T]]:
    """Everything that `source` has yielded since the last bunch, whenever that is something.

    The reader of bunches wakes the source's reader never: they run side by side, and the queue between them holds at
    most what one call was asked for.
    """
    queue: asyncio.Queue[T | BaseException | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async for item in source:
                queue.put_nowait(item)
            queue.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - handed to the reader, which raises it
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
