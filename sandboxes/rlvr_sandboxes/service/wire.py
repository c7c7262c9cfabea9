"""One connection of the sandbox service after the handshake: frames both ways, descriptors to the client alone.

The bytes are those of `rlvr.processes.frames`. Sizes are checked before a frame is stored, and a frame that has begun
must be complete within FRAME_S. A `Wire` belongs to no event loop, so that callers of any thread can use one after
another.
"""

import array
import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.errors import SandboxError
from rlvr.processes.frames import Frame, encode, take_frame
from rlvr_sandboxes.outside.slot import readable, writable
from rlvr_sandboxes.service import keys

HANDSHAKE_S = 5.0
FRAME_S = 60.0
BUSY_S = 5.0  # between the signs of life that the server sends while a request waits or runs
SILENCE_S = 60.0  # without a sign of life, after which the client counts the server as lost
MAX_BODY_BYTES = 4 << 20
MAX_BLOB_BYTES = 256 << 20
MAX_DESCRIPTORS = 250  # the kernel passes 253 at once
LOST = (OSError, EOFError, TimeoutError, ValueError)  # a connection that raised one of them is of no use any more
_CHUNK = 1 << 16
_SPACE = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)


class Wire:
    """A connection that is authenticated. Any OSError, EOFError, TimeoutError or ValueError means that it is lost.

    Args:
        is_client: whether descriptors are accepted; the server discards those that it is sent.
    """

    def __init__(self, connection: socket.socket, *, is_client: bool) -> None:
        connection.setblocking(False)
        self.socket = connection
        self.num_preloaded = 0
        self._is_client = is_client
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    async def send(self, body: Mapping[str, Any], blob: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Sends one frame. Raises OSError; TimeoutError when the other side does not read for FRAME_S."""
        view = memoryview(encode(body, blob))
        deadline = time.monotonic() + FRAME_S
        while view:
            try:
                view = view[self._send_some(view, descriptors) :]
            except BlockingIOError:
                await writable(self.socket.fileno(), deadline - time.monotonic())
                continue
            descriptors = ()

    async def receive(self, *, idle_s: float | None = None) -> Frame | None:
        """The next frame; None at the end of the connection between two frames.

        Args: idle_s: seconds until the first byte; None waits for it without limit.

        Raises: TimeoutError, EOFError within a frame, OSError, ValueError for bytes that are not a frame.
        """
        deadline = None if idle_s is None else time.monotonic() + idle_s
        has_begun = False
        while True:
            frame = self._take()
            if frame is not None:
                return frame
            if self._buffer and not has_begun:
                has_begun, deadline = True, time.monotonic() + FRAME_S
            try:
                if not self._receive_some():
                    return self._ended()
            except BlockingIOError:
                await readable(self.socket.fileno(), 1e6 if deadline is None else deadline - time.monotonic())

    async def call(
        self, body: Mapping[str, Any], blob: bytes = b"", *, silence_s: float = SILENCE_S
    ) -> tuple[Frame, list[int]]:
        """The server's answer to a request, and the descriptors that came with it, which are the caller's.

        Raises: what `send` and `receive` raise; EOFError when the server has gone.
        """
        await self.send(body, blob)
        while True:
            frame = await self.receive(idle_s=silence_s)
            if frame is None:
                raise EOFError("the service closed the connection")
            if frame.body.get("op") != "busy":
                return frame, self.take_descriptors()

    def call_blocking(
        self, body: Mapping[str, Any], *, timeout_s: float, skip: Callable[[Frame], bool] | None = None
    ) -> tuple[Frame, list[int]]:
        """As `call`, for threads without an event loop. Raises TimeoutError when there is no answer in time.

        Args: skip: whether a frame is not the answer.
        """
        deadline = time.monotonic() + timeout_s
        self.socket.settimeout(timeout_s)
        self.socket.sendall(encode(body))
        while True:
            frame = self._take()
            if frame is None:
                self.socket.settimeout(max(0.001, deadline - time.monotonic()))
                if not self._receive_some():
                    raise EOFError("the service closed the connection")
            elif frame.body.get("op") != "busy" and not (skip and skip(frame)):
                return frame, self.take_descriptors()

    def poll(self) -> Frame | None:
        """A frame that has arrived; None if none has. Raises EOFError at the end of the connection, OSError."""
        self.socket.setblocking(False)
        while (frame := self._take()) is None:
            try:
                if not self._receive_some():
                    raise EOFError("the connection has ended")
            except BlockingIOError:
                return None
        return frame

    def send_now(self, body: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Sends a short frame from a thread. Raises OSError, also when the other side does not read."""
        self.socket.settimeout(HANDSHAKE_S)
        view = memoryview(encode(body))
        while view:
            view = view[self._send_some(view, descriptors) :]
            descriptors = ()

    def take_descriptors(self) -> list[int]:
        """The descriptors that have arrived; they are the caller's."""
        found, self._descriptors = self._descriptors, []
        return found

    def is_clean(self) -> bool:
        """Whether nothing has arrived that was not asked for, and the other side is still there."""
        try:
            return self.poll() is None and not self._buffer and not self._descriptors
        except (OSError, EOFError, ValueError):
            return False

    def close(self) -> None:
        """Ends the connection, which ends what it holds at the server. May be called twice."""
        close_all(self.take_descriptors())
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # also for a thread that waits for it
        self.socket.close()

    def _take(self) -> Frame | None:
        return take_frame(self._buffer, max_body_bytes=MAX_BODY_BYTES, max_blob_bytes=MAX_BLOB_BYTES)

    def _send_some(self, view: memoryview, descriptors: Sequence[int]) -> int:
        if not descriptors:
            return self.socket.send(view)
        rights = array.array("i", descriptors).tobytes()
        return self.socket.sendmsg([view], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def _receive_some(self) -> bool:
        """Reads what is there; False at the end of the connection."""
        if not self._is_client:
            data = self.socket.recv(_CHUNK)  # the kernel drops descriptors
        else:
            data, ancillary, _, _ = self.socket.recvmsg(_CHUNK, _SPACE, socket.MSG_CMSG_CLOEXEC)
            for level, kind, rights in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    found = array.array("i")
                    found.frombytes(rights[: len(rights) - len(rights) % found.itemsize])
                    self._descriptors += found
        self._buffer += data
        return bool(data)

    def _ended(self) -> None:
        if self._buffer:
            raise EOFError("the connection ended within a frame")


class RefusedError(SandboxError):
    """The service refuses this key, or what listens is not the service: another try would not help."""


def connect(path: str, key: bytes) -> Wire:
    """A connection whose both ends have proved that they have the key.

    Raises: OSError, EOFError, TimeoutError if another try may help; RefusedError.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(HANDSHAKE_S)
        connection.connect(path)
        challenge = _exactly(connection, keys.CHALLENGE_BYTES, least=len(keys.FULL))
        if challenge.startswith(keys.FULL):
            raise ConnectionRefusedError("the service has no connection left")
        if not challenge.startswith(keys.MAGIC) or len(challenge) < keys.CHALLENGE_BYTES:
            raise RefusedError(f"what listens at {path} is not this version's sandbox service")
        theirs, ours = challenge[len(keys.MAGIC) :], keys.new_nonce()
        connection.sendall(ours + keys.proof(key, "client", theirs, ours))
        answer = _exactly(connection, keys.PROOF_BYTES)
        if answer == keys.REFUSED:
            raise RefusedError(f"the sandbox service at {path} refuses the key; both sides must use the same key file")
        if not keys.is_proof(answer, key, "server", theirs, ours):
            raise RefusedError(f"what listens at {path} does not have the key, so nothing is sent to it")
        return Wire(connection, is_client=True)
    except BaseException:
        connection.close()
        raise


def _exactly(connection: socket.socket, size: int, *, least: int = 0) -> bytes:
    """That many bytes, or at least `least` of them when the other side then ends. Raises OSError, EOFError."""
    data = b""
    deadline = time.monotonic() + HANDSHAKE_S
    while len(data) < size:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(size - len(data))
        if not part:
            if least and len(data) >= least:
                return data
            raise EOFError("the service closed the connection during the handshake")
        data += part
    return data


def close_all(descriptors: Sequence[int]) -> None:
    """Closes descriptors that came with a frame."""
    for descriptor in descriptors:
        socket.close(descriptor)
