"""What the two local backends share: runs and sessions over a pool of warm slots. A backend launches one box."""

import abc
import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rlvr.errors import SandboxError
from rlvr.jails import WorkerRequest
from rlvr.protocols import Capability, Limits, Program, RunResult
from rlvr_sandboxes.bounds import MOST_SLOTS
from rlvr_sandboxes.outside import cgroups, jail
from rlvr_sandboxes.outside.cgroups import Cgroup, Places
from rlvr_sandboxes.outside.pool import Counters, Pool
from rlvr_sandboxes.outside.probes import Probe
from rlvr_sandboxes.outside.request import Request
from rlvr_sandboxes.outside.session import BoxSession
from rlvr_sandboxes.outside.slot import BrokenBoxError, Slot, run_in
from rlvr_sandboxes.outside.users import UserIds
from rlvr_sandboxes.outside.workers import StartedWorker

NUM_ATTEMPTS = 4  # of a run during which the box breaks
_CONTROL_RUN = Request(argv=("python", "main.py"), files={"main.py": b"print(6 * 7)"}, limits=Limits(wall_s=20.0))
_numbers = itertools.count()


class BoxConfig(BaseModel):
    """Settings of a local sandbox."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int = Field(default_factory=lambda: max(2, len(os.sched_getaffinity(0))), ge=2, le=MOST_SLOTS)
    """Boxes that run at the same time; default: one a core. At least two, because a function test needs two."""
    recycle_after: int = Field(default=2000, ge=1)
    """Runs after which a box is replaced."""
    packages: tuple[str, ...] = ("numpy",)
    """Installed packages that programs may import besides the standard library; absent ones are left out."""
    preimport: tuple[str, ...] = ("numpy",)
    """Modules that a box keeps loaded once a program has named them, as it does with the standard library."""
    can_exec: bool = True
    """Whether programs may start other programs (a compiler, a shell)."""
    use_cgroups: bool = True
    """Whether to limit memory and processes by cgroups where they are writable; else they are sampled."""
    should_self_test: bool = True
    """Whether `start` refuses a box that fails its self-test."""

    @field_validator("packages")
    @classmethod
    def _leave_own_code(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        """The box imports its own code as `rlvr_sandboxes`; a package of that name would take its place."""
        for name in packages:
            if name.partition(".")[0] == "rlvr_sandboxes":
                raise ValueError(f"{name!r} is the sandbox's own code, which programs may not import; remove it")
        return packages


class BoxedSandbox(abc.ABC):
    """Base of the local backends; implements rlvr.protocols.Sandbox."""

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.SESSION, Capability.PRELOAD, Capability.WORKER}
    )
    Config: ClassVar[type[BaseModel]] = BoxConfig

    def __init__(self, config: BoxConfig | None = None) -> None:
        self.config = config or BoxConfig()
        self._users = UserIds()
        self._places: Places | None = cgroups.find_places() if self.config.use_cgroups else None
        self._layout = jail.find_layout(self.config.packages)
        self._preloaded: dict[str, str] = {}
        self._pool: Pool | None = None
        self._started: concurrent.futures.Future[None] | None = None
        self._lock = threading.Lock()
        self._is_able = False  # found out once

    @classmethod
    @abc.abstractmethod
    def probes(cls) -> tuple[Probe, ...]:
        """What this backend needs of the machine, whether it is there, and the fix."""

    @abc.abstractmethod
    def launch(self, control: Any, errors: int) -> Any:
        """Starts one box; see slot.Box."""

    async def start(self) -> None:
        """Starts the first box and tests it. Raises SandboxError with the reason and the fix."""
        with self._lock:
            started, is_mine = self._started, self._started is None
            if started is None:
                started = self._started = concurrent.futures.Future()
        if not is_mine:
            await asyncio.wrap_future(started)
            return
        try:
            await self._start()
        except BaseException as error:
            with self._lock:
                self._started = None
            started.set_exception(error if isinstance(error, SandboxError) else SandboxError(f"{self.name}: {error!r}"))
            started.exception()
            raise
        started.set_result(None)

    @abc.abstractmethod
    def start_worker(self, request: WorkerRequest) -> StartedWorker:
        """Starts a worker process in a jail of its own; see rlvr.jails.SupportsWorkers."""

    def require_machine(self) -> None:
        """Raises SandboxError when the machine lacks what this backend needs, with the fix."""
        if self._is_able:
            return
        missing = [probe for probe in self.probes() if probe.is_required and not probe.is_ok]
        if missing:
            raise SandboxError(
                f"sandbox {self.name!r} does not work on this machine: "
                + "; ".join(f"{probe.name}: {probe.detail}. Fix: {probe.fix}" for probe in missing)
            )
        self._is_able = True

    async def _start(self) -> None:
        self._is_able = False
        self.require_machine()
        cgroups.sweep(self._places)
        self._pool = Pool(lambda: Slot(self), size=self.config.slots, recycle_after=self.config.recycle_after)
        if self.config.should_self_test:
            problems = await self._self_test()
            if problems:
                await self.close()
                raise SandboxError(
                    f"sandbox {self.name!r} failed its self-test and is not used: " + "; ".join(problems)
                )
        else:
            pool = self._open_pool()
            pool.release((await pool.acquire())[0])

    async def self_test(self) -> tuple[str, ...]:
        """What is not safe about this box here, with the fix; under two seconds."""
        if self._pool is None and self._started is None:
            try:
                await self.start()
            except SandboxError as error:
                return (str(error),)
            if self.config.should_self_test:
                return ()
        await self.start()
        return await self._self_test()

    async def _self_test(self) -> tuple[str, ...]:
        from rlvr_sandboxes.outside.self_test import find_problems

        return await find_problems(self._run)

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs a program to its end; see rlvr.protocols.Sandbox."""
        request = Request(argv=tuple(program), files=files, limits=limits, stdin=stdin)
        self._check_preloaded(request)
        if self._started is None or not self._started.done():
            await self.start()
        return await self._run(request)

    async def _run(self, request: Request) -> RunResult:
        pool = self._open_pool()
        result = await self._run_surviving(request)
        pool.counters.cpu_s += result.cpu_s
        return result

    async def _run_surviving(self, request: Request) -> RunResult:
        """Runs a program; repeats the run in another box if its box breaks, up to NUM_ATTEMPTS in all.

        If all of them break but a harmless program then runs, the program is at fault: its result is an end by SIGKILL,
        because an error would let it escape its verdict.
        """
        pool = self._open_pool()
        failure: BrokenBoxError | None = None
        for _ in range(NUM_ATTEMPTS):
            try:
                return await self._run_once(request)
            except BrokenBoxError as error:
                failure = error
                pool.counters.retried_broken += 1
        control = await self._run_once(_CONTROL_RUN)
        if not control.is_clean or control.stdout != b"42\n" or failure is None:
            raise SandboxError(f"sandbox {self.name!r} broke {NUM_ATTEMPTS} times: {failure}")
        return RunResult(exit_code=-9, stdout=b"", stderr=str(failure).encode(), seconds=0.0)

    async def _run_once(self, request: Request) -> RunResult:
        pool = self._open_pool()
        (slot,) = await pool.acquire()
        try:
            slot.preload(self._preloaded)
            result = await run_in(slot, request)
        except asyncio.CancelledError:
            pool.abandon(slot)
            raise
        except BaseException:
            slot.is_broken = True
            pool.release(slot)
            raise
        pool.release(slot)
        return result

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> BoxSession:
        """Starts a program to talk with; see rlvr.protocols.Sandbox."""
        argv = tuple(program)
        return (await self.open_sessions([Program(argv=argv, files=files, limits=limits)]))[0]

    async def open_sessions(self, programs: Sequence[Program]) -> list[BoxSession]:
        """Starts programs that live at the same time; waits for all their slots and takes all or none."""
        requests = [Request(argv=program.argv, files=program.files, limits=program.limits) for program in programs]
        for request in requests:
            self._check_preloaded(request)
        if self._started is None or not self._started.done():
            await self.start()
        failure: BrokenBoxError | None = None
        for _ in range(NUM_ATTEMPTS):
            try:
                return await self._open_once(requests)
            except BrokenBoxError as error:
                failure = error
                self._open_pool().counters.retried_broken += 1
        raise SandboxError(f"sandbox {self.name!r} broke {NUM_ATTEMPTS} times: {failure}")

    async def _open_once(self, requests: Sequence[Request]) -> list[BoxSession]:
        pool = self._open_pool()
        slots = await pool.acquire(len(requests))
        sessions: list[BoxSession] = []
        try:
            for slot, request in zip(slots, requests, strict=True):
                slot.preload(self._preloaded)
                sessions.append(BoxSession(slot, request, pool.release))
        except BaseException:
            for slot in slots[len(sessions) :]:
                pool.release(slot)
            for session in sessions:
                session.abandon()
            raise
        pool.counters.sessions += len(sessions)
        return sessions

    def preload(self, sources: Mapping[str, str]) -> None:
        """Trusted Python sources by name, for `("preloaded", name, ...)`.

        Raises: ValueError when a name is taken by another source, or a source does not compile.
        """
        for name, source in sources.items():
            if self._preloaded.get(name, source) != source:
                raise ValueError(f"another source is already preloaded as {name!r}")
            try:
                compile(source, name, "exec")
            except SyntaxError as error:
                raise ValueError(f"the preloaded source {name!r} does not compile: {error}") from error
        self._preloaded = {**self._preloaded, **sources}

    async def close(self) -> None:
        """Ends every box and waits until nothing of it is left."""
        pool, self._pool = self._pool, None
        self._started = None
        if pool is not None:
            await asyncio.get_running_loop().run_in_executor(None, pool.close)
        self._users.close()

    @property
    def counters(self) -> Counters:
        """What happened so far."""
        return self._pool.counters if self._pool else Counters()

    def _open_pool(self) -> Pool:
        if self._pool is None:
            raise SandboxError(f"sandbox {self.name!r} is closed")
        return self._pool

    def _check_preloaded(self, request: Request) -> None:
        if request.argv[0] == "preloaded" and (len(request.argv) < 2 or request.argv[1] not in self._preloaded):
            raise ValueError(f"program {request.argv!r}: preloaded are {', '.join(sorted(self._preloaded)) or 'none'}")

    def _take(self, stack: contextlib.ExitStack) -> tuple[int, Cgroup | None]:
        """A user id (0: no change) and a cgroup for one box; `stack` gives them back."""
        uid = self._users.take()
        stack.callback(self._users.give_back, uid)
        name = f"{cgroups.PREFIX}-{os.getpid()}-{next(_numbers)}"
        group = cgroups.create(self._places, name)
        if group is not None:
            stack.callback(group.remove)
            group.set_limits(Limits().memory_mb, Limits().pids)
        return uid, group

    def _zygote_config(self, **more: Any) -> str:
        """The JSON argument of zygote.main."""
        config = {"preimport": self.config.preimport, "can_exec": self.config.can_exec, **more}
        return json.dumps(config)


def spawn(command: Sequence[str], environment: Mapping[str, str], control: int, errors: int) -> subprocess.Popen[bytes]:
    """Starts a process that inherits `control` and nothing else of this one."""
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[control],
        env=dict(environment),
        cwd="/",
        start_new_session=True,
    )


def own_interpreter() -> str:
    """The interpreter of this process, for helpers that run outside the box."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


__all__ = ["BoxConfig", "BoxedSandbox", "own_interpreter", "spawn"]
