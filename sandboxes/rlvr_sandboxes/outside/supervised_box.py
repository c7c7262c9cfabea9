"""What `unsafe` and `docker` share: every run is a supervisor process of its own, driven by threads."""

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, Program, RunResult
from rlvr_sandboxes.outside.gate import SlotGate
from rlvr_sandboxes.outside.link import Link, check_call

T = TypeVar("T")


class SupervisedSession:
    """A `SandboxSession` over one supervisor."""

    def __init__(self, link: Link, box: "SupervisedBox") -> None:
        self._link = link
        self._box = box
        self._result: RunResult | None = None
        self._closing = threading.Lock()

    async def send(self, frame: bytes) -> None:
        """Sends one frame; waits while the program's pipe is full. Raises EOFError when the program ended."""
        data = len(frame).to_bytes(4, "big") + frame
        await self._box.in_thread(self._link.write, data)

    async def receive(self, timeout_s: float) -> bytes:
        """Waits for one frame. Raises TimeoutError, EOFError or ValueError, as `SandboxSession` says."""
        return await self._box.in_thread(self._link.receive, timeout_s)

    async def close(self) -> RunResult:
        """Ends the program and frees its slot."""
        return await self._box.in_thread(self._close)

    def _close(self) -> RunResult:
        with self._closing:
            if self._result is None:
                try:
                    self._link.end_input()
                    self._result = self._link.wait()
                finally:
                    self._box.forget(self._link)
            return self._result


class SupervisedBox(ABC):
    """The common part of sandboxes whose runs are supervisor processes; `_link` is what differs."""

    def __init__(self, slots: int) -> None:
        self._gate = SlotGate(slots)
        self._executor: ThreadPoolExecutor | None = None
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    @abstractmethod
    async def start(self) -> None:
        """Makes ready for runs."""

    @abstractmethod
    def _link(self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits, *, is_session: bool) -> Link:
        """Starts a supervisor with this run."""

    async def run(self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> RunResult:
        """Runs `program` to its end, when a slot is free. Raises SandboxError when its supervisor broke twice."""
        check_call(program, files)
        await self.start()
        async with self._gate.one():
            try:
                return await self._run_once(program, files, stdin, limits)
            except SandboxError:
                if self._is_closed:
                    raise
            await self.start()
            return await self._run_once(program, files, stdin, limits)

    async def _run_once(
        self, program: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits
    ) -> RunResult:
        make = partial(self._link, program, files, limits, is_session=False)
        link = await self.in_thread(make)
        self._remember(link)
        try:
            return await self.in_thread(_feed_and_wait, link, stdin)
        finally:
            self._drop(link)

    async def open_session(
        self, program: Sequence[str], files: Mapping[str, bytes], limits: Limits
    ) -> SupervisedSession:
        """Starts a program to talk with, when a slot is free."""
        [session] = await self.open_sessions([Program(argv=tuple(program), files=files, limits=limits)])
        return session

    async def open_sessions(self, programs: Sequence[Program]) -> list[SupervisedSession]:
        """Starts programs that live at the same time; waits until all their slots are free."""
        for program in programs:
            check_call(program.argv, program.files)
        await self.start()
        await self._gate.acquire(len(programs))
        sessions: list[SupervisedSession] = []
        try:
            for program in programs:
                make = partial(self._link, program.argv, program.files, program.limits, is_session=True)
                link = await self.in_thread(make)
                self._remember(link)
                sessions.append(SupervisedSession(link, self))
        except BaseException:
            for session in sessions:
                await session.close()
            self._gate.release(len(programs) - len(sessions))
            raise
        return sessions

    async def close(self) -> None:
        """Ends every run; open ones fail with SandboxError."""
        self._is_closed = True
        with self._lock:
            links = list(self._links)
            executor, self._executor = self._executor, None
        for link in links:
            await asyncio.to_thread(link.kill)
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Calls a blocking function in a thread of this box: one for each slot to run, and one to write or close."""
        with self._lock:
            if self._is_closed:
                raise SandboxError("the sandbox was closed")
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=3 * self._gate.slots, thread_name_prefix="sandbox")
            future = self._executor.submit(function, *args)
        return await asyncio.wrap_future(future)

    def forget(self, link: Link) -> None:
        """A session's link is over: its slot is free again."""
        self._drop(link)
        self._gate.release()

    def _remember(self, link: Link) -> None:
        with self._lock:
            self._links.add(link)

    def _drop(self, link: Link) -> None:
        link.kill()
        with self._lock:
            self._links.discard(link)


def supervisor_source() -> str:
    """The program that supervises a run, as text: it is sent to where it runs."""
    return (Path(__file__).parents[1] / "inside" / "supervised.py").read_text(encoding="utf-8")


def _feed_and_wait(link: Link, stdin: bytes) -> RunResult:
    with contextlib.suppress(EOFError):  # a program need not read its input
        link.write(stdin)
    link.end_input()
    return link.wait()
