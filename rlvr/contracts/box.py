"""A sandbox as the contract sees it: short ways to run something, and what this machine shows of its processes."""

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from rlvr.protocols import Limits, RunResult, Sandbox

PROGRAM = ("python", "main.py")
FAST = Limits(wall_s=10.0)


def children_of_this_process() -> set[int]:
    """The process ids of all living descendants of this process; empty where there is no /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue  # it ended in the meantime
        if fields[0] != "Z":
            parents[int(entry.parent.name)] = int(fields[1])
    family = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        if not more:
            return family - {os.getpid()}
        family |= more


def processes_named(name: str) -> set[int]:
    """The ids of the living processes on this machine with this name (at most 15 characters)."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(errors="replace")
        except OSError:
            continue
        if f"({name})" in text and text.rpartition(")")[2].split()[0] != "Z":
            found.add(int(entry.parent.name))
    return found


def open_descriptors() -> int:
    """How many descriptors this process has open; 0 where there is no /proc."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


class Box:
    """One started sandbox under test.

    Args:
        children_before: descendants of this process from before the start; none of them is ever killed.
        num_rounds: runs that must together have met every slot.
    """

    def __init__(self, sandbox: Sandbox, *, children_before: set[int], num_rounds: int) -> None:
        self.sandbox = sandbox
        self.children_before = children_before
        self.num_rounds = num_rounds
        self.mark = f"rlvr{secrets.token_hex(5)}"  # short enough to be a process name

    async def python(
        self, source: str, *, stdin: bytes = b"", limits: Limits = FAST, files: Mapping[str, bytes] | None = None
    ) -> RunResult:
        """Runs Python source as `main.py`; MARK in it becomes a text that occurs nowhere else on this machine."""
        source = source.replace("MARK", self.mark)
        return await self.sandbox.run(PROGRAM, {"main.py": source.encode(), **(files or {})}, stdin, limits)

    def kill_one_child(self) -> int:
        """Kills the newest process that the sandbox started from here; 0 when there is none."""
        for pid in sorted(children_of_this_process() - self.children_before, reverse=True):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
            return pid
        return 0

    async def children_left(self) -> set[int]:
        """Processes of the sandbox that its close should have ended, after at most two seconds."""
        return await settled(lambda: children_of_this_process() - self.children_before)

    async def named_left(self, name: str) -> set[int]:
        """Processes of that name that are still there after at most two seconds."""
        return await settled(lambda: processes_named(name))


async def settled(find_left: Callable[[], set[int]], *, seconds: float = 2.0) -> set[int]:
    """Polls until nothing is left or the time is over; returns what is left."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := find_left()) and loop.time() < end:
        await asyncio.sleep(0.02)
    return left


Check = Callable[[Box], Awaitable[list[str]]]


def end_of(result: RunResult) -> str:
    """How a run ended, for a message."""
    flags = [
        name
        for name, is_set in (
            ("timed out", result.timed_out),
            ("out of memory", result.out_of_memory),
            ("overflowed", result.overflowed),
        )
        if is_set
    ]
    tail = result.stderr[-200:].decode("utf-8", "replace")
    return f"exit code {result.exit_code}{''.join(', ' + flag for flag in flags)}, stderr {tail!r}"
