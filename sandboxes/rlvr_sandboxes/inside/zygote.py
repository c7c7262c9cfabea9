"""The process that waits inside the box: warm, trusted, and forked once for each run.

    supervisor --(control socket: request + descriptors)--> zygote --fork--> program
               <-(how it ended: status, CPU, limits)-------

A request names its files, limits and descriptors; the zygote never sees what the program answers. It reports what the
kernel says, so a program cannot forge its own exit. One run at a time. When the control socket closes, it ends the
run and itself. Standard library only: this file runs inside the box.
"""

import array
import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from rlvr_sandboxes.inside import candidate, landlock_start, launch, limits
from rlvr_sandboxes.inside.candidate import Preloaded
from rlvr_sandboxes.inside.delays import SAMPLE_EVERY_S, Delays
from rlvr_sandboxes.inside.limits import RunLimits
from rlvr_sandboxes.inside.rooms import FIRST_KEPT, NUM_KEPT, NamespaceRoom, Room

_libc = ctypes.CDLL(None)
MAX_MESSAGE = 1 << 17
RUN, PRELOAD, CANCEL = b"R", b"P", b"C"
_WARM = [
    "array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "fractions",
    "functools", "heapq", "itertools", "math", "numbers", "operator", "queue", "random", "statistics", "string",
    "textwrap", "threading", "traceback", "typing", "unicodedata",
]  # fmt: skip


class Zygote:
    """Serves one control socket until it closes."""

    def __init__(self, control: socket.socket, room: Room, *, samples: bool, warm: Sequence[str]) -> None:
        self._control = control
        self._room = room
        self._samples = samples
        self._cold = {name.encode(): name for name in warm if name not in sys.modules}
        self._preloaded: dict[str, Preloaded] = {}
        self._is_ready = mmap.mmap(-1, mmap.PAGESIZE)  # shared with each run until it is locked in
        self._baseline = 0
        self._extra_tasks = 2

    def serve(self, extra_tasks: int) -> None:
        """Answers requests one by one. Returns when the supervisor is gone."""
        self._extra_tasks = extra_tasks
        self._settle()
        while True:
            message, descriptors = self._receive()
            if not message:
                return
            kind = message[:1]
            if kind == CANCEL:
                continue  # its run had already ended
            header, payload = unpack(message[1:], descriptors)
            if kind == PRELOAD:
                for name, size in header["sources"]:
                    self._preloaded[name] = candidate.preload(payload[:size], name)
                    payload = payload[size:]
                self._settle()
            elif kind == RUN:
                answer = self._run(header, payload, descriptors)
                self._control.send(json.dumps(answer).encode())

    def _warm_up(self, text: bytes) -> None:
        """Imports what programs are seen to name, once, so that no later run pays for it.

        Only then, because each loaded module makes every fork slightly more expensive.
        """
        seen = [word for word in self._cold if word in text]
        if seen:
            for word in seen:
                with contextlib.suppress(ImportError):
                    importlib.import_module(self._cold.pop(word))
            self._settle()

    def _settle(self) -> None:
        """Objects that exist now are never collected, and do not count as memory of a run.

        Each page slows every fork, so free memory goes back to the kernel.
        """
        gc.collect()
        _libc.malloc_trim(0)
        gc.freeze()
        self._baseline = limits.own_anonymous_bytes() if self._samples else 0

    def _receive(self) -> tuple[bytes, list[int]]:
        space = socket.CMSG_SPACE(8 * 4)
        message, ancillary, _, _ = self._control.recvmsg(MAX_MESSAGE, space)
        descriptors = array.array("i")
        for _, _, data in ancillary:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        return message, list(descriptors)

    def _run(self, header: dict[str, Any], payload: bytes, descriptors: list[int]) -> dict[str, Any]:
        self._warm_up(payload)
        run_limits = RunLimits(**header["limits"], extra_tasks=self._extra_tasks)
        self._is_ready[0] = 0
        start = time.monotonic()
        pid = self._room.fork()
        if pid == 0:
            try:
                self._become(header, payload, descriptors, run_limits)
            except BaseException as error:  # noqa: BLE001 - a child must never return into the zygote's loop
                os.write(2, f"box: {error!r}\n".encode())
            os._exit(125)
        for descriptor in descriptors:
            os.close(descriptor)
        answer = self._watch(pid, start, run_limits)
        answer["ready"] = self._is_ready[0] == 1
        self._room.clean()
        return answer

    def _become(
        self, header: dict[str, Any], payload: bytes, descriptors: Sequence[int], run_limits: RunLimits
    ) -> NoReturn:
        """The child: from here to the program."""
        gc.enable()
        argv: list[str] = header["argv"]
        total = sum(size for _, size in header["files"])
        self._room.enter(run_limits, run_limits.file_bytes + total + (1 << 20))
        sources: dict[str, bytes] = {}
        for name, size in header["files"]:
            content, payload = payload[:size], payload[size:]
            write_file(name, content)
            if name == argv[-1] or name in argv[1:2]:
                sources[name] = content
        place_descriptors(descriptors)
        os.setpgid(0, 0)  # a process group is signalled across process namespaces
        run_limits.apply()
        self._room.lock()
        self._is_ready[0] = 1
        self._is_ready.close()  # unmapped here: the last memory of the zygote that the program could write to
        if argv[0] == "preloaded":
            candidate.run_preloaded(self._preloaded[argv[1]], argv[1:])
        if argv[0] in ("python", "python3") and len(argv) > 1 and argv[1] in sources:
            candidate.run_source(sources[argv[1]], argv[1:])
        if argv[0] not in ("python", "python3"):
            limits.allow_stack(limits.STARTED_STACK_BYTES)
        candidate.execute(argv)

    def _watch(self, pid: int, start: float, run_limits: RunLimits) -> dict[str, Any]:
        """Waits for the end of the first process, the deadline, a cancellation or a limit; leaves it dead."""
        clock = Delays(self._room.pids, start, run_limits.wall_s)
        ended = os.pidfd_open(pid)
        try:
            cause = self._await_end(ended, clock, run_limits)
            if cause:
                if clock.is_due(time.monotonic()):
                    clock.sample(time.monotonic())
                os.kill(pid, signal.SIGKILL)
        finally:
            os.close(ended)
        _, status, usage = os.wait4(pid, 0)
        peak = usage.ru_maxrss * 1024
        if self._samples and not cause and peak - self._baseline > run_limits.memory_mb * limits.MIB:
            cause = "memory"
        return {
            "status": status,
            "cause": cause,
            "seconds": time.monotonic() - start,
            "cpu_s": max(usage.ru_utime + usage.ru_stime, clock.cpu_s),
            "delay_s": clock.delay_s if clock.is_known else None,
            "rss_bytes": peak,
        }

    def _await_end(self, ended: int, clock: Delays, run_limits: RunLimits) -> str:
        """Why the run has to be ended; "" when its first process, a pidfd, has ended by itself."""
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        pace = limits.SAMPLE_EVERY_S if self._samples else SAMPLE_EVERY_S
        cause = ""
        while not cause:
            asked = time.monotonic()
            wait = max(0.0, min(clock.left_s(asked), pace))
            events = poll.poll(wait * 1000)
            if any(descriptor == ended for descriptor, _ in events):
                break
            if events:
                # any message from the supervisor ends the run; so does its death
                message, unexpected = self._receive()
                for descriptor in unexpected:
                    os.close(descriptor)
                return "cancelled" if message else "orphaned"
            now = time.monotonic()
            if clock.is_due(now) or clock.left_s(now) <= 0.0:
                clock.sample(now, overslept_s=now - asked - wait)
                cause = clock.verdict(now, run_limits.total_cpu_s)
            if not cause and self._samples:
                cause = self._exceeded(run_limits)
        return cause

    def _exceeded(self, run_limits: RunLimits) -> str:
        """The limit that the run is above, where no cgroup holds it; else nothing."""
        pids = self._room.pids()
        limit = run_limits.memory_mb * limits.MIB
        if limits.memory_bytes(pids, limit=limit, baseline=self._baseline) > limit:
            return "memory"
        if limits.num_tasks(pids) > run_limits.pids:
            return "pids"
        size, entries = self._room.usage()
        if size > run_limits.file_bytes + limits.MIB or entries > 1024:
            return "files"
        return ""


def pack(header: dict[str, Any], payload: bytes) -> tuple[bytes, int]:
    """A request body, and a descriptor of a memfd with the payload when it is too long for a message (else -1)."""
    carried = -1
    if len(payload) > MAX_MESSAGE // 2:
        carried = os.memfd_create("payload", os.MFD_CLOEXEC)
        with open(carried, "wb", closefd=False) as file:
            file.write(payload)
        header = {**header, "carried": True}
        payload = b""
    head = json.dumps(header).encode()
    return struct.pack(">I", len(head)) + head + payload, carried


def unpack(body: bytes, descriptors: list[int]) -> tuple[dict[str, Any], bytes]:
    """The inverse of `pack`; a carried payload is the last descriptor, which is closed."""
    (length,) = struct.unpack_from(">I", body)
    header: dict[str, Any] = json.loads(body[4 : 4 + length])
    if not header.get("carried"):
        return header, body[4 + length :]
    with open(descriptors.pop(), "rb") as file:
        file.seek(0)
        return header, file.read()


def write_file(name: str, content: bytes) -> None:
    """Writes a file below the working directory; executable, because a program may be one."""
    folder = os.path.dirname(name)
    if folder:
        os.makedirs(folder, exist_ok=True)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def place_descriptors(descriptors: Sequence[int]) -> None:
    """Makes `descriptors` 0, 1, 2 ... and closes all others but the module paths that landlock_start keeps."""
    high = [os.dup2(number, 200 + index) for index, number in enumerate(descriptors)]
    for index, number in enumerate(high):
        os.dup2(number, index)
    os.closerange(len(descriptors), FIRST_KEPT)
    os.closerange(FIRST_KEPT + NUM_KEPT, 4096)


def main(argument: str) -> None:
    """Called with a JSON object; `box_config` in boxes.py has its keys."""
    os.environ.pop("LD_BIND_NOW", None)  # this process is bound; programs need not be
    config: dict[str, Any] = json.loads(argument)
    is_landlock = config["mode"] == "landlock"
    if is_landlock:
        launch.join(config["cgroups"])
        landlock_start.fork_guard(config["scratch"])
    control = socket.socket(fileno=os.dup(config["control"]))  # low, so that a run closes it
    os.close(config["control"])
    room: Room = (
        landlock_start.open_room(config)
        if is_landlock
        else NamespaceRoom(can_exec=config["can_exec"], has_proc=config["has_proc"])
    )
    sys.set_int_max_str_digits(0)  # programs may use numbers of any length; time limits bound them
    candidate.interactive_names()
    candidate.standard_streams()
    limits.apply_constant()
    room.prepare()
    candidate.rehearse()
    gc.disable()
    control.send(b"ready")
    warm = [*_WARM, *config["preimport"]]
    Zygote(control, room, samples=config["samples"], warm=warm).serve(config["extra_tasks"])
