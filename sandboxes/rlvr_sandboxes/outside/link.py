"""One supervised run seen from outside: a process that speaks the messages of `supervised`, read by one thread."""

import base64
import json
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult

MAX_FRAME_BYTES = 32 << 20
_MAX_UNREAD_BYTES = MAX_FRAME_BYTES + (1 << 20)
_CHUNK = 65536
_GRACE_S = 15.0  # beyond the wall limit, for the supervisor to start, clean up and answer


def check_call(program: Sequence[str], files: Mapping[str, bytes]) -> None:
    """Raises ValueError for an empty argv, and for a file name that leaves the working directory."""
    if not program:
        raise ValueError("the program is an empty argv; give at least its name")
    for name in files:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\0" in name or name == ".":
            raise ValueError(f"file name {name!r} must be relative and stay in the working folder")


class Link:
    """A supervisor process and its one run. All methods block; call them in a thread.

    Args:
        argv: what starts the supervisor.
        environment: of the supervisor; None inherits ours.
        uid: the user that the program runs as; None is the supervisor's.
        folder: where the run's folder is made, as the supervisor sees it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        program: Sequence[str],
        files: Mapping[str, bytes],
        limits: Limits,
        is_session: bool,
        uid: int | None = None,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        check_call(program, files)
        self.limits = limits
        self._frames: deque[bytes] = deque()
        self._partial = bytearray()
        self._num_unread = 0
        self._bad_frame = ""
        self._result: RunResult | None = None
        self._is_over = False
        self._error_text = ""
        self._change = threading.Condition()
        self._write_lock = threading.Lock()
        self._deadline = time.monotonic() + limits.wall_s + _GRACE_S
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"{argv[0]!r} cannot be started: {error}") from error
        self._reader = threading.Thread(target=self._read, name="sandbox-link", daemon=True)
        self._reader.start()
        header = {
            "argv": list(program),
            "files": {name: base64.b64encode(data).decode() for name, data in files.items()},
            "limits": {
                "wall_s": limits.wall_s,
                "cpu_s": limits.cpu_s or limits.wall_s + 1.0,
                "memory_mb": limits.memory_mb,
                "pids": limits.pids,
                "output_bytes": limits.output_bytes,
                "stderr_bytes": limits.stderr_bytes,
                "file_bytes": limits.file_bytes,
            },
            "session": is_session,
            "uid": uid,
            "folder": folder,
        }
        self._message(b"H", json.dumps(header).encode())

    def write(self, data: bytes) -> None:
        """Bytes for the program. Raises EOFError when it has ended."""
        for start in range(0, len(data), _CHUNK):
            if self._is_over or not self._message(b"I", data[start : start + _CHUNK]):
                raise EOFError("the program has ended")

    def end_input(self) -> None:
        """No more bytes; a session's program is killed."""
        self._message(b"C", b"")

    def receive(self, timeout_s: float) -> bytes:
        """One frame. Raises TimeoutError, EOFError at the program's end, ValueError for a frame that is too large."""
        with self._change:
            is_there = self._change.wait_for(
                lambda: bool(self._frames) or bool(self._bad_frame) or self._is_over, timeout_s
            )
            if self._frames:
                frame = self._frames.popleft()
                self._num_unread -= 4 + len(frame)
                self._change.notify_all()
                return frame
            if self._bad_frame:
                raise ValueError(self._bad_frame)
            if is_there:
                raise EOFError("the program has ended")
            raise TimeoutError(f"no frame in {timeout_s:g} s")

    def wait(self) -> RunResult:
        """Waits for the end of the run. Raises SandboxError when the supervisor died or does not answer."""
        with self._change:
            self._change.wait_for(lambda: self._is_over, max(0.0, self._deadline - time.monotonic()))
        self.kill()
        if self._result is None:
            raise SandboxError(
                f"the supervisor ended without a result ({self._process.returncode}): "
                f"{self._error_text or 'no message'}"
            )
        return self._result

    def kill(self) -> None:
        """Ends the supervisor and its run, and frees what belongs to them; may be called again."""
        with self._change:
            self._is_over = True
            self._change.notify_all()
        if self._process.poll() is None:
            if self._process.stdin is not None:
                _close(self._process.stdin)  # stops a supervisor in a container, which no kill reaches
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._reader is not threading.current_thread():
            self._reader.join(5.0)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                _close(pipe)

    def _message(self, letter: bytes, data: bytes) -> bool:
        """Whether it could be sent. A full pipe makes it wait: the supervisor reads as fast as the program does."""
        stdin = self._process.stdin
        assert stdin is not None
        with self._write_lock:
            try:
                stdin.write(letter + struct.pack(">I", len(data)) + data)
                stdin.flush()
            except (OSError, ValueError):
                return False
        return True

    def _read(self) -> None:
        stdout, stderr = self._process.stdout, self._process.stderr
        assert stdout is not None
        assert stderr is not None
        parts = {b"O": b"", b"E": b""}
        try:
            while True:
                head = stdout.read(5)
                if len(head) < 5:
                    break
                letter, size = head[:1], struct.unpack(">I", head[1:])[0]
                body = stdout.read(size)
                if len(body) < size:
                    break
                if letter == b"F":
                    self._add_frames(body)
                elif letter == b"R":
                    facts = json.loads(body)
                    self._result = RunResult(stdout=parts[b"O"], stderr=parts[b"E"], **facts)
                    break
                else:
                    parts[letter] = body
            if self._result is None:
                self._error_text = stderr.read(2000).decode("utf-8", "replace").strip()
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._error_text = f"{type(error).__name__}: {error}"
        with self._change:
            self._is_over = True
            self._change.notify_all()

    def _add_frames(self, data: bytes) -> None:
        with self._change:
            self._partial += data
            while not self._bad_frame and len(self._partial) >= 4:
                size = struct.unpack_from(">I", self._partial)[0]
                if size > MAX_FRAME_BYTES:
                    self._bad_frame = f"a frame of {size} bytes; {MAX_FRAME_BYTES} at most"
                elif len(self._partial) < 4 + size:
                    break
                else:
                    self._frames.append(bytes(self._partial[4 : 4 + size]))
                    self._num_unread += 4 + size
                    del self._partial[: 4 + size]
            if self._bad_frame:
                self._partial.clear()
            self._change.notify_all()
            self._change.wait_for(lambda: self._num_unread < _MAX_UNREAD_BYTES or self._is_over)


def _close(pipe: IO[bytes]) -> None:
    """Closes a pipe; what was buffered for a reader that is gone is dropped."""
    try:
        pipe.close()
    except OSError:
        return
