"""The parent's handle of a rank process: pipes, signs of life, last output, exit.

A rank exits when its standard input closes, and the kernel kills it with its parent. Its standard error goes to a
nameless file, which explains a failure.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence

from rlvr.learner.ranks.frames import Frame, encode, take_frame
from rlvr.processes.lifeline import bound_command

_READ_BYTES = 1 << 20
_TAIL_BYTES = 4096
_TAIL_LINES = 12


class RankProcess:
    """A running `rlvr.learner.ranks.main` in a session of its own; it ends with the thread that made this object."""

    def __init__(self, rank: int, *, num_threads: int, inherited: Sequence[int]) -> None:
        """Args: inherited: descriptors that the rank finds open under the same numbers."""
        self.rank = rank
        self.last_sign = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            bound_command("rlvr.learner.ranks.main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(num_threads),
            pass_fds=tuple(inherited),
            start_new_session=True,  # Ctrl-C is for the parent, which ends its ranks in order
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to_rank = self._process.stdin
        self._from_rank = self._process.stdout
        for pipe in (self._to_rank, self._from_rank):
            os.set_blocking(pipe.fileno(), False)
        self._outgoing: deque[memoryview] = deque()
        self._incoming = bytearray()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def read_fd(self) -> int:
        """Readable when the rank has written something or exited."""
        return self._from_rank.fileno()

    @property
    def write_fd(self) -> int | None:
        """The descriptor to write to; None when nothing is queued."""
        return self._to_rank.fileno() if self._outgoing else None

    def send(self, frame: Frame) -> None:
        """Queues a frame; `write` moves it, so that a rank which does not read cannot block the caller."""
        self.last_sign = time.monotonic()
        self._outgoing.append(memoryview(encode(frame)))

    def write(self) -> None:
        """Writes as much as the pipe takes."""
        data = self._outgoing[0]
        try:
            count = os.write(self._to_rank.fileno(), data[:_READ_BYTES])
        except BlockingIOError:
            return
        except BrokenPipeError:  # the rank has exited; its other pipe shows it
            self._outgoing.clear()
            return
        if count == len(data):
            self._outgoing.popleft()
        else:
            self._outgoing[0] = data[count:]

    def read(self) -> list[Frame] | None:
        """The frames that have arrived, often none; None when the rank has ended."""
        try:
            data = os.read(self._from_rank.fileno(), _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        self.last_sign = time.monotonic()
        self._incoming += data
        frames: list[Frame] = []
        while (frame := take_frame(self._incoming)) is not None:
            frames.append(frame)
        return frames

    def ask_for_stack(self) -> bool:
        """Has the rank print its stack; False when it does not within a second."""
        size = os.fstat(self._errors.fileno()).st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            if os.fstat(self._errors.fileno()).st_size > size:
                time.sleep(0.05)  # until the last line is there too
                return True
            time.sleep(0.01)
        return False

    def wait(self, timeout_s: float) -> str | None:
        """How it ended ("exit code 1", "signal SIGKILL"); None when it still runs after the timeout."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def tail(self) -> str:
        """The last lines of its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(data.decode(errors="replace").splitlines()[-_TAIL_LINES:])

    def end(self) -> None:
        """Kills it if it still runs, reaps it, and closes the descriptors."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._to_rank, self._from_rank, self._errors):
            pipe.close()

    def close_input(self) -> None:
        """Asks the rank to exit."""
        self._outgoing.clear()
        self._to_rank.close()


def _environment(num_threads: int) -> dict[str, str]:
    """The parent's environment and import path; gloo meets on the loopback interface.

    PYTHONSAFEPATH keeps `python -m` from putting the working directory in front where the parent did not.
    """
    paths = [path or os.getcwd() for path in sys.path]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(num_threads),
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "PYTHONNODEBUGRANGES": "1",  # no lines of ^^^^ in a traceback, of which only the last lines are shown
    }
