"""Frames: how a process of ours talks to a child over pipes. JSON and, where needed, bytes; never pickle.

    frame = 8 bytes: size of the body | 8 bytes: size of the blob | body: a JSON object in ASCII | blob

ASCII keeps lone surrogates intact, and nan and infinity pass. Each side builds its own messages on top: verdicts in
`rlvr.verification.wire`, tensors in `rlvr.learner.ranks.frames`.

>>> data = bytearray(encode({"op": "ready"}) + encode({"op": "rows"}, b"123"))
>>> take_frame(data), take_frame(data), take_frame(data)
(Frame(body={'op': 'ready'}, blob=b''), Frame(body={'op': 'rows'}, blob=b'123'), None)
"""

import json
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HEADER = struct.Struct(">QQ")
_MAX_BODY_BYTES = 1 << 30
_MAX_BLOB_BYTES = 1 << 40
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    body: Mapping[str, Any]
    blob: bytes = b""


def encode(body: Mapping[str, Any], blob: bytes = b"") -> bytes:
    """The bytes of a frame. Raises TypeError or ValueError for values that JSON cannot hold."""
    text = json.dumps(body, separators=(",", ":")).encode("ascii")
    return _HEADER.pack(len(text), len(blob)) + text + blob


def take_frame(
    buffer: bytearray, *, max_body_bytes: int = _MAX_BODY_BYTES, max_blob_bytes: int = _MAX_BLOB_BYTES
) -> Frame | None:
    """The first whole frame, removed from the buffer; None while it is incomplete.

    Raises: ValueError on bytes that are not a frame, and on sizes above the limits before the frame has arrived.
    """
    if len(buffer) < _HEADER.size:
        return None
    body_size, blob_size = _HEADER.unpack_from(buffer)
    if body_size > max_body_bytes or blob_size > max_blob_bytes:
        raise ValueError(f"a frame of {body_size + blob_size} bytes is above the limit")
    middle = _HEADER.size + body_size
    end = middle + blob_size
    if len(buffer) < end:
        return None
    with memoryview(buffer) as view:
        body = json.loads(bytes(view[_HEADER.size : middle]))
        blob = bytes(view[middle:end])
    del buffer[:end]
    if not isinstance(body, dict):
        raise ValueError(f"a frame holds a {type(body).__name__}, not an object")
    return Frame(body, blob)


class ParentPipe:
    """The child's end of the pipes to its parent; `send` is safe from any thread, `receive` for one thread."""

    def __init__(self) -> None:
        """Takes over standard input and output: from now on input is empty, and what anyone prints goes to standard
        error, so that it cannot break a frame.
        """
        self._fd_in, self._fd_out = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._incoming = bytearray()
        self._sending = threading.RLock()  # an import while a frame is written may itself send one

    @property
    def descriptor(self) -> int:
        """The descriptor from which `receive` reads."""
        return self._fd_in

    def close(self) -> None:
        """Closes the pipes, in a fork that must not use them."""
        os.close(self._fd_in)
        os.close(self._fd_out)

    def send(self, data: bytes) -> None:
        """Writes an encoded frame. Raises BrokenPipeError when the parent is gone."""
        with self._sending:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd_out, rest) :]

    def receive(self) -> Frame | None:
        """The parent's next frame; waits for it. None when the parent has closed the pipe or is gone."""
        while (frame := take_frame(self._incoming)) is None:
            data = os.read(self._fd_in, _READ_BYTES)
            if not data:
                return None
            self._incoming += data
        return frame
