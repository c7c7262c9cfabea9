"""The contract between a verifier pool and a sandbox that can hold its workers. Standard library only.

    pool --WorkerRequest--> sandbox.start_worker --starts--> [jail: module.main(arguments, jail)]
    pool <--frames over stdin and stdout of `JailedProcess.process`-->

The module confines nothing: it is imported when the jail is closed behind it, and before any code that is not trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest:
    """A worker process to be started in a jail.

    module: imported in the jail; its `main(arguments, jail)` is called with a `WorkerJail`.
    python: the path of an interpreter; "" is the running one. Its standard library and its site-packages are readable.
    packages: (name, path) of modules and packages that can be imported in addition, each readable.
    readable: further files and folders that may be read under their own paths; folders are on the import path.
    writable: folders of the host that may be read and written under their own paths.
    environment: added to the jail's own variables; nothing of this process's environment is passed on.
    memory_bytes: address space of each process. tmp_bytes: of one file, and of the temporary folder.
    pids: processes and threads together.
    """

    module: str
    arguments: tuple[str, ...] = ()
    python: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    memory_bytes: int = 4 << 30
    tmp_bytes: int = 64 << 20
    pids: int = 64


class WorkerJail(Protocol):
    """The jail as the module inside sees it."""

    def fork(self) -> int:
        """Forks like `os.fork`. The child cannot signal, trace or outlive its parent, and keeps no privilege."""
        ...

    def clean(self) -> None:
        """Ends every process that the children have started, and empties the temporary folder. Raises OSError."""
        ...

    def is_above_limit(self) -> bool:
        """Whether the children together use more memory than one process may, where no cgroup limits that."""
        ...


class PipedProcess(Protocol):
    """The part of `subprocess.Popen[bytes]` that the pool uses; the process may be one of another container.

    pid: in the process namespace where it runs, so it may be another process's here: signal it only through its owner.
    """

    @property
    def pid(self) -> int: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class JailedProcess(Protocol):
    """A worker that was started; `process` has pipes as its standard input and output."""

    @property
    def process(self) -> PipedProcess: ...

    def kill(self) -> None:
        """Ends every process of the jail. Call from any thread."""
        ...

    def close(self) -> None:
        """Gives back what the jail used, when its processes are gone. May be called twice."""
        ...

    def errors(self) -> str:
        """The end of what it wrote to its standard error until `main` was called."""
        ...

    def starved_s(self) -> float:
        """Seconds that a thread of the jail was ready but had no CPU, without those in which the jail's other threads
        had one; the largest. So an item cannot extend its deadline by starting processes. Differences have a meaning.
        """
        ...

    def failure(self) -> str:
        """Why the jail itself was lost, whatever the worker did; "" if it was not. Then no item is at fault."""
        ...


@runtime_checkable
class SupportsWorkers(Protocol):
    """A sandbox that can hold worker processes; its `capabilities` include WORKER."""

    def start_worker(self, request: WorkerRequest) -> JailedProcess:
        """Starts a worker, which ends with the thread that called this. Safe to call from any thread.

        Raises: SandboxError when the jail or the interpreter cannot be used, with the fix; OSError.
        """
        ...
