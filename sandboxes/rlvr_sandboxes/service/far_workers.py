"""A jailed worker of the sandbox service as the verifier pool sees it: its pipes are here, its process is not."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from rlvr.processes.frames import Frame
from rlvr_sandboxes.service.wire import Wire

_ANSWER_S = 15.0  # the service takes up to 10 to end a jail in order
_PING_S = 5.0
_POLL_S = 0.05
_LOST = -signal.SIGKILL  # of a process whose end nobody can report


class FarProcess:
    """Implements `rlvr.jails.PipedProcess`. pid: in the service's container; no process here has it."""

    def __init__(self, worker: "FarWorker", pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = stdin
        self.stdout: IO[bytes] | None = stdout
        self._worker = worker

    @property
    def returncode(self) -> int | None:
        """The exit code, once it is known; -9 if the service was lost."""
        return self._worker.code

    def poll(self) -> int | None:
        """The exit code; None while the process runs."""
        self._worker.look()
        return self._worker.code

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code. Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a worker of the sandbox service", timeout or 0.0)
            time.sleep(_POLL_S)
        return code


class FarWorker:
    """Implements `rlvr.jails.JailedProcess` over one connection, whose end also ends the worker."""

    def __init__(self, wire: Wire, pid: int, descriptors: list[int]) -> None:
        stdin, stdout = descriptors
        self.code: int | None = None
        self.process = FarProcess(self, pid, os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0))
        self._wire = wire
        self._lock = threading.RLock()
        self._failure = ""

    def look(self) -> None:
        """Takes what the service has reported."""
        with self._lock, self._watching():
            while self.code is None and (frame := self._wire.poll()) is not None:
                self._skip(frame)

    def kill(self) -> None:
        """Ends every process of the jail; waits until the service has done that."""
        answer = self._ask("kill", _ANSWER_S)
        with self._lock:
            if self.code is None:
                self.code = int(answer.get("code", _LOST))

    def close(self) -> None:
        """Ends the connection, at which the service gives back what the jail used."""
        with self._lock:
            self._wire.close()
            if self.code is None:
                self.code = _LOST

    def errors(self) -> str:
        """The end of what it wrote to its standard error until `main` was called."""
        return str(self._ask("errors", _PING_S).get("text", ""))

    def starved_s(self) -> float:
        """Seconds that a thread of the jail was ready but had no CPU, as the service measures it."""
        return float(self._ask("starved", _PING_S).get("seconds", 0.0))

    def failure(self) -> str:
        """Why the connection or the service was lost; "" if the service answers."""
        if not self._failure:
            self._ask("starved", _PING_S)
        return self._failure

    def _ask(self, op: str, timeout_s: float) -> Mapping[str, Any]:
        """The service's answer; empty when the service was lost."""
        with self._lock, self._watching():
            if not self._failure:
                frame, more = self._wire.call_blocking({"op": op}, timeout_s=timeout_s, skip=self._skip)
                for descriptor in more:
                    os.close(descriptor)
                return frame.body
        return {}

    def _skip(self, frame: Frame) -> bool:
        """Whether a frame reports the end of the process."""
        if frame.body.get("op") != "ended":
            return False
        self.code = int(frame.body.get("code", _LOST))
        return True

    @contextlib.contextmanager
    def _watching(self) -> Any:
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            self._failure = f"the sandbox service was lost ({error or type(error).__name__})"
            if self.code is None:
                self.code = _LOST
            self._wire.close()
