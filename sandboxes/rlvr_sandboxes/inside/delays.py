"""How long a run was ready for a core and got none: what the kernel says of its tasks, read by the zygote.

The time that counts for a wall limit is the time that passed less this delay, so that neighbours on the machine do
not take a program's time away. A program cannot write what is read here, and what it does to itself does not count:
it is ended by its processor time when it keeps its own tasks waiting, and a task that lowered its own priority or
chose its own cores has no delay. Standard library only: this file runs inside the box.
"""

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

SAMPLE_EVERY_S = 0.25
_CPU_SLACK_S = 0.02  # so that one busy task reaches its wall limit first
LONGEST_FACTOR, LONGEST_EXTRA_S = 10.0, 10.0  # as rlvr.protocols.Limits.longest_s


class _Task(NamedTuple):
    cpu_s: float
    delay_s: float  # of the waits that have ended
    is_ready: bool = False  # on a core, or waiting for one now


def longest_s(wall_s: float) -> float:
    """Seconds after which a run is ended however little of a core it got."""
    return LONGEST_FACTOR * wall_s + LONGEST_EXTRA_S


class Delays:
    """The clock of one run; `sample` at its pace. is_known: whether the kernel reported any schedule statistics."""

    def __init__(self, list_pids: Callable[[], Iterable[int]], start: float, wall_s: float) -> None:
        self._list_pids = list_pids
        self._start = self._last = start
        self._wall_s = wall_s
        self._longest = longest_s(wall_s)
        self._seen: dict[int, _Task] = {}
        self._ended_s = 0.0  # delays that are over
        self.delay_s = 0.0  # with the one that may be under way
        self.cpu_s = 0.0
        self.is_known = False

    def left_s(self, now: float) -> float:
        """Seconds until the run may have to end."""
        spent = now - self._start
        return min(self._wall_s + self.delay_s, self._longest) - spent

    def is_due(self, now: float) -> bool:
        """Whether it is time for `sample`."""
        return now - self._last >= SAMPLE_EVERY_S

    def verdict(self, now: float, cpu_limit_s: float) -> str:
        """Which limit of time the run is above: "cpu", "wall", "starved", or "" for none."""
        if now - self._start - self.delay_s >= self._wall_s:
            return "wall"
        if self.cpu_s > cpu_limit_s + _CPU_SLACK_S:
            return "cpu"
        return "starved" if now - self._start >= self._longest else ""

    def sample(self, now: float, *, overslept_s: float = 0.0) -> None:
        """Adds what was lost since the last sample: the delay of the task that waited longest.

        Delays of tasks at one moment are one loss and not several. overslept_s: how much later than asked the zygote
        itself woke, which is lost to all when the whole machine stood still.
        """
        passed = now - self._last
        lost, under_way = overslept_s, 0.0
        for task, (cpu_s, delay_s, is_ready) in self._read().items():
            before = self._seen.get(task, _Task(0.0, 0.0))
            used, waited = max(0.0, cpu_s - before.cpu_s), max(0.0, delay_s - before.delay_s)
            if is_ready:
                # the kernel adds a wait only when it ends; one still under way may account for all the missing time
                under_way = max(under_way, passed - used - waited)
            lost = max(lost, waited)
            self.cpu_s += used
            self._seen[task] = _Task(cpu_s, delay_s)
            self.is_known = True
        self._ended_s += min(max(0.0, lost), passed)
        self.delay_s = min(self._ended_s + under_way, now - self._start)
        self._last = now

    def _read(self) -> dict[int, _Task]:
        found: dict[int, _Task] = {}
        for pid in self._list_pids():
            try:
                for name in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{name}/schedstat", "rb") as file:
                        cpu, delay, _ = file.read().split()
                    with open(f"/proc/{pid}/task/{name}/stat", "rb") as file:
                        is_ready = file.read().rpartition(b") ")[2][:1] == b"R"
                    mine = _is_as_it_was_started(int(name))
                    waited = int(delay) * 1e-9 if mine else 0.0
                    found[int(name)] = _Task(int(cpu) * 1e-9, waited, is_ready and mine)
            except (OSError, ValueError):
                continue  # it ended meanwhile
        return found


def _is_as_it_was_started(task: int) -> bool:
    """Whether a task has the priority and the cores of this process, as every run does at its start."""
    priority = os.getpriority(os.PRIO_PROCESS, task) <= os.getpriority(os.PRIO_PROCESS, 0)
    return priority and os.sched_getaffinity(task) == os.sched_getaffinity(0)
