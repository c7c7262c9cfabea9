"""A program that answers framed messages: descriptors 3 and 4 of the program, one slot, until it is closed."""

import _thread
import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable, Generator

from rlvr.errors import SandboxError
from rlvr.protocols import RunResult
from rlvr_sandboxes.outside.request import Output, Request
from rlvr_sandboxes.outside.slot import GRACE_S, Slot, readable, writable

MAX_FRAME = 32 * 2**20
_CHUNK = 1 << 18


class FramedPipes:
    """The pipes of a session, as the side that is not the program uses them.

    Reads and writes go straight to the pipes; only a full or an empty pipe costs a turn of the event loop.

    Args:
        to_program, from_program: descriptors, which belong to this object from here on and do not block.
        end: on the monotonic clock, after which `send` no longer waits for a program that does not read.
    """

    def __init__(self, to_program: int, from_program: int, *, end: float) -> None:
        self.descriptors = (to_program, from_program)
        self._end = end
        self._received = bytearray()
        self._is_ended = False  # no more frames come
        for descriptor in self.descriptors:
            os.set_blocking(descriptor, False)

    async def send(self, frame: bytes) -> None:
        """Raises EOFError when the program ended or no longer reads, ValueError above 32 MiB."""
        if len(frame) > MAX_FRAME:
            raise ValueError(f"a frame of {len(frame)} bytes; at most {MAX_FRAME}")
        view = memoryview(struct.pack(">I", len(frame)) + frame)
        while view:
            try:
                view = view[os.write(self._open(0), view) :]
            except BlockingIOError:
                left = self._end - time.monotonic()
                if left <= 0:
                    raise EOFError("the program did not read until its wall limit") from None
                with contextlib.suppress(TimeoutError):
                    await writable(self._open(0), left)
            except BrokenPipeError as error:
                raise EOFError("the program ended before it read the frame") from error

    async def receive(self, timeout_s: float) -> bytes:
        """One frame. Raises TimeoutError, EOFError (also within a frame), ValueError for a length above 32 MiB."""
        end = time.monotonic() + timeout_s
        while True:
            if len(self._received) >= 4:
                (length,) = struct.unpack_from(">I", self._received)
                if length > MAX_FRAME:
                    raise ValueError(f"a frame of {length} bytes; at most {MAX_FRAME}")
                if len(self._received) >= 4 + length:
                    frame = bytes(self._received[4 : 4 + length])
                    del self._received[: 4 + length]
                    return frame
            if self._is_ended:
                raise EOFError("the program ended without an answer")
            try:
                chunk = os.read(self._open(1), _CHUNK)
            except BlockingIOError:
                await readable(self._open(1), end - time.monotonic())
                continue
            if chunk:
                self._received += chunk
            else:
                self._is_ended = True

    def close(self) -> None:
        """Closes the descriptors. May be called twice."""
        close_pipes(self.take())

    def take(self) -> tuple[int, int]:
        """The descriptors, which are the caller's from here on; `send` and `receive` then raise EOFError."""
        descriptors, self.descriptors = self.descriptors, (-1, -1)
        return descriptors

    def _open(self, index: int) -> int:
        if self.descriptors[index] < 0:
            raise EOFError("the session is closed")
        return self.descriptors[index]


class BoxSession:
    """Implements rlvr.protocols.SandboxSession on one slot; `release(slot)` is called exactly once."""

    def __init__(self, slot: Slot, request: Request, release: Callable[[Slot], None]) -> None:
        """Starts the program. Raises BrokenBoxError or OSError, and then the slot is the caller's again."""
        self._slot = slot
        self._request = request
        self._release = release
        self._is_over = True  # nothing is held: no descriptor, no slot
        self._result: RunResult | None = None
        self._failure: SandboxError | None = None
        self._closing: asyncio.Lock | None = None
        with contextlib.ExitStack() as stack:
            output = self._output = Output.create(b"")
            stack.callback(output.close)
            program_reads, to_program = os.pipe()
            with _closing(program_reads):
                closing = stack.enter_context(contextlib.ExitStack())
                closing.callback(os.close, to_program)
                from_program, program_writes = os.pipe()
                closing.callback(os.close, from_program)
                with _closing(program_writes):
                    end = time.monotonic() + request.limits.longest_s
                    self._pipes = FramedPipes(to_program, from_program, end=end)
                    closing.pop_all()
                    stack.callback(self._pipes.close)
                    standard = (output.stdin, output.stdout, output.stderr)
                    slot.begin(request, (*standard, program_reads, program_writes))
            stack.pop_all()
        self._is_over = False

    async def send(self, frame: bytes) -> None:
        """Raises EOFError when the program ended or no longer reads, ValueError above 32 MiB."""
        await self._pipes.send(frame)

    async def receive(self, timeout_s: float) -> bytes:
        """One frame. Raises TimeoutError, EOFError (also within a frame), ValueError for a length above 32 MiB."""
        return await self._pipes.receive(timeout_s)

    def take_pipes(self) -> tuple[int, int]:
        """The descriptors to and from the program, for a caller that reads and writes in another process.

        They are the caller's from here on; only `close` is left to this object.
        """
        return self._pipes.take()

    async def close(self) -> RunResult:
        """Ends the program and says how it had ended; -9 when it was still running."""
        if self._closing is None:
            self._closing = asyncio.Lock()
        async with self._closing:
            if not self._is_over:
                await self._finish()
        if self._result is None:
            raise self._failure or SandboxError("the session was abandoned")
        return self._result

    async def _finish(self) -> None:
        """Called once; whatever happens, the descriptors are closed and the slot is given back."""
        slot = self._slot
        self._pipes.close()
        try:
            slot.cancel()
            answer = await slot.answer(GRACE_S)
            self._result = slot.result(answer, self._output, self._request.limits)
        except SandboxError as error:
            if slot.was_out_of_memory():
                self._result = RunResult(exit_code=-9, stdout=b"", stderr=b"", seconds=0.0, out_of_memory=True)
            else:
                self._failure = error
        except BaseException:
            slot.is_broken = True
            raise
        finally:
            self._is_over = True
            self._output.close()
            self._release(slot)

    def abandon(self) -> None:
        """Gives everything back without waiting for the program; its box ends with it."""
        if self._is_over:
            return
        self._is_over = True
        self._pipes.close()
        self._output.close()
        self._slot.is_broken = True
        self._release(self._slot)

    def __del__(self) -> None:
        """A session that was never closed must not keep its slot or its program.

        In a thread of its own: the collector may call this anywhere, also where the pool's lock is held.
        """
        if not getattr(self, "_is_over", True):
            self._is_over = True
            _thread.start_new_thread(_let_go, (self._parts(),))

    def _parts(self) -> tuple[Slot, Output, tuple[int, int], Callable[[Slot], None]]:
        return self._slot, self._output, self._pipes.take(), self._release


def _let_go(parts: tuple[Slot, Output, tuple[int, int], Callable[[Slot], None]]) -> None:
    """What `abandon` does, for a session that is gone."""
    slot, output, pipes, release = parts
    close_pipes(pipes)
    output.close()
    slot.is_broken = True
    release(slot)


@contextlib.contextmanager
def _closing(descriptor: int) -> Generator[None]:
    try:
        yield
    finally:
        os.close(descriptor)


def close_pipes(descriptors: tuple[int, int]) -> None:
    """Closes those that are open."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
