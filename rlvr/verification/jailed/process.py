"""A jailed worker of the verifier pool, as the pool sees it: a lost item costs a fork, and not the worker."""

import contextlib
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from rlvr.errors import PluginError
from rlvr.jails import JailedProcess
from rlvr.processes.frames import encode
from rlvr.verification.worker_process import LOST_JAIL, WorkerLost, WorkerProcess

_ABORT_S = 10.0
_SIGNALLED = 128  # bubblewrap's exit code for a signal is 128 and its number


class ItemLost(WorkerLost):
    """The child that verified an item died; the worker goes on."""

    def __init__(self, cause: str, ending: str) -> None:
        super().__init__(cause, f"it ended its process ({ending})")
        self.ending = ending


class JailedWorkerProcess(WorkerProcess):
    """A running `rlvr.verification.jailed.main` in a jail."""

    forks: ClassVar[bool] = True

    def __init__(self, jailed: JailedProcess) -> None:
        super().__init__(jailed.process)
        self._jailed = jailed

    def wait_ready(self, timeout_s: float) -> None:
        """Waits until the worker has started. Raises PluginError with what it wrote when it does not start."""
        try:
            super().wait_ready(timeout_s)
        except WorkerLost as lost:
            if lost.cause == LOST_JAIL:
                raise
            self.kill()
            errors = self._jailed.errors()
            hint = ""
            if "No module named 'pydantic'" in errors:
                hint = "; install pydantic into that interpreter's environment (python -m pip install pydantic)"
            raise PluginError(f"a jailed worker did not start ({lost}){hint}: {errors or 'no message'}") from lost

    def receive(self, timeout_s: float) -> Mapping[str, Any]:
        """As `WorkerProcess.receive`. Raises ItemLost when the child that verified the item has died."""
        try:
            reply = super().receive(timeout_s)
        except WorkerLost as lost:
            if failure := self._jailed.failure():
                raise WorkerLost(LOST_JAIL, failure) from lost
            raise
        if reply["op"] == "lost":
            raise ItemLost(str(reply["cause"]), str(reply["ending"]))
        return reply

    def end_item(self, error: WorkerLost) -> str:
        """Ends the child of the current chunk after `error`; returns how it ended, "" when the worker is lost too."""
        if isinstance(error, ItemLost):
            return error.ending
        if error.cause != "timeout":
            return ""
        self.send(encode({"op": "abort"}))
        limit = time.monotonic() + _ABORT_S
        with contextlib.suppress(WorkerLost):
            while time.monotonic() < limit:
                try:
                    reply = super().receive(_ABORT_S)
                except ItemLost:
                    continue
                if reply["op"] == "aborted":
                    return str(reply["ending"]) or "signal SIGKILL"
        return ""

    def kill(self) -> str:
        """Ends every process of the jail; returns how the worker ended. Call from any thread."""
        with self._waiting:
            if self._process.returncode is None:
                self._jailed.kill()
            return self._ending(self._process.wait())

    def close_pipes(self) -> None:
        """Closes the descriptors, and gives back what the jail used."""
        super().close_pipes()
        self._jailed.close()

    def _ending(self, code: int) -> str:
        return super()._ending(_SIGNALLED - code if code > _SIGNALLED else code)

    def _starved_s(self) -> float:
        return self._jailed.starved_s()
