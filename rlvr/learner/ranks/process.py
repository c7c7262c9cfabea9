"""The parent's handle of a rank process: signs of life, last output, exit.

A rank exits when its standard input closes, and the kernel kills it with its parent. Its standard error goes to a
nameless file, which explains a failure.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from rlvr.learner.ranks.messages import Message, encode
from rlvr.processes.child import Child

_TAIL_BYTES = 4096
_TAIL_LINES = 12


class RankProcess(Child):
    """A running `rlvr.learner.ranks.main` in a session of its own; it ends with the thread that made this object."""

    def __init__(self, rank: int, *, num_threads: int, inherited: Sequence[int]) -> None:
        """Args: inherited: descriptors that the rank finds open under the same numbers."""
        self.rank = rank
        self.last_sign = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        super().__init__(
            "rlvr.learner.ranks.main",
            environment={
                "OMP_NUM_THREADS": str(num_threads),
                "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",  # where gloo meets
                "PYTHONNODEBUGRANGES": "1",  # no lines of ^^^^ in a traceback, of which only the last lines are shown
            },
            stderr=self._errors,
            inherited=inherited,
        )

    def request(self, message: Message) -> None:
        """Queues a request."""
        self.last_sign = time.monotonic()
        self.send(encode(message))

    def read(self) -> bool:
        """Reads what has arrived, which is a sign of life; False when the rank has ended."""
        is_open = super().read()
        if is_open:
            self.last_sign = time.monotonic()
        return is_open

    def ask_for_stack(self) -> bool:
        """Has the rank print its stack; False when it does not within a second."""
        size = os.fstat(self._errors.fileno()).st_size
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            if os.fstat(self._errors.fileno()).st_size > size:
                time.sleep(0.05)  # until the last line is there too
                return True
            time.sleep(0.01)
        return False

    def tail(self) -> str:
        """The last lines of its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(data.decode(errors="replace").splitlines()[-_TAIL_LINES:])

    def end(self) -> None:
        """Kills it if it still runs, reaps it, and closes the descriptors."""
        self.kill()
        self.close_pipes()
        self._errors.close()
