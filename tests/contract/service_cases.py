"""A sandbox service in a process of its own, for tests; and raw connections to it."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.registry import build_sandbox
from rlvr_sandboxes.service import keys, wire

SERVE = "import sys; from rlvr.cli import app; sys.argv[0] = 'rlvr'; app()"


@dataclass
class Service:
    """A service with its socket and key in `folder`.

    is_detached: it is no descendant of this process, as in a container.
    """

    folder: Path
    backend: str
    settings: Sequence[str] = ("slots=2",)
    is_detached: bool = False
    pid: int = 0
    pidfd: int = -1

    @property
    def path(self) -> str:
        return str(self.folder / "socket")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self, *, wait: bool = True) -> None:
        """Starts it, and waits until it listens."""
        arguments = ["sandboxes", "serve", "--socket", self.path, "--backend", self.backend, *self.settings]
        command = [sys.executable, "-c", SERVE, *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
        with open(self.folder / "log", "ab") as log:
            if self.is_detached:
                shell = ["sh", "-c", '"$@" >&2 & echo $!', "sh", *command]
                done = subprocess.run(shell, env=environment, stdout=subprocess.PIPE, stderr=log, check=True)
                self.pid = int(done.stdout)
            else:
                self.pid = subprocess.Popen(command, env=environment, stdout=log, stderr=log).pid
        self.pidfd = os.pidfd_open(self.pid)
        end = time.monotonic() + 60.0
        while wait and not os.path.exists(self.path):
            assert not self._has_ended(0.0), self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def wait(self) -> int:
        """Waits for its end; the exit code, -1 if it is detached."""
        assert self._has_ended(30.0)
        os.close(self.pidfd)
        self.pidfd = -1
        return -1 if self.is_detached else os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it with a signal; returns the exit code."""
        signal.pidfd_send_signal(self.pidfd, number)
        return self.wait()

    def _has_ended(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(1000 * timeout_s))

    def client(self, **settings: Any) -> Any:
        """A sandbox of this service, not started."""
        return build_sandbox("service", {"socket": self.path, "reconnect_s": 20.0, **settings})

    def connect(self) -> wire.Wire:
        """An authenticated connection."""
        return wire.connect(self.path, keys.read_key(str(self.folder / "key")))

    def raw(self) -> socket.socket:
        """A connection that has proved nothing."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10.0)
        connection.connect(self.path)
        return connection


@contextlib.contextmanager
def served(backend: str, *settings: str, is_detached: bool = False) -> Generator[Service]:
    """A running service, which is stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="rlvr-service-") as folder:
        service = Service(Path(folder), backend, settings or ("slots=2",), is_detached)
        service.start()
        try:
            yield service
        finally:
            if service.pidfd >= 0:
                service.stop(signal.SIGKILL)
