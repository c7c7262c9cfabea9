"""A child process of ours and the pipes to it: in a session of its own, it ends with the thread that started it.

The parent never blocks on a pipe: `send` queues, and `move` writes and reads what is ready for any number of children.
The child's side of the pipes is `rlvr.processes.frames.ParentPipe`.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, ClassVar, Protocol, TypeVar, runtime_checkable

from rlvr.jails import PipedProcess
from rlvr.processes.frames import Frame, take_frame
from rlvr.processes.lifeline import bound_command

_READ_BYTES = 1 << 20


@runtime_checkable
class Poller(Protocol):
    """What `select.poll` returns."""

    def register(self, fd: int, eventmask: int, /) -> None: ...


class Child:
    """A running module of ours; used by one thread at a time, except `is_running` and `kill`.

    `exit_codes` gives words for exit codes that mean something.
    """

    exit_codes: ClassVar[Mapping[int, str]] = {}

    def __init__(self, process: PipedProcess) -> None:
        """Args: process: with pipes as its standard input and output; `start_module` starts one of our modules."""
        self._process = process
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to_child = self._process.stdin
        self._from_child = self._process.stdout
        for pipe in (self._to_child, self._from_child):
            os.set_blocking(pipe.fileno(), False)
        self._outgoing: deque[memoryview] = deque()
        self._incoming = bytearray()
        self._waiting = threading.Lock()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive. Call from any thread."""
        with self._waiting:
            return self._process.poll() is None

    def send(self, data: bytes) -> None:
        """Queues an encoded frame, which `move` writes, so that a child that does not read cannot block the caller."""
        self._outgoing.append(memoryview(data))

    def read(self) -> bool:
        """Reads what has arrived; False when the child has ended or closed its pipe."""
        try:
            data = os.read(self._from_child.fileno(), _READ_BYTES)
        except BlockingIOError:
            return True
        self._incoming += data
        return bool(data)

    def next_frame(self) -> Frame | None:
        """The next frame of those read; None when none is whole. Raises ValueError on bytes that are not a frame."""
        return take_frame(self._incoming)

    def wait(self, timeout_s: float) -> str | None:
        """How it ended ("exit code 1", "signal SIGKILL"); None when it still runs after the timeout."""
        try:
            return self._ending(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> str:
        """Kills it with its own children and reaps it; returns how it ended. Call from any thread.

        A process that is already ending keeps its own exit code: the signal is too late to change it.
        """
        with self._waiting:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            return self._ending(self._process.wait())

    def close_input(self) -> None:
        """Asks it to exit."""
        self._outgoing.clear()
        self._to_child.close()

    def close_pipes(self) -> None:
        """Closes the descriptors."""
        for pipe in (self._to_child, self._from_child):
            with contextlib.suppress(OSError):
                pipe.close()

    def register(self, poller: Poller) -> tuple[int, int]:
        """Has the poller watch the pipes; returns the descriptors to read and to write, the latter -1 if unused."""
        reader, writer = self._from_child.fileno(), -1
        poller.register(reader, select.POLLIN)
        if self._outgoing:
            writer = self._to_child.fileno()
            poller.register(writer, select.POLLOUT)
        return reader, writer

    def write(self) -> None:
        """Writes as much as the pipe takes; drops everything when the child no longer reads, which `read` reports."""
        try:
            while self._outgoing:
                data = self._outgoing[0]
                count = os.write(self._to_child.fileno(), data)
                if count < len(data):
                    self._outgoing[0] = data[count:]
                    return
                self._outgoing.popleft()
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outgoing.clear()

    def _ending(self, code: int) -> str:
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        return self.exit_codes.get(code, f"exit code {code}")


def start_module(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    stderr: IO[bytes] | None = None,
    inherited: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Starts a module of ours. Raises OSError when the system refuses.

    Args:
        environment: added to this process's own; the import path is the parent's.
        stderr: a file for its standard error; None: the parent's.
        inherited: descriptors that it finds open under the same numbers.
    """
    return subprocess.Popen(
        bound_command(module, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **_import_path(), **environment},
        pass_fds=tuple(inherited),
        start_new_session=True,  # Ctrl-C is for the parent, which ends its children in order
        bufsize=0,
    )


@runtime_checkable
class Polled(Protocol):
    """What `move` needs of a child, whose pipes may end in another process that relays its frames."""

    def register(self, poller: Poller) -> tuple[int, int]: ...
    def write(self) -> None: ...


ChildT = TypeVar("ChildT", bound=Polled)


def move(children: Sequence[ChildT], timeout_s: float) -> tuple[list[ChildT], bool]:
    """Waits until a pipe is ready, writes what can be written: (the readable children, whether anything moved)."""
    poller = select.poll()
    readers: dict[int, ChildT] = {}
    writers: dict[int, ChildT] = {}
    for child in children:
        reader, writer = child.register(poller)
        readers[reader] = child
        writers[writer] = child
    ready = poller.poll(timeout_s * 1000)
    for fd, _ in ready:
        if fd not in readers:
            writers[fd].write()
    return [readers[fd] for fd, _ in ready if fd in readers], bool(ready)


def _import_path() -> dict[str, str]:
    """The parent's import path. PYTHONSAFEPATH keeps `python -m` from adding the working directory."""
    paths = [path or os.getcwd() for path in sys.path]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
