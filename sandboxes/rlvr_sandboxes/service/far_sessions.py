"""Sessions of the sandbox service as its client sees them: their pipes are here, their programs are not."""

import _thread
import asyncio
import time
from collections.abc import Callable

from rlvr.errors import SandboxError
from rlvr.protocols import Program, RunResult
from rlvr_sandboxes.outside.session import FramedPipes
from rlvr_sandboxes.service import messages, wire
from rlvr_sandboxes.service.messages import CallError
from rlvr_sandboxes.service.wire import LOST, Wire


class Group:
    """The connection of sessions that were opened together; it goes back when the last of them is closed."""

    def __init__(self, connection: Wire, count: int, release: Callable[..., None]) -> None:
        self._release = release
        self._connection = connection
        self._num_open = count
        self._is_good = True
        self._closing = asyncio.Lock()

    async def close_one(self, index: int) -> RunResult:
        """Ends one session. Raises SandboxError when the service or its box broke."""
        try:
            async with self._closing:
                if not self._is_good:
                    raise EOFError("the connection was lost")
                frame, descriptors = await self._connection.call({"op": "close", "index": index})
                wire.close_all(descriptors)
                return messages.read_result(frame)
        except CallError as error:
            raise error.error from None
        except LOST as error:
            self._is_good = False
            raise SandboxError(f"the sandbox service was lost during a session ({error})") from error
        except BaseException:  # cancelled within an answer
            self._is_good = False
            raise
        finally:
            self._let_go()

    def abandon(self) -> None:
        """Gives up one session without its result."""
        self._is_good = False
        self._let_go()

    def _let_go(self) -> None:
        self._num_open -= 1
        if self._num_open == 0:
            self._release(is_good=self._is_good)


class FarSession:
    """Implements rlvr.protocols.SandboxSession: the program's pipes are here, its process is in the service."""

    def __init__(self, group: Group, index: int, pair: tuple[int, int, Program]) -> None:
        to_program, from_program, program = pair
        self._group = group
        self._index = index
        self._pipes = FramedPipes(to_program, from_program, end=time.monotonic() + program.limits.longest_s)
        self._closing: asyncio.Future[RunResult] | None = None

    async def send(self, frame: bytes) -> None:
        """Sends one frame. Raises EOFError when the program ended or no longer reads, ValueError above 32 MiB."""
        await self._pipes.send(frame)

    async def receive(self, timeout_s: float) -> bytes:
        """One frame. Raises TimeoutError, EOFError (also within a frame), ValueError for a length above 32 MiB."""
        return await self._pipes.receive(timeout_s)

    async def close(self) -> RunResult:
        """Ends the program and returns how it ended; -9 if it was still running."""
        if self._closing is None:
            self._pipes.close()
            self._closing = asyncio.ensure_future(self._group.close_one(self._index))
        return await asyncio.shield(self._closing)

    def __del__(self) -> None:
        """A session that was never closed must not keep its program: its connection ends.

        In a thread of its own: the collector may call this anywhere, also where a lock is held.
        """
        if getattr(self, "_closing", True) is None:
            self._pipes.close()
            _thread.start_new_thread(self._group.abandon, ())
