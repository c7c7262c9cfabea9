"""A bubblewrap jail with a warm interpreter, which is forked for each run.

A run has its own process, mount and IPC namespaces, a fresh tmpfs, no network, no capabilities, an allow-list of system
calls, rlimits, and a cgroup if one is writable. As root, each slot has its own user id.

NOT prevented: exploits of the Linux kernel itself; timing side channels between slots of one machine; use of the CPU up
to the time limit; and, without a writable cgroup, kernel memory that no resident set counts (socket buffers). Programs
can read /usr/bin, /usr/lib and the interpreter's own folder.
"""

import contextlib
import json
import os
import socket
from typing import ClassVar

from rlvr.errors import SandboxError
from rlvr.jails import WorkerRequest
from rlvr_sandboxes.outside import jail, workers
from rlvr_sandboxes.outside.boxes import BoxConfig, BoxedSandbox, own_interpreter, spawn
from rlvr_sandboxes.outside.interpreter import worker_layout
from rlvr_sandboxes.outside.probes import Probe, namespace_probes
from rlvr_sandboxes.outside.slot import Launched
from rlvr_sandboxes.outside.workers import StartedWorker


class NamespacesSandbox(BoxedSandbox):
    """Does not stop exploits of the kernel; see the top of this module for the rest.

    Needs bubblewrap and user namespaces; works as root and as an ordinary user.
    """

    name: ClassVar[str] = "namespaces"
    Config = BoxConfig

    _has_proc: bool | None = None  # found out at the first launch

    @classmethod
    def probes(cls) -> tuple[Probe, ...]:
        return namespace_probes()

    def launch(self, control: socket.socket, errors: int) -> Launched:
        """Starts a jail with a zygote. Raises SandboxError or OSError."""
        with contextlib.ExitStack() as stack:
            uid, group = self._take(stack)
            bubblewrap = jail.find_bubblewrap()
            if self._has_proc is None:
                self._has_proc = jail.can_mount_proc(bubblewrap)
            if group is None and not self._has_proc:
                raise SandboxError(
                    "neither a cgroup nor a /proc of its own: the memory of a run's processes together could not be "
                    "limited. Fix: start the container with --security-opt systempaths=unconfined, give it a writable "
                    "cgroup, or use sandbox.backend=landlock"
                )
            argument = self._zygote_config(
                mode="namespaces",
                control=control.fileno(),
                has_proc=self._has_proc,
                samples=group is None,
                extra_tasks=1,  # the zygote; bubblewrap itself counts outside the jail
            )
            command = jail.jail_command(self._layout, argument, has_proc=self._has_proc)
            launcher = {
                "control": control.fileno(),
                "cgroups": group.procs_files if group else [],
                "uid": uid,
                "bubblewrap": jail.bubblewrap_parts(bubblewrap),
                "head": command.head,
                "binds": command.binds,
                "tail": command.tail,
            }
            script = os.path.join(jail.code_folder(), "launch.py")
            process = spawn(
                [own_interpreter(), "-I", "-S", "-B", script, json.dumps(launcher)], {}, control.fileno(), errors
            )
            return Launched(process=process, cgroup=group, cleanup=stack.pop_all().close)

    def start_worker(self, request: WorkerRequest) -> StartedWorker:
        """Starts a jailed worker; see rlvr.jails.SupportsWorkers."""
        self.require_machine()
        found = worker_layout(request.python, request.packages, request.readable)
        with contextlib.ExitStack() as stack:
            uid, group = self._take(stack)
            workers.prepare(request, uid, group)
            bubblewrap = jail.find_bubblewrap()
            if self._has_proc is None:
                self._has_proc = jail.can_mount_proc(bubblewrap)
            argument = workers.worker_config(
                request,
                found,
                mode="namespaces",
                has_proc=self._has_proc,
                samples=group is None and self._has_proc,
                packages_folder=jail.PACKAGES,
            )
            command = jail.worker_command(
                found.layout,
                argument,
                workers.variables(request, workers.TEMPORARY),
                tmp_bytes=request.tmp_bytes,
                has_proc=self._has_proc,
            )
            launcher = {
                "control": 0,
                "cgroups": group.procs_files if group else [],
                "uid": uid,
                "bubblewrap": jail.bubblewrap_parts(bubblewrap),
                "head": command.head,
                "binds": command.binds,
                "writable": request.writable,
                "tail": command.tail,
            }
            script = os.path.join(jail.code_folder(), "launch.py")
            line = [own_interpreter(), "-I", "-S", "-B", script, json.dumps(launcher)]
            return workers.start(line, {}, cleanup=stack.pop_all().close)
