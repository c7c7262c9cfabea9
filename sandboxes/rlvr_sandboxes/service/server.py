"""The service: one local backend behind a Unix socket, for clients that have the key.

    connection -> handshake (within HANDSHAKE_S) -> one request at a time -> end, which ends all that it had started

A run, a group of sessions or a worker belongs to its connection. So a client that dies, hangs or is cut off loses its
programs and frees their slots, and the service keeps no state that a restart could lose.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Mapping
from typing import Any, cast

import rlvr
from rlvr.errors import SandboxError
from rlvr.jails import SupportsWorkers
from rlvr.processes.frames import Frame
from rlvr.protocols import Capability, RunResult, Sandbox, SupportsPreload
from rlvr_sandboxes.outside.session import BoxSession
from rlvr_sandboxes.outside.slot import GRACE_S, readable
from rlvr_sandboxes.service import held_workers, keys, messages
from rlvr_sandboxes.service.wire import BUSY_S, FRAME_S, HANDSHAKE_S, MAX_DESCRIPTORS, Wire

_LOG = logging.getLogger(__name__)
NEEDED = frozenset({Capability.SESSION, Capability.PRELOAD, Capability.WORKER})
_MOST_GREETED = 32  # connections that have not proved anything yet
_MOST_PRELOADED_BYTES = 16 << 20
_END_S = 8.0  # for open requests, when the service is stopped
_CREDENTIALS = struct.Struct("3i")


class Server:
    """Serves `backend`, which is started, on a socket that listens.

    Args:
        secret_files: paths that no jailed worker may be shown.
        most_connections: with the key; further ones are closed at once, and their clients try again.
    """

    def __init__(
        self,
        backend: Sandbox,
        key: bytes,
        listener: socket.socket,
        *,
        secret_files: tuple[str, ...] = (),
        most_connections: int = 256,
    ) -> None:
        self._backend = backend
        self._key = key
        self._listener = listener
        self._secret_files = secret_files
        self._most_connections = most_connections
        self._num_preloaded_bytes = 0
        self._preloaded: dict[str, str] = {}
        self._greeted: set[asyncio.Task[None]] = set()
        self._served: set[asyncio.Task[None]] = set()

    async def serve(self, stop: asyncio.Event) -> None:
        """Accepts connections until `stop` is set; then ends what is open."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.ensure_future(stop.wait())
        self._listener.setblocking(False)
        while not stop.is_set():
            accepting = asyncio.ensure_future(loop.sock_accept(self._listener))
            await asyncio.wait({accepting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not accepting.done():
                accepting.cancel()
                break
            try:
                connection, _ = accepting.result()
            except OSError as error:  # out of descriptors, or a client that is gone
                _LOG.warning("a connection was not accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            self._take_in(connection)
        tasks = self._greeted | self._served
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)

    def _take_in(self, connection: socket.socket) -> None:
        if len(self._greeted) >= _MOST_GREETED or len(self._served) >= self._most_connections:
            with contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.send(keys.FULL)
            connection.close()
            return
        task = asyncio.ensure_future(self._attend(connection))
        self._greeted.add(task)
        task.add_done_callback(self._greeted.discard)
        task.add_done_callback(self._served.discard)

    async def _attend(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                is_known = await self._greet(connection)
            if is_known:
                task = asyncio.current_task()
                assert task is not None
                self._greeted.discard(task)
                self._served.add(task)
                await self._serve_client(Wire(connection, is_client=False))
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            _LOG.debug("a connection ended: %s", error)
        except Exception:  # noqa: BLE001 - a request that breaks our own code ends its connection, not the service
            _LOG.exception("a connection failed")
        finally:
            connection.close()

    async def _greet(self, connection: socket.socket) -> bool:
        """Whether the other side has the key."""
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        ours = keys.new_nonce()
        await loop.sock_sendall(connection, keys.MAGIC + ours)
        answer = b""
        while len(answer) < keys.ANSWER_BYTES:
            part = await loop.sock_recv(connection, keys.ANSWER_BYTES - len(answer))
            if not part:
                raise EOFError("it ended during the handshake")
            answer += part
        theirs, proof = answer[: keys.NONCE_BYTES], answer[keys.NONCE_BYTES :]
        if not keys.is_proof(proof, self._key, "client", ours, theirs):
            pid, uid, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            _LOG.warning("refused a connection without the key, of user %d, process %d", uid, pid)
            await loop.sock_sendall(connection, keys.REFUSED)
            return False
        await loop.sock_sendall(connection, keys.proof(self._key, "server", ours, theirs))
        return True

    async def _serve_client(self, wire: Wire) -> None:
        """Answers requests, one after another, until the client disconnects; then ends its sessions."""
        group = _Group()
        try:
            while True:
                frame = await wire.receive(idle_s=group.idle_s)
                if frame is None:
                    return
                if frame.body.get("op") == "worker":
                    await self._hold_worker(wire, frame)
                    return
                await self._answer(wire, frame, group)
        finally:
            await group.close()
            wire.close()

    async def _answer(self, wire: Wire, frame: Frame, group: "_Group") -> None:
        """Answers one request. If the client disconnects or sends anything meanwhile, the request is cancelled."""
        work = asyncio.ensure_future(self._work(frame, group))
        gone = asyncio.ensure_future(readable(wire.socket.fileno(), 1e6))
        try:
            while True:
                done, _ = await asyncio.wait({work, gone}, timeout=BUSY_S, return_when=asyncio.FIRST_COMPLETED)
                if work in done:
                    break
                if gone in done:
                    raise EOFError("the client has gone")
                await wire.send({"op": "busy"})
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
            await asyncio.wait({work, gone})
        body, blob, descriptors = work.result()
        try:
            await wire.send(body, blob, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _work(self, frame: Frame, group: "_Group") -> tuple[Mapping[str, Any], bytes, list[int]]:
        """The answer: JSON, bytes, descriptors for the client."""
        op = frame.body.get("op")
        try:
            if op == "hello":
                return self._hello(), b"", []
            if op == "run":
                program, stdin = messages.read_run(frame)
                result = await self._backend.run(program.argv, program.files, stdin, program.limits)
                return *messages.result_message(result), []
            if op == "open":
                return {"op": "opened"}, b"", await group.open(self._backend, frame)
            if op == "close":
                return *messages.result_message(await group.close_one(frame.body["index"])), []
            if op == "preload":
                self._preload(messages.read_preload(frame))
                return {"op": "done"}, b"", []
            if op == "self_test":
                return {"op": "tested", "problems": list(await self._backend.self_test())}, b"", []
            raise ValueError(f"the sandbox service does not know the request {op!r}")
        except (SandboxError, ValueError, KeyError, TypeError, OSError) as error:
            return messages.error_message(error), b"", []

    def _hello(self) -> dict[str, Any]:
        backend = str(getattr(self._backend, "chosen", "")) or self._backend.name
        slots = getattr(getattr(self._backend, "config", None), "slots", 2)
        return {"op": "hello", "version": rlvr.__version__, "backend": backend, "slots": slots}

    def _preload(self, sources: Mapping[str, str]) -> None:
        fresh = {name: text for name, text in sources.items() if self._preloaded.get(name) != text}
        size = self._num_preloaded_bytes + sum(len(text.encode()) for text in fresh.values())
        if size > _MOST_PRELOADED_BYTES:
            raise SandboxError(f"{size} bytes of preloaded sources; the sandbox service keeps {_MOST_PRELOADED_BYTES}")
        cast(SupportsPreload, self._backend).preload(fresh)
        self._preloaded |= fresh
        self._num_preloaded_bytes = size

    async def _hold_worker(self, wire: Wire, frame: Frame) -> None:
        """Leaves the connection to a thread until its worker has ended."""
        try:
            request = held_workers.check_paths(messages.read_worker(frame), self._secret_files)
        except (SandboxError, ValueError, KeyError, TypeError) as error:
            await wire.send(messages.error_message(error))
            return
        loop = asyncio.get_running_loop()
        over, done = asyncio.Event(), threading.Event()

        def hold() -> None:
            try:
                held_workers.hold(cast(SupportsWorkers, self._backend), request, wire)
            finally:
                done.set()
                with contextlib.suppress(RuntimeError):  # the loop is closed: the service has stopped
                    loop.call_soon_threadsafe(over.set)

        threading.Thread(target=hold, name="held-worker", daemon=True).start()
        try:
            await over.wait()
        finally:
            if not done.is_set():
                with contextlib.suppress(OSError):
                    wire.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which ends the worker
                await asyncio.to_thread(done.wait, _END_S)


class _Group:
    """The sessions of one connection, which were opened together."""

    def __init__(self) -> None:
        self._sessions: list[BoxSession | None] = []
        self.idle_s: float | None = None  # that the client may be silent: no session outlives its limit

    async def open(self, backend: Sandbox, frame: Frame) -> list[int]:
        """Opens them; returns two descriptors for each."""
        if any(self._sessions):
            raise ValueError("this connection has open sessions")
        programs = messages.read_open(frame)
        if not 1 <= len(programs) <= MAX_DESCRIPTORS // 2:
            raise ValueError(f"{len(programs)} sessions at once; expected 1 to {MAX_DESCRIPTORS // 2}")
        opened = await backend.open_sessions(programs)
        self._sessions = [cast(BoxSession, session) for session in opened]
        self.idle_s = max(program.limits.longest_s for program in programs) + GRACE_S + FRAME_S
        return [descriptor for session in opened for descriptor in cast(BoxSession, session).take_pipes()]

    async def close_one(self, index: Any) -> RunResult:
        """Ends one of them."""
        session = self._sessions[index] if isinstance(index, int) and 0 <= index < len(self._sessions) else None
        if session is None:
            raise ValueError(f"there is no open session {index!r}")
        self._sessions[index] = None
        if not any(self._sessions):
            self.idle_s = None
        return await session.close()

    async def close(self) -> None:
        """Ends all."""
        open_ones = [session for session in self._sessions if session is not None]
        self._sessions = []
        for session in open_ones:
            with contextlib.suppress(SandboxError, OSError):
                await session.close()


def listen(path: str, *, mode: int) -> socket.socket:
    """A socket that listens at this path, with this mode from its creation on; replaces a socket that nobody serves.

    Raises: SandboxError when another service listens there, another file is there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise SandboxError(f"{path} exists and is not a socket; remove it, or name another --socket")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                other.settimeout(HANDSHAKE_S)
                with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                    other.connect(path)
                    raise SandboxError(f"a service listens at {path} already; stop it first, or name another --socket")
            os.unlink(path)
        old = os.umask(0o777 & ~mode)
        try:
            listener.bind(path)
        finally:
            os.umask(old)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SandboxError(f"the socket {path} cannot be used: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    return listener


async def run_until_stopped(server: Server) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.serve(stop)
