"""Worker processes in a jail: how the two local backends start one, and how it is ended."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rlvr.jails import WorkerRequest
from rlvr_sandboxes.inside import worker as inside_worker
from rlvr_sandboxes.outside import jail
from rlvr_sandboxes.outside.cgroups import Cgroup
from rlvr_sandboxes.outside.interpreter import WorkerLayout

_END_S = 10.0  # that a guard has to end its jail
_MAX_ERRORS = 2000
_MAX_TASKS = 512  # whose times are read


class StartedWorker:
    """Implements `rlvr.jails.JailedProcess`.

    Args:
        lifeline: the writing end of a pipe whose closing has the guard end the jail; -1 if there is no guard.
        cleanup: gives back what the jail used.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", errors: IO[bytes], *, lifeline: int, cleanup: Callable[[], None]
    ) -> None:
        self.process = process
        self._errors = errors
        self._lifeline = lifeline
        self._cleanup: Callable[[], None] | None = cleanup
        self._lock = threading.Lock()

    def kill(self) -> None:
        """Ends every process of the jail."""
        with self._lock:
            lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_END_S)
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Gives back the user id and the cgroup, and removes the folder."""
        with self._lock:
            cleanup, self._cleanup = self._cleanup, None
        if cleanup is not None:
            self._errors.close()
            cleanup()

    def errors(self) -> str:
        """The end of what it wrote to its standard error until `main` was called."""
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        return self._errors.read()[-_MAX_ERRORS:].decode(errors="replace").strip()

    def starved_s(self) -> float:
        """Seconds that a thread of the jail was ready but had no CPU; see rlvr.jails.JailedProcess."""
        queue, times = [self.process.pid], list[tuple[float, float]]()
        while queue and len(times) < _MAX_TASKS:
            pid = queue.pop()
            for task in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    ran, waited, _ = (task / "schedstat").read_text().split()
                    times.append((int(ran) / 1e9, int(waited) / 1e9))
                    queue += map(int, (task / "children").read_text().split())
        total = sum(ran for ran, _ in times)
        return max((waited - (total - ran) for ran, waited in times), default=0.0)

    def failure(self) -> str:
        """Nothing: the jail is a process of this machine, and ends with what runs in it."""
        return ""


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cleanup: Callable[[], None],
    lifeline: tuple[int, int] = (-1, -1),
) -> StartedWorker:
    """Starts a worker with pipes. Raises OSError, after `cleanup`.

    Args: lifeline: the ends of a pipe, of which the process gets the first.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `StartedWorker.close`
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[lifeline[0]] if lifeline[0] >= 0 else [],
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
    except BaseException:  # raised again; also when interrupted, the user id and the cgroup are given back
        errors.close()
        cleanup()
        raise
    if lifeline[0] >= 0:
        os.close(lifeline[0])
    return StartedWorker(process, errors, lifeline=lifeline[1], cleanup=cleanup)


def worker_config(request: WorkerRequest, found: WorkerLayout, **more: Any) -> str:
    """The JSON argument of `inside.worker.main`."""
    return json.dumps(
        {
            "module": request.module,
            "arguments": request.arguments,
            "readable": [os.path.realpath(path) for path in request.readable if os.path.isdir(path)],
            "writable": request.writable,
            "sites": found.sites,
            "tmp_bytes": request.tmp_bytes,
            "memory_bytes": request.memory_bytes,
            "pids": request.pids,
            **more,
        }
    )


def variables(request: WorkerRequest, home: str) -> dict[str, str]:
    """The whole environment of a worker."""
    found = {**jail.environment(home, ""), **request.environment}
    return {name: value for name, value in found.items() if value and name != "LD_BIND_NOW"}


def prepare(request: WorkerRequest, uid: int, group: Cgroup | None) -> None:
    """Sets the limits of the worker's cgroup, and opens the writable folders to the jail's user, if it has one.

    Jails with other users may share these folders.
    """
    if group is not None:
        group.set_limits(request.memory_bytes >> 20, request.pids)
    if uid:
        for folder in request.writable:
            os.chmod(folder, 0o777)


def remove(scratch: str) -> None:
    """Removes the folder of a worker that has ended."""
    shutil.rmtree(scratch, ignore_errors=True)


TEMPORARY = inside_worker.TEMPORARY
