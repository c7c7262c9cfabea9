"""Limits of a run from the inside: rlimits that a process gives itself, and a sampler where no cgroup counts.

Standard library only: this file also runs inside the box.
"""

import math
import os
import resource
from collections.abc import Iterable
from typing import NamedTuple

MIB = 1 << 20
ADDRESS_SPACE_SLACK_MB = 768  # thread stacks and OpenBLAS reserve far more than they touch
SAMPLE_EVERY_S = 0.02
# The kernel leaves at least 128 MiB for the stack of a process that is running already, and what is asked for to one
# that is started; programming contests allow recursion to use all memory.
STACK_BYTES, STARTED_STACK_BYTES = 120 * MIB, 256 * MIB
_PAGE = resource.getpagesize()


class RunLimits(NamedTuple):
    """The limits of one run as the zygote gets them; `total_cpu_s` is of all its processes
    together, `cpu_s` of each; `extra_tasks` are those of the same user besides the run."""

    wall_s: float
    cpu_s: float
    memory_mb: int
    pids: int
    output_bytes: int
    file_bytes: int
    total_cpu_s: float = math.inf
    extra_tasks: int = 2

    def apply(self) -> None:
        """Sets the rlimits of this process that differ from run to run; children inherit them."""
        files = max(self.file_bytes, self.output_bytes + 1)
        space = (self.memory_mb + ADDRESS_SPACE_SLACK_MB) * MIB
        _set(resource.RLIMIT_CPU, math.ceil(self.cpu_s))
        _set(resource.RLIMIT_FSIZE, files)
        _set(resource.RLIMIT_NOFILE, 128)
        _set(resource.RLIMIT_AS, space)
        _set(resource.RLIMIT_NPROC, self.pids + self.extra_tasks)
        allow_stack(STACK_BYTES)


def apply_constant() -> None:
    """Sets the rlimits that are the same for all runs, once, in the zygote.

    RLIMIT_CORE is 1 and not 0: with 0 a kernel that pipes cores to a handler still starts it, with 1 it does not.
    """
    for which, value in (
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_MEMLOCK, 65536),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 256),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_NICE, 0),
    ):
        _set(which, value)


def apply_to_worker(*, file_bytes: int, num_files: int, tasks: int) -> None:
    """Sets the rlimits of a worker that is forked for its items, and which they inherit."""
    _set(resource.RLIMIT_FSIZE, file_bytes)
    _set(resource.RLIMIT_NOFILE, num_files)
    _set(resource.RLIMIT_NPROC, tasks)


def allow_stack(size: int) -> None:
    """Sets how far the stack may grow, as far as the hard limit goes, which stays: programs raise theirs themselves."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (size, hard))


def _set(which: int, value: int) -> None:
    """Both limits; without privilege a hard limit only sinks."""
    try:
        resource.setrlimit(which, (value, value))
    except ValueError:
        hard = resource.getrlimit(which)[1]
        if not 0 <= hard < value:
            raise
        resource.setrlimit(which, (hard, hard))


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, which must be a subreaper or the first process of its namespace."""
    found: list[int] = []
    queue = [pid]
    while queue and len(found) < 4096:
        parent = queue.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            children = _read(f"/proc/{parent}/task/{thread}/children").split()
            queue += map(int, children)
            found += map(int, children)
    return found


def num_tasks(pids: Iterable[int]) -> int:
    """Processes and threads."""
    total = 0
    for pid in pids:
        try:
            total += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            continue
    return total


def own_anonymous_bytes() -> int:
    """What a fresh fork shares with its zygote: not yet memory of the run."""
    return _status_bytes(os.getpid())


def memory_bytes(pids: Iterable[int], *, limit: int, baseline: int) -> int:
    """Resident memory of all these processes together, each page once as soon as the sum nears `limit`.

    The quick sum counts a page that two processes share twice, so above the limit the proportional set sizes are
    read; where that is impossible the quick sum is returned.
    """
    pids = list(pids)
    quick = sum(max(0, _status_bytes(pid) - baseline) for pid in pids)
    if quick <= limit:
        return quick
    exact = 0
    for pid in pids:
        rollup = _read(f"/proc/{pid}/smaps_rollup")
        line = next((row for row in rollup.splitlines() if row.startswith("Pss:")), None)
        if line is None:
            if os.path.exists(f"/proc/{pid}"):
                return quick
            continue
        exact += int(line.split()[1]) * 1024
    return exact


def tree_usage(root: int) -> tuple[int, int]:
    """Bytes on disk and number of entries below a directory, given by descriptor; stops counting at 5,000 entries."""
    size = entries = 0
    for _, folders, files, descriptor in os.fwalk(".", dir_fd=root, onerror=None):
        entries += len(folders) + len(files)
        for name in files:
            try:
                size += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
        if entries > 5000:
            break
    return size, entries


def _status_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process; pages of files are the machine's and not counted."""
    rows = (row.split() for row in _read(f"/proc/{pid}/status").splitlines())
    return sum(1024 * int(row[1]) for row in rows if row and row[0] in ("RssAnon:", "RssShmem:"))


def _read(path: str) -> str:
    """The text of a file of /proc; empty when the process is gone."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
