"""`docker`: one long-lived container for many runs, on a machine with a container engine."""

import asyncio
import contextlib
import itertools
import os
import secrets
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from rlvr.errors import SandboxError
from rlvr.protocols import Capability, Limits, RunResult
from rlvr_sandboxes.bounds import MOST_SLOTS
from rlvr_sandboxes.outside.link import Link
from rlvr_sandboxes.outside.supervised_box import SupervisedBox, supervisor_source

_FIRST_UID = 60000
_START_S = 600.0  # the image may have to be pulled
_CONTROL_S = 60.0
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETUID", "SETGID")


class DockerConfig(BaseModel):
    """The settings of `docker`.

    image: has python3, and what programs may import. slots: runs at the same time. memory_mb, pids: of the whole
    container, beyond the limits of each process; 0 means the slots' limits together. runtime: for example runsc
    (gVisor), the stronger border. command: the engine's client; podman has the same options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = "python:3.11-slim"
    slots: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=MOST_SLOTS)
    memory_mb: int = Field(default=0, ge=0)
    pids: int = Field(default=0, ge=0)
    runtime: str = ""
    command: str = "docker"


class DockerSandbox(SupervisedBox):
    """Does not stop a program that breaks out of a container: the kernel is shared, unless `runtime` says otherwise.

    One container without network, with a read-only root and no privileges but those of its supervisor, holds all runs.
    Each run has a user id, a folder and a session of its own; what it leaves is killed and removed by that user id.
    Memory is limited for each process and for the container, not for the processes of one run together.
    """

    name: ClassVar[str] = "docker"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.SESSION})
    Config: ClassVar[type[BaseModel]] = DockerConfig

    def __init__(self, config: DockerConfig) -> None:
        super().__init__(config.slots)
        self.config = config
        self._container = ""
        self._is_suspect = False
        self._source = supervisor_source()
        self._uids = itertools.count()
        self._starting = threading.Lock()

    async def start(self) -> None:
        """Starts the container, or a fresh one where it was lost. Raises SandboxError with the engine's message."""
        await self.in_thread(self._ensure)

    async def self_test(self) -> tuple[str, ...]:
        """What a program in the container could do, as far as it can see."""
        source = (
            "import os, socket\nbad = []\n"
            "try:\n    socket.create_connection(('1.1.1.1', 53), 2); bad.append('the network')\nexcept OSError: pass\n"
            "try:\n    open('/usr/x', 'w'); bad.append('writing to the root')\nexcept OSError: pass\n"
            "if os.getuid() == 0: bad.append('root')\nprint(*bad, sep=', ')"
        )
        try:
            result = await self.run(("python", "main.py"), {"main.py": source.encode()}, b"", Limits(wall_s=10.0))
        except SandboxError as error:
            return (str(error),)
        found = result.stdout.decode("utf-8", "replace").strip()
        if result.exit_code:
            return (f"an honest program fails in the container: {result}",)
        return (f"a program in the container has {found}",) if found else ()

    async def close(self) -> None:
        """Ends every run and removes the container."""
        await super().close()
        container, self._container = self._container, ""
        if container:
            with contextlib.suppress(SandboxError):  # it may be gone already
                await asyncio.to_thread(self._engine, ["rm", "--force", container], _CONTROL_S)

    async def _run_once(
        self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits
    ) -> RunResult:
        try:
            return await super()._run_once(program, files, stdin, limits)
        except SandboxError:
            self._is_suspect = True  # before the second try: does the container still live?
            raise

    def _ensure(self) -> None:
        with self._starting:
            if self._container and not (self._is_suspect and self._is_gone()):
                self._is_suspect = False
                return
            name = f"rlvr-{secrets.token_hex(6)}"
            self._engine(container_argv(self.config, name), _START_S)
            self._container = name

    def _is_gone(self) -> bool:
        try:
            state = self._engine(["inspect", "--format", "{{.State.Running}}", self._container], _CONTROL_S)
        except SandboxError:
            return True
        return state.strip() != "true"

    def _engine(self, arguments: Sequence[str], timeout_s: float) -> str:
        """What the engine's client printed. Raises SandboxError with its message."""
        argv = [self.config.command, *arguments]
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SandboxError(
                f"sandbox 'docker': {' '.join(argv[:2])} failed: {error}; is the engine installed and running?"
            ) from error
        if done.returncode:
            raise SandboxError(
                f"sandbox 'docker': {' '.join(argv[:2])} failed ({done.returncode}): {done.stderr.strip()[-500:]}"
            )
        return done.stdout

    def _link(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, *, is_session: bool) -> Link:
        return Link(
            exec_argv(self.config, self._container, self._source),
            program=program,
            files=files,
            limits=limits,
            is_session=is_session,
            uid=_FIRST_UID + next(self._uids) % 5000,
            folder="/tmp",
        )


def container_argv(config: DockerConfig, name: str) -> list[str]:
    """What starts the container: nothing of the host, no network, and a process that only waits."""
    memory_mb = config.memory_mb or config.slots * 2048
    pids = config.pids or config.slots * 128
    return [
        "run", "--detach", "--rm", "--init", "--name", name, "--label", "rlvr.sandbox=1",
        *(["--runtime", config.runtime] if config.runtime else []),
        "--network", "none", "--read-only", "--user", "0:0", "--hostname", "box",
        "--cap-drop", "ALL", *(f"--cap-add={name}" for name in _CAPABILITIES),
        "--security-opt", "no-new-privileges", "--ipc", "private",
        "--memory", f"{memory_mb}m", "--memory-swap", f"{memory_mb}m", "--pids-limit", str(pids),
        "--ulimit", "core=0", "--ulimit", "nofile=1024:1024",
        "--tmpfs", "/tmp:rw,nosuid,nodev,exec,mode=1777,size=1g,nr_inodes=65536",
        "--tmpfs", "/var/tmp:rw,nosuid,nodev,mode=1777,size=64m", "--shm-size", "64m",
        "--entrypoint", "sleep", config.image, "infinity",
    ]  # fmt: skip


def exec_argv(config: DockerConfig, container: str, source: str) -> list[str]:
    """What starts one run's supervisor in the container, with the client's name."""
    return [
        config.command, "exec", "--interactive", "--user", "0:0", "--workdir", "/tmp", container,
        "python3", "-I", "-S", "-c", source,
    ]  # fmt: skip
