"""One warm zygote seen from outside: start, one run or session at a time, stop.

Programs write into memory files, not pipes: nothing waits for an end of file that a left-over process could hold back,
and the output is read after the kernel has ended every process of the run. A run costs one message each way.
"""

import array
import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult
from rlvr_sandboxes.inside import zygote
from rlvr_sandboxes.outside.cgroups import Cgroup
from rlvr_sandboxes.outside.request import Output, Request

START_TIMEOUT_S = 60.0
GRACE_S = 15.0  # how long after its deadline the zygote may be late before it counts as broken


class BrokenBoxError(SandboxError):
    """The box broke under a run; it is replaced, and the run is tried once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A zygote that is starting: its process, the cgroup round it, and what to give back when it is gone."""

    process: subprocess.Popen[bytes]
    cgroup: Cgroup | None
    cleanup: Callable[[], None]


class Box(Protocol):
    """How a backend starts a zygote that answers on `control`, with `errors` as its stderr."""

    def launch(self, control: socket.socket, errors: int) -> Launched:
        """Raises SandboxError or OSError."""
        ...


class Slot:
    """A zygote and its box. `start` and `stop` block; the rest belongs to one run at a time.

    Who closes what: the descriptor of the zygote belongs to `stop`, which runs once at a time and does its work once.
    The control socket belongs to the run that the slot is lent to; `stop` only shuts it down then, which wakes it,
    and `give_back` closes it.
    """

    def __init__(self, box: Box) -> None:
        self._box = box
        self._control: socket.socket | None = None
        self._launched: Launched | None = None
        self._zygote_pidfd = -1
        self._preloaded = 0
        self._owner = threading.Lock()
        self._stopping = threading.Lock()
        self._is_stopped = False
        self.is_lent = False
        self.num_runs = 0
        self.is_broken = True

    def start(self) -> None:
        """Starts the zygote and waits until it is warm. Raises SandboxError with what the box said."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with tempfile.TemporaryFile() as errors, theirs:
            try:
                self._launched = self._box.launch(theirs, errors.fileno())
                theirs.close()
                ours.setblocking(False)
                _await_ready(ours, self._launched.process.pid)
                self._zygote_pidfd = _open_innermost(self._launched.process.pid)
            except BaseException as error:
                if self._launched is not None:
                    _kill_group(self._launched.process.pid)
                with contextlib.suppress(SandboxError, OSError):
                    self.stop()
                if not isinstance(error, (OSError, SandboxError)):
                    raise
                errors.seek(0)
                said = errors.read()[-2000:].decode("utf-8", "replace").strip()
                raise SandboxError(f"a box did not start: {error}. It said: {said or 'nothing'}") from error
        self._preloaded = self.num_runs = 0
        self.is_broken = False

    def stop(self) -> None:
        """Ends the box and everything in it, and removes its traces. Raises SandboxError when something stays."""
        self.is_broken = True
        with self._stopping:
            with self._owner:
                control = self._control
                is_mine = not self.is_lent
                self._is_stopped = True
                if is_mine:
                    self._control = None
            if control is not None:
                with contextlib.suppress(OSError):
                    control.shutdown(socket.SHUT_RDWR)  # the zygote ends its run and itself
                if is_mine:
                    control.close()
            zygote_pidfd, self._zygote_pidfd = self._zygote_pidfd, -1
            launched, self._launched = self._launched, None
            if zygote_pidfd >= 0:
                if not _is_readable(zygote_pidfd, 2.0):
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(zygote_pidfd, signal.SIGKILL)
                    _is_readable(zygote_pidfd, 5.0)
                os.close(zygote_pidfd)
            if launched is None:
                return
            try:
                launched.process.wait(5.0)
            except subprocess.TimeoutExpired:
                launched.process.kill()
                launched.process.wait()
            launched.cleanup()

    def lend(self) -> None:
        """From here on the control socket is the borrower's, until `give_back`."""
        with self._owner:
            self.is_lent = True

    def give_back(self) -> None:
        """The borrower is done; closes what `stop` had to leave open for it."""
        with self._owner:
            self.is_lent = False
            if self._is_stopped and self._control is not None:
                self._control.close()
                self._control = None

    def forget(self) -> None:
        """In a forked child: closes the copies of this slot's descriptors, so that its box ends with its owner."""
        self.is_broken = True
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote_pidfd >= 0:
            os.close(self._zygote_pidfd)
            self._zygote_pidfd = -1
        self._launched = None

    def is_alive(self) -> bool:
        """Whether both the box and its zygote are running; a cheap check before each use."""
        launched = self._launched
        return not self.is_broken and launched is not None and launched.process.poll() is None

    def preload(self, sources: Mapping[str, str]) -> None:
        """Sends trusted sources that the zygote does not have yet."""
        fresh = list(sources.items())[self._preloaded :]
        if fresh:
            texts = [text.encode() for _, text in fresh]
            names = [[name, len(text)] for (name, _), text in zip(fresh, texts, strict=True)]
            self._send(zygote.PRELOAD, {"sources": names}, b"".join(texts), [])
            self._preloaded = len(sources)

    def begin(self, request: Request, descriptors: Sequence[int]) -> None:
        """Starts a run on these descriptors as 0, 1, 2 ... Raises BrokenBoxError."""
        self.num_runs += 1
        limits = request.limits
        cgroup = self._launched.cgroup if self._launched else None
        if cgroup is not None:
            try:
                cgroup.set_limits(limits.memory_mb, limits.pids)
            except OSError as error:
                raise self._broken(f"its cgroup refused the limits ({error})") from error
        header = {
            "argv": list(request.argv),
            "files": [[name, len(content)] for name, content in request.files.items()],
            "limits": {
                "wall_s": limits.wall_s,
                "cpu_s": request.cpu_s,
                "total_cpu_s": limits.cpu_s or limits.wall_s,
                "memory_mb": limits.memory_mb,
                "pids": limits.pids,
                "output_bytes": limits.output_bytes,
                "file_bytes": limits.file_bytes,
            },
        }
        self._send(zygote.RUN, header, b"".join(request.files.values()), descriptors)

    def cancel(self) -> None:
        """Ends the run now; its answer still comes."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(zygote.CANCEL)

    async def answer(self, timeout_s: float) -> dict[str, Any]:
        """The zygote's word on the end of the run. Raises BrokenBoxError."""
        control = self._control
        if control is None:
            raise self._broken("it was closed")
        try:
            await readable(control.fileno(), timeout_s)
            word = control.recv(65536)
        except TimeoutError as error:
            raise self._broken("its zygote does not answer") from error
        except OSError as error:
            raise self._broken(f"its control socket failed ({error})") from error
        if not word:
            raise self._broken("its zygote died")
        return json.loads(word)

    def answer_blocking(self, timeout_s: float) -> bool:
        """Takes the answer of an abandoned run, in a thread; False when none came."""
        if self._control is None:
            return False
        try:
            is_there = _is_readable(self._control.fileno(), timeout_s)
            return is_there and bool(self._control.recv(65536))
        except OSError:
            return False

    def result(self, answer: Mapping[str, Any], output: Output, limits: Limits) -> RunResult:
        """What the run is for its caller. Raises BrokenBoxError when the box never came to the program."""
        errors = _tail(output.stderr, limits.stderr_bytes)
        if not answer["ready"] and answer["cause"] != "cancelled":
            raise self._broken(f"it could not be built: {errors.decode('utf-8', 'replace')}")
        written = os.fstat(output.stdout).st_size
        exit_code = os.waitstatus_to_exitcode(answer["status"])
        cause = answer["cause"]
        return RunResult(
            exit_code=exit_code,
            stdout=os.pread(output.stdout, min(written, limits.output_bytes), 0),
            stderr=errors,
            seconds=answer["seconds"],
            cpu_s=answer["cpu_s"],
            memory_mb=answer["rss_bytes"] / 2**20,
            delay_s=answer["delay_s"],
            # without a `cpu_s`, both limits of time are the same: under load either may be reached first
            timed_out=cause in ("wall", "starved") or (cause == "cpu" and not limits.cpu_s),
            starved=cause == "starved",
            out_of_memory=cause == "memory" or (exit_code != 0 and self.was_out_of_memory()),
            overflowed=written > limits.output_bytes,
        )

    def was_out_of_memory(self) -> bool:
        """Whether the kernel ended a process of this slot for its memory since the last question."""
        cgroup = self._launched.cgroup if self._launched else None
        return cgroup is not None and cgroup.was_killed()

    def _send(self, kind: bytes, header: dict[str, Any], payload: bytes, descriptors: Sequence[int]) -> None:
        if self._control is None:
            raise self._broken("it was closed")
        body, carried = zygote.pack(header, payload)
        passed = [*descriptors, *([carried] if carried >= 0 else [])]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed).tobytes())]
        try:
            self._control.sendmsg([kind, body], rights if passed else [])
        except OSError as error:
            raise self._broken(f"its control socket failed ({error})") from error
        finally:
            if carried >= 0:
                os.close(carried)

    def _broken(self, why: str) -> BrokenBoxError:
        self.is_broken = True
        return BrokenBoxError(f"a box broke: {why}")


async def run_in(slot: Slot, request: Request) -> RunResult:
    """Runs one program to its end. Raises BrokenBoxError."""
    output = Output.create(request.stdin)
    try:
        slot.begin(request, (output.stdin, output.stdout, output.stderr))
        start = time.monotonic()
        try:
            answer = await slot.answer(request.limits.longest_s + GRACE_S)
        except BrokenBoxError:
            if not slot.was_out_of_memory():
                raise
            # the program took so much that the kernel ended the zygote with it: its own doing
            seconds = time.monotonic() - start
            return RunResult(exit_code=-signal.SIGKILL, stdout=b"", stderr=b"", seconds=seconds, out_of_memory=True)
        return slot.result(answer, output, request.limits)
    finally:
        output.close()


async def readable(descriptor: int, timeout_s: float) -> None:
    """Returns when `descriptor` has something to read or its other end closed. Raises TimeoutError."""
    await _ready(descriptor, timeout_s, reading=True)


async def writable(descriptor: int, timeout_s: float) -> None:
    """Returns when `descriptor` takes bytes or its other end closed. Raises TimeoutError."""
    await _ready(descriptor, timeout_s, reading=False)


async def _ready(descriptor: int, timeout_s: float, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def settle(is_ready: bool) -> None:
        if not future.done():
            future.set_result(is_ready)

    (loop.add_reader if reading else loop.add_writer)(descriptor, settle, True)
    timer = loop.call_later(max(0.0, timeout_s), settle, False)
    try:
        if not await future:
            raise TimeoutError(f"nothing within {timeout_s:g} s")
    finally:
        timer.cancel()
        (loop.remove_reader if reading else loop.remove_writer)(descriptor)


def _tail(descriptor: int, size: int) -> bytes:
    written = os.fstat(descriptor).st_size
    return os.pread(descriptor, min(written, size), max(0, written - size))


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    """Waits, in a thread, until there is something to read or the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * timeout_s))


def _await_ready(control: socket.socket, pid: int) -> None:
    """Waits for the zygote's first word, and no longer than process `pid`, which starts it, lives.

    Bubblewrap's child waits for bubblewrap to map its users, forever when that was killed meanwhile, and holds the
    other end of `control` open. Raises SandboxError.
    """
    process = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(control, select.POLLIN)
        poll.register(process, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(1000 * START_TIMEOUT_S)]
    finally:
        os.close(process)
    if not ready:
        raise SandboxError(f"it was not ready after {START_TIMEOUT_S:g} s")
    if control.fileno() not in ready or not control.recv(65536):
        raise SandboxError("it ended before it was ready")


def _kill_group(pid: int) -> None:
    """Ends what process `pid`, not reaped yet, has started and what has not left its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _open_innermost(pid: int) -> int:
    """A pidfd of the last process in a chain of only children: the zygote below bubblewrap or below its guard.

    Raises: OSError when it ends meanwhile, so that the number may be another's.
    """
    found = _innermost(pid)
    descriptor = os.pidfd_open(found)
    if _innermost(pid) != found:
        os.close(descriptor)
        raise ProcessLookupError(errno.ESRCH, "it ended when it was just ready")
    return descriptor


def _innermost(pid: int) -> int:
    """The last process in a chain of only children: the zygote below bubblewrap or below its guard."""
    while True:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = file.read().split()
        if not children:
            return pid
        pid = int(children[0])
