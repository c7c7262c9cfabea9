"""A worker process of the verifier pool: used by one thread at a time, except `is_running` and `kill`."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from rlvr.jails import PipedProcess
from rlvr.processes.child import Child, move, start_module
from rlvr.verification.wire import MEMORY_EXIT_CODE

LOST_JAIL = "lost jail"
_MAX_EXTENSION_S = 60.0
_QUICK_SHARE = 0.9  # share of an item's time that is left when CPU waiting starts to be measured


class WorkerLost(Exception):  # noqa: N818 - an event that the pool handles
    """The worker is late or dead; `cause` is "timeout" or "crash", or LOST_JAIL if no item can be at fault."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class WorkerProcess(Child):
    """A running `rlvr.verification.worker_main`, with one thread and a fixed hash seed: 0, unless `hash_seed` says
    otherwise.
    """

    exit_codes: ClassVar[Mapping[int, str]] = {MEMORY_EXIT_CODE: "out of memory"}

    forks: ClassVar[bool] = False  # for its items, so that it outlives those that hang or crash

    def __init__(self, process: PipedProcess) -> None:
        super().__init__(process)
        self.built: set[str] = set()
        self.rehearsed: set[str] = set()
        self.num_items = 0

    @classmethod
    def start(cls, *, memory_bytes: int, hash_seed: int = 0) -> "WorkerProcess":
        """Starts one. Raises OSError."""
        environment = {"PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
        return cls(start_module("rlvr.verification.worker_main", str(memory_bytes), environment=environment))

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until the worker has started. Raises WorkerLost."""
        self.receive(timeout_s)

    def receive(self, timeout_s: float) -> Mapping[str, Any]:
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
                frame = self.next_frame()
            except ValueError as error:
                raise WorkerLost("crash", f"it broke the protocol: {error}") from error
            if frame is not None and frame.body.get("op") == "importing":
                deadline = min(time.monotonic() + timeout_s, latest)
                continue
            if frame is not None:
                return frame.body
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

    def end_item(self, error: WorkerLost) -> str:
        """How the process of the current item ended, if the worker outlives it; "" if not."""
        return ""

    def _starved_s(self) -> float:
        """Seconds that a worker thread was ready but had no CPU; the largest over its threads."""
        found = 0.0
        for file in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found = max(found, int(file.read_text().split()[1]) / 1e9)
        return found

    def _pump(self, timeout_s: float) -> bool:
        """Waits for the pipes and moves bytes; False when nothing moved in time. Raises WorkerLost at end of file."""
        ready, has_moved = move([self], timeout_s)
        if ready and not self.read():
            raise WorkerLost("crash", "it ended")
        return has_moved
