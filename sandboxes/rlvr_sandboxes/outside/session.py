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


class BoxSession:
    """Implements rlvr.protocols.SandboxSession on one slot; `release(slot)` is called exactly once.

    Reads and writes go straight to the pipes; only a full or an empty pipe costs a turn of the event loop.
    """

    def __init__(self, slot: Slot, request: Request, release: Callable[[Slot], None]) -> None:
        """Starts the program. Raises BrokenBoxError or OSError, and then the slot is the caller's again."""
        self._slot = slot
        self._request = request
        self._release = release
        self._received = bytearray()
        self._is_ended = False  # no more frames come
        self._is_over = True  # nothing is held: no descriptor, no slot
        self._result: RunResult | None = None
        self._failure: SandboxError | None = None
        self._closing: asyncio.Lock | None = None
        self._to_program = self._from_program = -1
        with contextlib.ExitStack() as stack:
            output = self._output = Output.create(b"")
            stack.callback(output.close)
            stack.callback(self._close_pipes)
            program_reads, self._to_program = os.pipe()
            with _closing(program_reads):
                self._from_program, program_writes = os.pipe()
                with _closing(program_writes):
                    os.set_blocking(self._to_program, False)
                    os.set_blocking(self._from_program, False)
                    standard = (output.stdin, output.stdout, output.stderr)
                    self._end = time.monotonic() + request.limits.longest_s
                    slot.begin(request, (*standard, program_reads, program_writes))
            stack.pop_all()
        self._is_over = False

    async def send(self, frame: bytes) -> None:
        """Raises EOFError when the program ended or no longer reads, ValueError above 32 MiB."""
        if len(frame) > MAX_FRAME:
            raise ValueError(f"a frame of {len(frame)} bytes; at most {MAX_FRAME}")
        view = memoryview(struct.pack(">I", len(frame)) + frame)
        while view:
            try:
                view = view[os.write(self._open(self._to_program), view) :]
            except BlockingIOError:
                left = self._end - time.monotonic()
                if left <= 0:
                    raise EOFError("the program did not read until its wall limit") from None
                with contextlib.suppress(TimeoutError):
                    await writable(self._to_program, left)
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
                chunk = os.read(self._open(self._from_program), _CHUNK)
            except BlockingIOError:
                await readable(self._from_program, end - time.monotonic())
                continue
            if chunk:
                self._received += chunk
            else:
                self._is_ended = True

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
        self._close_pipes()
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
        self._close_pipes()
        self._output.close()
        self._slot.is_broken = True
        self._release(self._slot)

    def _open(self, descriptor: int) -> int:
        if descriptor < 0:
            raise EOFError("the session is closed")
        return descriptor

    def _close_pipes(self) -> None:
        descriptors = (self._to_program, self._from_program)
        self._to_program = self._from_program = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)

    def __del__(self) -> None:
        """A session that was never closed must not keep its slot or its program.

        In a thread of its own: the collector may call this anywhere, also where the pool's lock is held.
        """
        if not getattr(self, "_is_over", True):
            self._is_over = True
            _thread.start_new_thread(_let_go, (self._parts(),))

    def _parts(self) -> tuple[Slot, Output, tuple[int, int], Callable[[Slot], None]]:
        pipes = (self._to_program, self._from_program)
        return self._slot, self._output, pipes, self._release


def _let_go(parts: tuple[Slot, Output, tuple[int, int], Callable[[Slot], None]]) -> None:
    """What `abandon` does, for a session that is gone."""
    slot, output, pipes, release = parts
    for descriptor in pipes:
        if descriptor >= 0:
            os.close(descriptor)
    output.close()
    slot.is_broken = True
    release(slot)


@contextlib.contextmanager
def _closing(descriptor: int) -> Generator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
