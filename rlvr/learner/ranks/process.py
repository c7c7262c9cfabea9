"""The parent's handle of a rank: signs of life, last output, exit. `RankProcess` is the handle of a rank of this node.

A rank exits when its standard input closes, and the kernel kills it with its parent. Its standard error goes to a
nameless file, which explains a failure.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from rlvr.learner.consequences import ABORT_REASON
from rlvr.learner.ranks.messages import Message, encode
from rlvr.processes.child import Child, Poller, start_module
from rlvr.processes.frames import Frame

_TAIL_BYTES = 4096
_TAIL_LINES = 12
_ABORT_BYTES = 1 << 16  # two C++ stacks and those of all Python threads follow the reason of an abort


@runtime_checkable
class RankHandle(Protocol):
    """A running rank and the frames to and from it; used by one thread. last_sign: of life, in monotonic seconds."""

    rank: int
    last_sign: float

    @property
    def pid(self) -> int:
        """Its process id, on its node."""
        ...

    def request(self, message: Message) -> None:
        """Queues a request."""
        ...

    def register(self, poller: Poller) -> tuple[int, int]:
        """Has the poller watch it; returns the descriptors to read and to write, the latter -1 if unused."""
        ...

    def write(self) -> None:
        """Writes what is queued, as far as that does not block."""
        ...

    def read(self) -> bool:
        """Reads what has arrived, which is a sign of life; False when the rank has ended."""
        ...

    def next_frame(self) -> Frame | None:
        """The next frame of those read; None when none is whole."""
        ...

    def wait(self, timeout_s: float) -> str | None:
        """How it ended; None when it still runs after the timeout."""
        ...

    def ask_for_stack(self) -> bool:
        """Has the rank print its stack; False when it does not within a second or so."""
        ...

    def tail(self) -> str:
        """The last lines of its standard error."""
        ...

    def close_input(self) -> None:
        """Asks it to exit."""
        ...

    def end(self) -> None:
        """Ends it, whatever it does. Safe to call twice."""
        ...


class RankProcess(Child):
    """A running `rlvr.learner.ranks.main` in a session of its own; it ends with the thread that made this object."""

    def __init__(
        self, rank: int, *, num_threads: int, device_index: int, inherited: Sequence[int] = (), interface: str = ""
    ) -> None:
        """Args:
        device_index: its device among those that this process sees.
        inherited: descriptors that the rank finds open under the same numbers.
        interface: the network interface by which ranks of other nodes reach it; "" if all are on this node.
        """
        self.rank = rank
        self.last_sign = time.monotonic()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        environment = {
            "OMP_NUM_THREADS": str(num_threads),
            "LOCAL_RANK": str(device_index),  # from which torch takes the device
            "PYTHONNODEBUGRANGES": "1",  # no lines of ^^^^ in a traceback, of which only the last lines are shown
            **_network(interface),
        }
        super().__init__(
            start_module("rlvr.learner.ranks.main", environment=environment, stderr=self._errors, inherited=inherited)
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
        """The last lines of its standard error, after the reason of an abort, which stacks may have pushed far up."""
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), _ABORT_BYTES, max(0, size - _ABORT_BYTES))
        lines = data.decode(errors="replace").splitlines()
        first = max(0, len(lines) - _TAIL_LINES)
        reasons = [line for line in lines[:first] if ABORT_REASON in line]
        last = "\n".join(lines[first:])[-_TAIL_BYTES:]
        return "\n".join([*reasons[-1:], last])

    def end(self) -> None:
        """Kills it if it still runs, reaps it, and closes the descriptors."""
        self.kill()
        self.close_pipes()
        self._errors.close()


def _network(interface: str) -> Mapping[str, str]:
    """Variables that say where gloo and NCCL meet; an interface that the user has chosen for NCCL stays."""
    if interface:
        return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", interface)}
    return {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
