"""One worker process of the verifier pool and the pipe to it; used by one thread at a time, except
`kill`.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rlvr.verification.wire import MEMORY_EXIT_CODE, take_frame

_READ_BYTES = 1 << 18
_MAX_EXTENSION_S = 60.0
_QUICK_SHARE = (
    0.9  # of its time that an item has left when waiting for a processor begins to be counted
)


class WorkerLost(Exception):  # noqa: N818 - an event that the pool handles, not an error of its own
    """The worker is late or dead; `cause` is "timeout" or "crash"."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerProcess:
    """A running `rlvr.verification.worker_main` in a session of its own; `kill` ends it and all it started."""

    def __init__(self, *, memory_bytes: int) -> None:
        command = [
            sys.executable,
            "-m",
            "rlvr.verification.worker_main",
            str(os.getpid()),
            str(memory_bytes),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to_worker = self._process.stdin
        self._from_worker = self._process.stdout
        for pipe in (self._to_worker, self._from_worker):
            os.set_blocking(pipe.fileno(), False)
        self._kill_lock = threading.Lock()
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self.built: set[str] = set()
        self.num_items = 0

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until the worker has started. Raises WorkerLost."""
        self.receive(timeout_s)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        with self._kill_lock:
            return self._process.poll() is None

    def send(self, data: bytes) -> None:
        """Queues a frame; `receive` writes it, so a worker that does not read cannot block the
        caller.
        """
        self._outgoing += data

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; writes what is queued meanwhile. What has arrived is read before it is
        called late.

        Time that the worker waited for a processor does not count, and each import that it tells of begins the time
        anew; both together add a minute at most.

        Raises: WorkerLost.
        """
        start = time.monotonic()
        deadline, latest = start + timeout_s, start + timeout_s + _MAX_EXTENSION_S
        starved_s: float | None = (
            None  # read once an answer takes a while: reading it costs as much as a quick item
        )
        while True:
            try:
                message = take_frame(self._incoming)
            except ValueError as error:
                raise WorkerLost("crash", f"it broke the protocol: {error}") from error
            if message is not None and message.get("op") == "importing":
                deadline = min(time.monotonic() + timeout_s, latest)
                continue
            if message is not None:
                return message
            left = deadline - time.monotonic()
            if starved_s is None and left <= _QUICK_SHARE * timeout_s:
                starved_s = self._starved_s()
            if starved_s is not None and left <= 0.0:
                before, starved_s = starved_s, self._starved_s()
                deadline = min(deadline + max(0.0, starved_s - before), latest)
                left = deadline - time.monotonic()
            until = left if starved_s is not None else left - _QUICK_SHARE * timeout_s
            try:
                is_idle = not self._pump(max(until, 0.0))
            except OSError as error:
                raise WorkerLost("crash", f"its pipe broke: {error}") from error
            if left <= (0.0 if is_idle else -1.0):
                raise WorkerLost("timeout", f"no answer within {timeout_s:g} s")

    def kill(self) -> str:
        """Kills the process and all that it started, and reaps it; returns how it ended. Any thread
        may call.

        A process that is already ending keeps its own exit code: the signal comes too late to
        change it.
        """
        with self._kill_lock:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            return _describe(self._process.wait())

    def close_pipes(self) -> None:
        """Frees the descriptors; only for the thread that uses them."""
        for pipe in (self._to_worker, self._from_worker):
            with contextlib.suppress(OSError):
                pipe.close()

    def _starved_s(self) -> float:
        """Seconds that the worker's threads were ready and had no processor, those of the thread that waited most."""
        found = 0.0
        for file in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found = max(found, int(file.read_text().split()[1]) / 1e9)
        return found

    def _pump(self, timeout_s: float) -> bool:
        """Waits for the pipe and moves bytes; False when nothing moved in time. Raises WorkerLost
        at its end.
        """
        poller = select.poll()
        poller.register(self._from_worker.fileno(), select.POLLIN)
        if self._outgoing:
            poller.register(self._to_worker.fileno(), select.POLLOUT)
        moved = False
        for fd, event in poller.poll(timeout_s * 1000):
            if fd == self._from_worker.fileno():
                data = os.read(fd, _READ_BYTES)
                if not data:
                    raise WorkerLost("crash", "it ended")
                self._incoming += data
                moved = True
            elif event & select.POLLOUT and not event & (select.POLLERR | select.POLLHUP):
                del self._outgoing[: os.write(fd, self._outgoing[:_READ_BYTES])]
                moved = True
            else:
                self._outgoing.clear()  # the reader is gone; the other pipe says so next
        return moved


def _environment() -> dict[str, str]:
    """The parent's environment and import path; the worker's own hash seed and one thread.

    PYTHONSAFEPATH keeps `python -m` from putting the working directory in front where the parent
    did not.
    """
    paths = [path or os.getcwd() for path in sys.path]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }


def _describe(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return "out of memory" if code == MEMORY_EXIT_CODE else f"exit code {code}"
