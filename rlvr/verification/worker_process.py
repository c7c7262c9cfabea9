"""A worker process of the verifier pool and the pipe to it; used by one thread at a time, except
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
_QUICK_SHARE = 0.9  # share of an item's time that is left when CPU waiting starts to be measured


class WorkerLost(Exception):  # noqa: N818 - an event that the pool handles
    """The worker is late or dead; `cause` is "timeout" or "crash"."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerProcess:
    """A running `rlvr.verification.worker_main` in its own session; `kill` ends it and its child processes."""

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
        """Whether the process is alive."""
        with self._kill_lock:
            return self._process.poll() is None

    def send(self, data: bytes) -> None:
        """Queues a frame, which `receive` writes, so that a worker that does not read cannot block the
        caller.
        """
        self._outgoing += data

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next answer; writes queued frames meanwhile. An answer that has arrived is read even after the
        deadline.

        Time that the worker waited for a CPU does not count, and each import that it reports restarts the clock; both
        together add at most a minute.

        Raises: WorkerLost.
        """
        start = time.monotonic()
        deadline, latest = start + timeout_s, start + timeout_s + _MAX_EXTENSION_S
        starved_s: float | None = None  # read only when an answer takes long: reading costs as much as a quick item
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
        """Kills the process and its child processes, and reaps it; returns how it ended. Call from any
        thread.

        A process that is already ending keeps its own exit code: the signal is too late to
        change it.
        """
        with self._kill_lock:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            return _describe(self._process.wait())

    def close_pipes(self) -> None:
        """Closes the descriptors; only for the thread that uses them."""
        for pipe in (self._to_worker, self._from_worker):
            with contextlib.suppress(OSError):
                pipe.close()

    def _starved_s(self) -> float:
        """Seconds that a worker thread was ready but had no CPU; the largest over its threads."""
        found = 0.0
        for file in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found = max(found, int(file.read_text().split()[1]) / 1e9)
        return found

    def _pump(self, timeout_s: float) -> bool:
        """Waits for the pipe and moves bytes; False when nothing moved in time. Raises WorkerLost
        at end of file.
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
                self._outgoing.clear()  # the reader is gone; the other pipe reports it next
        return moved


def _environment() -> dict[str, str]:
    """The parent's environment and import path; the worker's own hash seed and one thread.

    PYTHONSAFEPATH keeps `python -m` from prepending the working directory if the parent did
    not.
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
