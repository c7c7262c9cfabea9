"""`service`: the backend that runs programs in the sandbox service of this machine, a container of its own."""

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

import rlvr
from rlvr.errors import SandboxError, SandboxUnavailable
from rlvr.jails import JailedProcess, WorkerRequest
from rlvr.processes.frames import Frame
from rlvr.protocols import Capability, Limits, Program, RunResult, Sandbox, SandboxSession
from rlvr_sandboxes.outside.gate import SlotGate
from rlvr_sandboxes.outside.request import Request
from rlvr_sandboxes.service import keys, messages, wire
from rlvr_sandboxes.service.far_sessions import FarSession, Group
from rlvr_sandboxes.service.far_workers import FarWorker
from rlvr_sandboxes.service.messages import CallError
from rlvr_sandboxes.service.wire import LOST, Wire

SOCKET = "/run/rlvr-sandbox/socket"
NUM_ATTEMPTS = 4  # of a request during which the service is lost
_WORKER_S = 90.0  # until a worker has started
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0
_AHEAD = 2  # requests that wait at the service, so that a free slot has work at once
_MOST_PATH_BYTES = 107  # of a socket's address


class ServiceConfig(BaseModel):
    """The settings of `service`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    socket: str = SOCKET
    """Path of the service's Unix socket, as this container sees it."""
    key_file: str = ""
    """Path of the key; default: `key` next to the socket, where the service writes one."""
    reconnect_s: float = Field(default=60.0, ge=0.0, le=3600.0)
    """Seconds for which a service that is absent or lost is waited for, before the verdict is an ERROR."""

    @field_validator("socket")
    @classmethod
    def _fits(cls, path: str) -> str:
        if not os.path.isabs(path) or len(os.fsencode(path)) > _MOST_PATH_BYTES:
            raise ValueError(f"{path!r} must be an absolute path of at most {_MOST_PATH_BYTES} bytes")
        return path

    @property
    def key_path(self) -> str:
        """The path of the key file."""
        return self.key_file or os.path.join(os.path.dirname(self.socket), "key")


class ServiceSandbox:
    """NOT stopped: a hole in the Linux kernel, which all containers share; its container and own backend stop the rest.

    `rlvr sandboxes serve` is the service. Programs and jailed verifiers see its container's files, not this process's.
    A lost service is waited for, and a run that it had is repeated; in the end the verdict is an ERROR, never a zero.
    """

    name: ClassVar[str] = "service"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.SESSION, Capability.PRELOAD, Capability.WORKER}
    )
    Config: ClassVar[type[BaseModel]] = ServiceConfig

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._gate: SlotGate | None = None  # runs and groups of sessions at once, known from the service
        self._lock = threading.Lock()
        self._idle: list[Wire] = []
        self._used: set[Wire] = set()
        self._preloaded: dict[str, str] = {}
        self._backend = ""
        self._slots = 0
        self._is_closed = False
        self._pid = os.getpid()

    @property
    def chosen(self) -> str:
        """What the service uses, such as "service: landlock"; empty before the start."""
        return f"{self.name}: {self._backend}" if self._backend else ""

    async def start(self) -> None:
        """Connects. Raises SandboxUnavailable when the service is absent, refuses the key, or has another version."""
        with self._lock:
            self._is_closed = False
        try:
            await self._open_gate()
        except SandboxError as error:
            raise SandboxUnavailable(str(error)) from error

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs a program to its end; see rlvr.protocols.Sandbox."""
        request = Request(argv=tuple(program), files=files, limits=limits, stdin=stdin)
        self._check_preloaded(request.argv)
        body, blob = messages.run_request(Program(argv=request.argv, files=files, limits=limits), stdin)
        return messages.read_result(await self._call(body, blob))

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> SandboxSession:
        """Starts a program to talk with; see rlvr.protocols.Sandbox."""
        return (await self.open_sessions([Program(argv=tuple(program), files=files, limits=limits)]))[0]

    async def open_sessions(self, programs: Sequence[Program]) -> list[SandboxSession]:
        """Starts programs that live at the same time; see rlvr.protocols.Sandbox."""
        for program in programs:
            Request(argv=program.argv, files=program.files, limits=program.limits)
            self._check_preloaded(program.argv)
        body, blob = messages.open_request(programs)
        gate = await self._open_gate()
        await gate.acquire()
        try:
            connection, _, descriptors = await self._request(body, blob)
            if len(descriptors) != 2 * len(programs):
                wire.close_all(descriptors)
                self._give_back(connection, is_good=False)
                raise SandboxError(f"the sandbox service passed {len(descriptors)} pipes for {len(programs)} sessions")
        except BaseException:
            gate.release()
            raise

        def release(*, is_good: bool) -> None:
            self._give_back(connection, is_good=is_good)
            gate.release()

        group = Group(connection, len(programs), release)
        pairs = zip(descriptors[::2], descriptors[1::2], programs, strict=False)
        return [FarSession(group, number, pair) for number, pair in enumerate(pairs)]

    def start_worker(self, request: WorkerRequest) -> JailedProcess:
        """Starts a jailed worker in the service; see rlvr.jails.SupportsWorkers."""
        body = messages.worker_request(request)
        failure: Exception | None = None
        for _ in range(NUM_ATTEMPTS):
            connection = self._connect()
            try:
                frame, descriptors = connection.call_blocking(body, timeout_s=_WORKER_S)
                messages.raise_error(frame)
                if len(descriptors) != 2:
                    raise ValueError("the service did not pass the worker's pipes")
                return FarWorker(connection, int(frame.body["pid"]), descriptors)
            except CallError as error:
                connection.close()
                raise error.error from None
            except LOST as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
        raise self._gone(failure)

    def preload(self, sources: Mapping[str, str]) -> None:
        """Trusted Python sources by name; see rlvr.protocols.SupportsPreload."""
        for name, source in sources.items():
            if self._preloaded.get(name, source) != source:
                raise ValueError(f"another source is already preloaded as {name!r}")
        self._preloaded = {**self._preloaded, **sources}

    async def self_test(self) -> tuple[str, ...]:
        """What is not safe about the service's backend, or why the service cannot be reached."""
        if not os.path.exists(self.config.socket):  # asked now, so nothing is waited for
            return (str(self._gone(FileNotFoundError("there is no such socket"))),)
        try:
            frame = await self._call({"op": "self_test"})
        except SandboxError as error:
            return (str(error),)
        return tuple(map(str, frame.body.get("problems", ())))

    async def close(self) -> None:
        """Ends every connection, and so every program of this client."""
        with self._lock:
            self._is_closed = True
            connections, self._idle, self._used = [*self._idle, *self._used], [], set()
            self._gate = None
        for connection in connections:
            connection.close()

    @staticmethod
    def serve(backend: Sandbox, *, socket: str, key_file: str = "", mode: int = 0o600) -> None:
        """The service: runs `backend` until SIGTERM. Raises SandboxError with the fix."""
        from rlvr_sandboxes.service.serve import serve

        serve(backend, ServiceConfig(socket=socket, key_file=key_file), mode=mode)

    async def _call(self, body: Mapping[str, Any], blob: bytes = b"") -> Frame:
        """The answer to a request that leaves nothing open. Raises SandboxError, ValueError."""
        gate = await self._open_gate()
        async with gate.one():
            connection, frame, descriptors = await self._request(body, blob)
            wire.close_all(descriptors)
            self._give_back(connection, is_good=True)
            return frame

    async def _open_gate(self) -> SlotGate:
        """The gate; connects if that has not been done yet. Raises SandboxError."""
        if self._gate is None:
            self._give_back(await self._new_connection(), is_good=True)
            with self._lock:
                self._gate = self._gate or SlotGate(self._slots + _AHEAD)
        return self._gate

    async def _request(self, body: Mapping[str, Any], blob: bytes) -> tuple[Wire, Frame, list[int]]:
        """Connection, answer and descriptors; repeated when the service is lost. Raises SandboxError, ValueError."""
        if len(blob) > wire.MAX_BLOB_BYTES:
            raise ValueError(f"{len(blob)} bytes of files and input; at most {wire.MAX_BLOB_BYTES}")
        failure: Exception | None = None
        for _ in range(NUM_ATTEMPTS):
            connection = await self._take()
            try:
                await self._send_preloaded(connection)
                frame, descriptors = await connection.call(body, blob)
                messages.raise_error(frame)
            except CallError as error:
                self._give_back(connection, is_good=True)
                raise error.error from None
            except LOST as error:
                self._give_back(connection, is_good=False)
                failure = error
                continue
            except BaseException:  # cancelled: the end of the connection ends the program
                self._give_back(connection, is_good=False)
                raise
            return connection, frame, descriptors
        raise self._gone(failure)

    async def _send_preloaded(self, connection: Wire) -> None:
        fresh = dict(list(self._preloaded.items())[connection.num_preloaded :])
        if fresh:
            frame, _ = await connection.call(*messages.preload_request(fresh))
            messages.raise_error(frame)
            connection.num_preloaded += len(fresh)

    async def _take(self) -> Wire:
        """A connection that nobody uses, or a new one."""
        while True:
            with self._lock:
                self._check_open()
                connection = self._idle.pop() if self._idle else None
                if connection is not None:
                    self._used.add(connection)
            if connection is None:
                return await self._new_connection()
            if connection.is_clean():
                return connection
            self._give_back(connection, is_good=False)

    async def _new_connection(self) -> Wire:
        """A connection that counts as used. If the caller is cancelled meanwhile, it becomes idle once it is made."""
        made: Future[Wire] = Future()

        def connect() -> Wire:
            connection = self._connect(is_pooled=True)
            made.set_result(connection)
            return connection

        try:
            return await asyncio.to_thread(connect)
        except asyncio.CancelledError:
            made.add_done_callback(lambda done: self._give_back(done.result(), is_good=True))
            raise

    def _give_back(self, connection: Wire, *, is_good: bool) -> None:
        with self._lock:
            self._used.discard(connection)
            if is_good and not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self, *, is_pooled: bool = False) -> Wire:
        """A new connection; waits for a service that is not there. Raises SandboxError."""
        deadline = time.monotonic() + self.config.reconnect_s
        wait_s = _FIRST_WAIT_S
        while True:
            self._check_open()
            try:
                connection = wire.connect(self.config.socket, keys.read_key(self.config.key_path))
                try:
                    self._greet(connection)
                except BaseException:
                    connection.close()
                    raise
                break
            except LOST as error:
                if time.monotonic() + wait_s > deadline:
                    raise self._gone(error) from error
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        with self._lock:
            if not self._is_closed:
                if is_pooled:
                    self._used.add(connection)
                return connection
        connection.close()
        raise SandboxError("the sandbox was closed")

    def _greet(self, connection: Wire) -> None:
        frame, _ = connection.call_blocking({"op": "hello"}, timeout_s=wire.HANDSHAKE_S)
        connection.socket.setblocking(False)
        theirs = str(frame.body.get("version"))
        if theirs != rlvr.__version__:
            raise SandboxError(
                f"the sandbox service has rlvr {theirs}, and this is rlvr {rlvr.__version__}; start both from one image"
            )
        self._backend, self._slots = str(frame.body.get("backend")), max(2, int(frame.body.get("slots", 2)))

    def _gone(self, error: Exception | None) -> SandboxError:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return SandboxError(
            f"the sandbox service at {self.config.socket} cannot be reached or was lost ({what}). Start it with "
            f"`rlvr sandboxes serve --socket {self.config.socket}` in a container that shares the socket's folder with "
            "this one"
        )

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise SandboxError("this sandbox belongs to another process; make one in each process that uses it")
        if self._is_closed:
            raise SandboxError("the sandbox was closed")

    def _check_preloaded(self, argv: Sequence[str]) -> None:
        if argv[0] == "preloaded" and (len(argv) < 2 or argv[1] not in self._preloaded):
            raise ValueError(f"program {tuple(argv)!r}: preloaded are {', '.join(sorted(self._preloaded)) or 'none'}")
