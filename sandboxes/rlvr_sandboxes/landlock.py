"""NOT stopped: learning names, sizes and times of files that the slot's user may reach (stat); a hole in the Linux
kernel; timing side channels; seeing that other processes exist; filling the disk through files that are deleted but
open, up to the number of descriptors times the file limit.

A warm interpreter in the open; each run is one fork of it under Landlock (only the interpreter and its own directory),
an allow-list of system calls (no sockets at all), rlimits, and a cgroup where one is writable. What a run leaves is
found by its parentage and killed. As root each slot has a user id of its own. For default containers, where namespaces
are forbidden.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Generator
from typing import ClassVar

from rlvr.errors import SandboxError
from rlvr.jails import WorkerRequest
from rlvr_sandboxes.outside import jail, workers
from rlvr_sandboxes.outside.boxes import BoxConfig, BoxedSandbox, own_interpreter, spawn
from rlvr_sandboxes.outside.interpreter import worker_layout
from rlvr_sandboxes.outside.probes import Probe, count_tasks, landlock_probes
from rlvr_sandboxes.outside.slot import Launched
from rlvr_sandboxes.outside.workers import StartedWorker

_PREFIX = "rlvr-box-"
_SLACK_TASKS = 256  # of the same user besides the run, when it has no user of its own; the sampler counts exactly


class LandlockSandbox(BoxedSandbox):
    """Does not hide names and sizes of files; see the top of this module for the rest.

    Needs Landlock 6 (Linux 6.12), or 4 (Linux 6.7) and root.
    """

    name: ClassVar[str] = "landlock"
    Config = BoxConfig

    @classmethod
    def probes(cls) -> tuple[Probe, ...]:
        return landlock_probes()

    def launch(self, control: socket.socket, errors: int) -> Launched:
        """Starts a guard with a zygote. Raises SandboxError or OSError."""
        with contextlib.ExitStack() as stack:
            uid, group = self._take(stack)
            scratch = _make_scratch(stack)
            readable, listed = jail.landlock_readable(self._layout)
            # the zygote, or all of this user
            others = 1 if uid else count_tasks(os.getuid()) + _SLACK_TASKS
            argument = self._zygote_config(
                mode="landlock",
                control=control.fileno(),
                cgroups=group.procs_files if group else [],
                samples=True,
                extra_tasks=others,
                uid=uid,
                scratch=scratch,
                readable=readable,
                listed=listed,
                packages=self._layout.packages,
                executable=self._layout.executable,
            )
            boot = jail.BOOT.format(code=jail.import_folder(), module="zygote")
            process = spawn(
                [own_interpreter(), *jail.FLAGS, "-c", boot, argument],
                jail.environment(f"{scratch}/run/w", f"{scratch}/packages"),
                control.fileno(),
                errors,
            )
            return Launched(process=process, cgroup=group, cleanup=stack.pop_all().close)

    def start_worker(self, request: WorkerRequest) -> StartedWorker:
        """Starts a guard with a jailed worker; see rlvr.jails.SupportsWorkers."""
        self.require_machine()
        found = worker_layout(request.python, request.packages, request.readable)
        with contextlib.ExitStack() as stack:
            uid, group = self._take(stack)
            workers.prepare(request, uid, group)
            scratch = _make_scratch(stack)
            readable, listed = jail.landlock_readable(found.layout)
            reading, writing = os.pipe()
            argument = workers.worker_config(
                request,
                found,
                mode="landlock",
                lifeline=reading,
                uid=uid,
                scratch=scratch,
                trees=readable,
                listed=listed,
                packages=found.layout.packages,
                cgroups=group.procs_files if group else [],
                extra_tasks=1 if uid else count_tasks(os.getuid()) + _SLACK_TASKS,
            )
            boot = jail.BOOT.format(code=jail.import_folder(), module="worker")
            line = [found.layout.executable, *jail.FLAGS, "-c", boot, argument]
            home = f"{scratch}/run/w"
            variables = workers.variables(request, home)
            return workers.start(line, variables, lifeline=(reading, writing), cleanup=stack.pop_all().close)


def _make_scratch(stack: contextlib.ExitStack) -> str:
    """A directory for one slot, locked while its supervisor lives; removes those of supervisors that were killed."""
    for old in glob.glob(f"{tempfile.gettempdir()}/{_PREFIX}*"):
        with contextlib.suppress(OSError), _opened(old) as descriptor:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
    scratch = tempfile.mkdtemp(prefix=_PREFIX)
    stack.callback(_remove, scratch)
    descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.chmod(scratch, 0o755)
    return scratch


@contextlib.contextmanager
def _opened(path: str) -> Generator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(scratch: str) -> None:
    """Removes the directory of a slot. Raises SandboxError when something in it resists."""
    shutil.rmtree(scratch, ignore_errors=True)
    if os.path.exists(scratch):
        raise SandboxError(f"{scratch} could not be removed; check who owns the files in it")
