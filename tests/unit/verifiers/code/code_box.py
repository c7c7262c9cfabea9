"""A sandbox for tests of the `code` verifier's protocol: a plain subprocess for each program. It isolates nothing."""

import asyncio
import contextlib
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from rlvr.protocols import Capability, Limits, Program, RunResult

MAX_FRAME = 32 << 20


class PlainBox:
    """Stops nothing: a program here has the user's rights. Only for tests of what is evaluated outside."""

    name: ClassVar[str] = "plain"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.SESSION})
    Config: ClassVar[type[BaseModel]] = BaseModel

    def __init__(self) -> None:
        self.num_runs = 0
        self.seen_files: list[dict[str, bytes]] = []
        self.sent_frames: list[tuple[str, bytes]] = []

    async def start(self) -> None:
        """Nothing to build."""

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs a program to its end."""
        self.num_runs += 1
        self.seen_files.append(dict(files))
        with tempfile.TemporaryDirectory() as folder:
            argv = _prepare(program, files, folder)
            start = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin"},
                start_new_session=True,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            timed_out = False
            try:
                out, err = await asyncio.wait_for(process.communicate(stdin), limits.wall_s)
            except TimeoutError:
                timed_out = True
                os.killpg(process.pid, signal.SIGKILL)
                out, err = b"", b""
                await process.wait()
            return RunResult(
                exit_code=process.returncode or 0,
                stdout=out[: limits.output_bytes],
                stderr=err,
                seconds=time.monotonic() - start,
                cpu_s=limits.wall_s if timed_out else 0.01,
                timed_out=timed_out,
                overflowed=len(out) > limits.output_bytes,
            )

    async def open_session(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits) -> "PlainSession":
        """Starts a program with a session."""
        self.num_runs += 1
        self.seen_files.append(dict(files))
        return await PlainSession.start(self, program, files, limits)

    async def open_sessions(self, programs: Sequence[Program]) -> list["PlainSession"]:
        """Starts several."""
        return [await self.open_session(p.argv, p.files, p.limits) for p in programs]

    async def self_test(self) -> tuple[str, ...]:
        """It is not safe."""
        return ("nothing is isolated",)

    async def close(self) -> None:
        """Nothing to end."""


class PlainSession:
    """Frames over pipes to a subprocess."""

    @classmethod
    async def start(
        cls, box: PlainBox, program: Sequence[str], files: Mapping[str, bytes], limits: Limits
    ) -> "PlainSession":
        """A running program."""
        self = cls()
        self.box, self.limits, self.name = box, limits, program[-1]
        self.folder = tempfile.TemporaryDirectory()
        argv = _prepare(program, files, self.folder.name)
        reads, self.writes = os.pipe()
        ours, writes = os.pipe()
        # 3 and 4 are set in the shell, whose own descriptors are out of the way by then
        shell = f'exec "$@" 3<&{reads} 4>&{writes} {reads}<&- {writes}>&-'
        self.process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "-c",
            shell,
            "bash",
            *argv,
            cwd=self.folder.name,
            env={"PATH": "/usr/bin:/bin"},
            start_new_session=True,
            pass_fds=(reads, writes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self.reader = asyncio.StreamReader(limit=MAX_FRAME + 64)
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.reader), os.fdopen(ours, "rb")
        )
        self.started = time.monotonic()
        self.result: RunResult | None = None
        return self

    async def send(self, frame: bytes) -> None:
        """Writes a frame; a pipe that is gone is the program's end."""
        self.box.sent_frames.append((self.name, frame))
        data = struct.pack(">I", len(frame)) + frame
        try:
            await asyncio.to_thread(_write_all, self.writes, data)
        except BrokenPipeError:
            raise EOFError from None

    async def receive(self, timeout_s: float) -> bytes:
        """Reads a frame; past the wall limit the program is ended."""
        left = self.limits.wall_s - (time.monotonic() - self.started)
        try:
            return await asyncio.wait_for(self._frame(), max(0.001, min(timeout_s, left)))
        except TimeoutError:
            if time.monotonic() - self.started < self.limits.wall_s:
                raise
            await self._end(timed_out=True)
            raise EOFError from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise EOFError from None

    async def _frame(self) -> bytes:
        (size,) = struct.unpack(">I", await self.reader.readexactly(4))
        if size > MAX_FRAME:
            raise ValueError(f"a frame of {size} bytes")
        return await self.reader.readexactly(size)

    async def close(self) -> RunResult:
        """Ends the program."""
        if self.result is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), 0.05)
            await self._end(timed_out=False)
        assert self.result is not None
        return self.result

    async def _end(self, *, timed_out: bool) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
        self.transport.close()
        os.close(self.writes)
        self.folder.cleanup()
        seconds = time.monotonic() - self.started
        self.result = RunResult(
            exit_code=self.process.returncode or 0,
            stdout=b"",
            stderr=b"",
            seconds=seconds,
            cpu_s=self.limits.wall_s if timed_out else 0.01,
            timed_out=timed_out,
        )


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _prepare(program: Sequence[str], files: Mapping[str, bytes], folder: str) -> list[str]:
    for name, content in files.items():
        path = Path(folder, name)
        path.write_bytes(content)
        path.chmod(0o755)
    if program[0] == "python":
        return [sys.executable, "-I", *program[1:]]
    return list(program)
