"""A control group round one slot: memory and processes of all that runs there, in version 1 or 2 of the hierarchy.

Where none is writable (an unprivileged user, a default container) `create` returns None, and the zygote samples.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import SandboxError

PREFIX = "rlvr-box"
_NEEDED = ("memory", "pids")
# besides the run: the zygote's memory; the zygote, and bubblewrap or the guard above it
OVERHEAD_MB = 64
OVERHEAD_TASKS = 2


@dataclass(frozen=True, slots=True)
class Places:
    """Where new groups can be made. version 2 has one folder for both controllers, version 1 one for each."""

    version: int
    folders: Mapping[str, Path]


def find_places(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Places | None:
    """The folders below this process's own groups where groups with memory and process limits can be made, or None.

    Version 2: the nearest ancestor that is writable and hands both controllers to its children. Version 1: this
    process's own group in each hierarchy, so that the limits of an outer container still hold.
    """
    own: dict[str, str] = {}
    try:
        lines = (proc / "self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    first = {name: _own_folder(root / name, own.get(name, "/")) for name in _NEEDED}
    if all(folder is not None and os.access(folder, os.W_OK) for folder in first.values()):
        return Places(1, {name: folder for name, folder in first.items() if folder is not None})
    for mount in (root, root / "unified"):
        folder = _own_folder(mount, own.get("", "/"))
        while folder is not None and (folder / "cgroup.subtree_control").exists():
            if _hands_down(folder):
                return Places(2, {"": folder})
            folder = folder.parent if folder != mount else None
    return None


def _own_folder(mount: Path, path: str) -> Path | None:
    """A process's group below a mount; the mount itself in a container that shows only its own part."""
    folder = mount / path.lstrip("/")
    if (folder / "cgroup.procs").exists():
        return folder
    return mount if (mount / "cgroup.procs").exists() else None


def _hands_down(folder: Path) -> bool:
    if not os.access(folder, os.W_OK) or not os.access(folder / "cgroup.procs", os.W_OK):
        return False
    try:
        offered = (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    except OSError:
        return False
    return all(name in offered for name in _NEEDED)


class Cgroup:
    """The group of one slot. `set_limits` before each run whose limits differ; `remove` when its processes are gone."""

    def __init__(self, places: Places, name: str) -> None:
        self.version = places.version
        self._folders = {key: folder / name for key, folder in places.folders.items()}
        self._limits = (0, 0)
        for folder in self._folders.values():
            folder.mkdir(exist_ok=True)
        self._num_kills = self._read_kills()

    @property
    def procs_files(self) -> list[str]:
        """The files that a process writes itself into."""
        return [str(folder / "cgroup.procs") for folder in self._folders.values()]

    def set_limits(self, memory_mb: int, pids: int) -> None:
        """Raises OSError when the kernel refuses (the group uses more than the new limit)."""
        if (memory_mb, pids) == self._limits:
            return
        memory = str((memory_mb + OVERHEAD_MB) << 20)
        if self.version == 1:
            folder = self._folders["memory"]
            swap = folder / "memory.memsw.limit_in_bytes"
            files = [folder / "memory.limit_in_bytes", *([swap] if swap.exists() else [])]
            # swap must never be below memory: raise it first, lower it last
            for file in files if memory_mb < self._limits[0] or not self._limits[0] else files[::-1]:
                _write(file, memory)
            _write(self._folders["pids"] / "pids.max", str(pids + OVERHEAD_TASKS))
        else:
            folder = self._folders[""]
            _write(folder / "memory.max", memory)
            if (folder / "memory.swap.max").exists():
                _write(folder / "memory.swap.max", "0")
            _write(folder / "pids.max", str(pids + OVERHEAD_TASKS))
        self._limits = (memory_mb, pids)

    def was_killed(self) -> bool:
        """Whether the kernel ended a process of this group for its memory since the last call."""
        before, self._num_kills = self._num_kills, self._read_kills()
        return self._num_kills > before

    def _read_kills(self) -> int:
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        folder = self._folders["memory" if self.version == 1 else ""]
        with contextlib.suppress(OSError):
            for line in (folder / name).read_text(encoding="ascii").splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def remove(self, timeout_s: float = 5.0) -> None:
        """Removes the group once its last process is gone. Raises SandboxError when one stays."""
        end = time.monotonic() + timeout_s
        for folder in self._folders.values():
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError as error:
                    if time.monotonic() > end:
                        raise SandboxError(
                            f"cgroup {folder} cannot be removed ({error.strerror}): processes "
                            f"{(folder / 'cgroup.procs').read_text().split()} are still in it"
                        ) from error
                    time.sleep(0.005)


def create(places: Places | None, name: str) -> Cgroup | None:
    """A group `name` (unique on this machine), or None where groups cannot be made."""
    if places is None:
        return None
    try:
        return Cgroup(places, name)
    except OSError:
        return None


def sweep(places: Places | None) -> int:
    """Removes empty groups that a killed supervisor left (their names hold its process id); how many."""
    removed = 0
    for parent in places.folders.values() if places else ():
        for folder in parent.glob(f"{PREFIX}-*-*"):
            owner = folder.name.split("-")[2]
            if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    removed += 1
    return removed


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="ascii")
