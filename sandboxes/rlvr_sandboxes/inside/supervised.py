"""A trusted program that runs one untrusted program as its child: in a container, or on the host without a box.

Standard library only, and no import of rlvr: its source is sent to wherever it runs. It speaks on its own standard
input and output, in messages of one letter, four bytes of length (big-endian) and that many bytes:

    in    H  JSON: argv, files (base64), limits, uid, session, folder      once, first
          I  bytes for the child: standard input, or descriptor 3 of a session
          C  no more bytes; a session is killed
    out   F  bytes that the child wrote to descriptor 4                    sessions only
          O  standard output    E  standard error    R  JSON: how it ended     once, last

The end of its input means that the caller is gone: it kills the child and exits. It is the subreaper of all that
the child starts, so that nothing outlives a run.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time

TYPE_CHECKING = False  # as in typing, which would cost every start its import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_PREFIX = "rlvr-run-"
_FIRST_UID = 60000  # of runs; no other user's processes are ever touched
_CHUNK, _DRAIN_S = 65536, 2.0
_MAX_QUEUED = 4 << 20  # bytes for the outside, or for the child, beyond which the other side has to wait


class Supervisor:
    """One run: `serve` returns when its child and everything that it started has ended."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.limits: dict[str, Any] = {}
        self.uid: int | None = None
        self.folder = ""
        self.incoming, self.outgoing, self.to_child = bytearray(), bytearray(), bytearray()
        self.stdout, self.stderr = bytearray(), bytearray()
        self.input_fd = self.output_fd = self.error_fd = self.frames_fd = -1
        self.is_session = self.is_input_done = self.is_gone = False
        self.has_overflowed = self.has_timed_out = self.was_killed = False

    def serve(self) -> None:
        """Reads the header, runs the program and reports how it ended."""
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        header = self._header()
        self.limits, self.uid = header["limits"], header["uid"]
        self.is_session = header["session"]
        self._sweep(header["folder"] or tempfile.gettempdir())
        self.folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=header["folder"])
        try:
            result = self._run(header)
        finally:
            self._end_family()
            self._clean()
        for letter, data in ((b"O", bytes(self.stdout)), (b"E", bytes(self.stderr))):
            self._queue(letter, data)
        self._queue(b"R", json.dumps(result).encode())
        os.set_blocking(1, True)
        while self.outgoing and not self.is_gone:
            self._write_out()

    def _header(self) -> dict[str, Any]:
        while data := os.read(0, _CHUNK):
            self.incoming += data
            for letter, body in self._messages():
                if letter == b"H":
                    return json.loads(body)
        raise SystemExit(0)

    def _run(self, header: dict[str, Any]) -> dict[str, Any]:
        for name, data in header["files"].items():
            path = os.path.join(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(base64.b64decode(data))
            os.chmod(path, 0o755)
        if self.uid is not None:
            for where, folders, names in os.walk(self.folder):
                for name in [where, *(os.path.join(where, n) for n in (*folders, *names))]:
                    os.chown(name, self.uid, self.uid)
        start, pid = time.monotonic(), self._start(header["argv"])
        pidfd = os.pidfd_open(pid)
        for fd in (0, 1, self.input_fd, self.output_fd, self.error_fd, self.frames_fd):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._pump(pidfd, start + self.limits["wall_s"])
        if not select.select([pidfd], [], [], 0)[0]:
            self.was_killed = True
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.monotonic() - start
        os.close(pidfd)
        self._end_family()
        self._drain()
        exit_code, cpu_s = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        is_foreign = exit_code == -signal.SIGKILL and not self.was_killed
        return {
            "exit_code": exit_code,
            "seconds": seconds,
            "cpu_s": cpu_s,
            "memory_mb": usage.ru_maxrss / 1024,
            "timed_out": self.has_timed_out,
            "overflowed": self.has_overflowed,
            "out_of_memory": is_foreign and cpu_s < self.limits["cpu_s"] - 0.1,
        }

    def _start(self, argv: list[str]) -> int:
        stdin, self.input_fd = os.pipe()
        self.output_fd, stdout = os.pipe()
        self.error_fd, stderr = os.pipe()
        fds = [stdin, stdout, stderr]
        if self.is_session:
            self.frames_fd, frames_out = os.pipe()
            fds = [os.open("/dev/null", os.O_RDONLY), stdout, stderr, stdin, frames_out]
        argv = [sys.executable, *argv[1:]] if argv[0] == "python" else list(argv)
        pid = os.fork()
        if pid == 0:
            try:
                self._become(argv, fds)
            except BaseException as error:  # noqa: BLE001 - a fork must never return from here
                os.write(2, f"{argv[0]}: {error}\n".encode())
            os._exit(127)
        for fd in fds:
            os.close(fd)
        return pid

    def _become(self, argv: list[str], fds: list[int]) -> None:
        """In the child: descriptors, limits, user, and then the program."""
        high = [os.dup2(fd, 200 + index, inheritable=False) for index, fd in enumerate(fds)]
        for index, fd in enumerate(high):
            os.dup2(fd, index)
        os.closerange(len(fds), 4096)
        os.setsid()
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError, RuntimeError):
                continue
        limits, mib = self.limits, 1 << 20
        memory = (limits["memory_mb"] + 768) * mib if limits["memory_mb"] else 0
        for what, amount in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_CPU, max(1, int(limits["cpu_s"] + 0.999))),
            (resource.RLIMIT_FSIZE, limits["file_bytes"]),
            (resource.RLIMIT_NOFILE, 128),
            (resource.RLIMIT_AS, memory or resource.RLIM_INFINITY),
        ):
            resource.setrlimit(what, (amount, amount))
        if self.uid is not None:
            resource.setrlimit(resource.RLIMIT_NPROC, (limits["pids"], limits["pids"]))
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        self.libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        self.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        os.chdir(self.folder)
        environment = {
            "HOME": self.folder, "TMPDIR": self.folder, "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1",
            "PYTHONINTMAXSTRDIGITS": "0",
        }  # fmt: skip
        os.execvpe(argv[0], argv, environment)

    def _pump(self, pidfd: int, deadline: float) -> None:
        """Moves bytes until the child ends, times out or writes too much, or the caller is gone."""
        if not self._obey():  # what came together with the header
            return
        while True:
            left = deadline - time.monotonic()
            if left <= 0.0:
                self.has_timed_out = True
                return
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if len(self.to_child) < _MAX_QUEUED:
                poll.register(0, select.POLLIN)
            if self.outgoing:
                poll.register(1, select.POLLOUT)
            if self.input_fd >= 0 and self.to_child:
                poll.register(self.input_fd, select.POLLOUT)
            for fd in (self.output_fd, self.error_fd):
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
            if self.frames_fd >= 0 and len(self.outgoing) < _MAX_QUEUED:
                poll.register(self.frames_fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(int(left * 1000) + 1)}
            if 0 in ready and not self._read_in():
                return
            if 1 in ready:
                self._write_out()
            if self.input_fd in ready:
                self._feed()
            self._collect(ready)
            if self.has_overflowed or self.is_gone or pidfd in ready:
                return

    def _read_in(self) -> bool:
        """Reads messages from outside; False when a session ends or the caller is gone."""
        try:
            data = os.read(0, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            self.is_gone = True
            return False
        self.incoming += data
        return self._obey()

    def _obey(self) -> bool:
        """Acts on the complete messages; False when a session ends."""
        for letter, body in self._messages():
            if letter == b"I":
                self.to_child += body
            elif letter == b"C":
                self.is_input_done = True
                if self.is_session:
                    return False
        self._feed()
        return True

    def _messages(self) -> Iterator[tuple[bytes, bytes]]:
        while len(self.incoming) >= 5:
            size = struct.unpack_from(">I", self.incoming, 1)[0]
            if len(self.incoming) < 5 + size:
                return
            letter, body = bytes(self.incoming[:1]), bytes(self.incoming[5 : 5 + size])
            del self.incoming[: 5 + size]
            yield letter, body

    def _feed(self) -> None:
        if self.input_fd < 0:
            self.to_child.clear()
            return
        try:
            while self.to_child:
                del self.to_child[: os.write(self.input_fd, self.to_child[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:  # the child reads no more
            self.to_child.clear()
            self.is_input_done = True
        if self.is_input_done and not self.is_session:
            os.close(self.input_fd)
            self.input_fd = -1

    def _collect(self, ready: set[int]) -> None:
        if self.output_fd in ready:
            room = self.limits["output_bytes"] - len(self.stdout)
            data = self._read(self.output_fd)
            if data is None:
                self.output_fd = -1
            else:
                self.stdout += data[:room]
                self.has_overflowed = self.has_overflowed or len(data) > room
        if self.error_fd in ready:
            data = self._read(self.error_fd)
            if data is None:
                self.error_fd = -1
            else:
                self.stderr += data
                del self.stderr[: -self.limits["stderr_bytes"] or len(self.stderr)]
        if self.frames_fd in ready:
            data = self._read(self.frames_fd)
            if data is None:
                self.frames_fd = -1
            elif data:
                self._queue(b"F", data)

    def _read(self, fd: int) -> bytes | None:
        """The available bytes; at the end of the stream closes the descriptor and returns None."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            os.close(fd)
            return None
        return data

    def _drain(self) -> None:
        """Collects what the program wrote before it ended; all writers are dead, so every pipe ends."""
        end = time.monotonic() + _DRAIN_S
        while not self.has_overflowed and time.monotonic() < end:
            fds = {fd for fd in (self.output_fd, self.error_fd, self.frames_fd) if fd >= 0}
            if self.frames_fd >= 0 and len(self.outgoing) >= _MAX_QUEUED:
                self._write_out()
            if not fds:
                return
            self._collect(set(select.select(list(fds), [], [], 0.05)[0]))

    def _queue(self, letter: bytes, data: bytes) -> None:
        self.outgoing += letter + struct.pack(">I", len(data)) + data

    def _write_out(self) -> None:
        try:
            while self.outgoing:
                del self.outgoing[: os.write(1, self.outgoing[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            self.is_gone = True
            self.outgoing.clear()

    def _end_family(self) -> None:
        """Kills descendants until none is left."""
        me = str(os.getpid())
        while True:
            with open(f"/proc/{me}/task/{me}/children") as file:
                children = [int(word) for word in file.read().split()]
            if not children:
                return
            for child in children:
                try:
                    os.kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            for child in children:
                try:
                    os.waitpid(child, 0)
                except ChildProcessError:
                    continue

    def _clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        uid = self.uid
        if uid is None:
            return
        for place in ("/tmp", "/var/tmp", "/dev/shm"):
            try:
                entries = list(os.scandir(place))
            except OSError:
                continue
            for entry in entries:
                is_own = entry.stat(follow_symlinks=False).st_uid == uid
                if is_own and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif is_own:
                    os.unlink(entry.path)
        _as_user(uid, lambda: _remove_system_v(self.libc, uid))  # its owner alone may

    def _sweep(self, place: str) -> None:
        """Kills and removes what killed supervisors left behind; the run's folder names them and its user."""
        for entry in os.scandir(place):
            pid = entry.name.removeprefix(_PREFIX).partition("-")[0]
            is_run = entry.name.startswith(_PREFIX) and pid.isdigit()
            if not is_run or os.path.exists(f"/proc/{pid}"):
                continue
            uid = entry.stat(follow_symlinks=False).st_uid
            if self.uid is not None and uid >= _FIRST_UID:
                _as_user(uid, lambda: os.kill(-1, signal.SIGKILL))
            shutil.rmtree(entry.path, ignore_errors=True)


def _as_user(uid: int, act: Callable[[], object]) -> None:
    """Calls `act` in a child process that runs as this user."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            act()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _remove_system_v(libc: ctypes.CDLL, uid: int) -> None:
    """Removes the System V objects of a user."""
    for kind, remove in (("shm", libc.shmctl), ("msg", libc.msgctl), ("sem", libc.semctl)):
        try:
            with open(f"/proc/sysvipc/{kind}") as table:
                names, *rows = [line.split() for line in table]
        except OSError:
            continue
        for row in rows:
            fields = dict(zip(names, row, strict=False))
            if fields.get("uid") == str(uid):
                number = int(row[1])  # after the key
                remove(number, 0, 0, None) if kind == "sem" else remove(number, 0, None)


if __name__ == "__main__":
    Supervisor().serve()
