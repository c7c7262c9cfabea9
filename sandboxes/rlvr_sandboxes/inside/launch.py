"""Runs between the supervisor and bubblewrap: joins the slot's cgroups and, as root, gives up root.

The slot's user may not be able to reach the interpreter (a root user's own folder is closed to others), so as root each
source is first bound to a place that everybody can reach, in a mount namespace of this process alone. Standard library
only; called as a script with one JSON argument.
"""

import ctypes
import json
import os
import stat
import sys
from typing import Any

_NEWNS, _BIND, _RECURSIVE, _SLAVE = 0x20000, 4096, 16384, 1 << 19
_REACHABLE = ("/usr/", "/etc/", "/dev/")
_libc = ctypes.CDLL(None, use_errno=True)


def main(argument: str) -> None:
    """Becomes bubblewrap. Raises OSError."""
    config: dict[str, Any] = json.loads(argument)
    join(config["cgroups"])
    os.set_inheritable(config["control"], True)
    head, binds, tail = list(config["head"]), config["binds"], config["tail"]
    folder, name = config["bubblewrap"]
    writable: list[str] = config.get("writable", [])
    sources = [folder, *(source for source, _ in binds), *writable]
    if config["uid"]:
        sources = stage(sources)
        become(config["uid"])
    bubblewrap = f"{sources[0]}/{name}"
    command = [bubblewrap, *head]
    for source, (_, target) in zip(sources[1:], binds, strict=False):
        command += ["--ro-bind", source, target]
    for source, target in zip(sources[1 + len(binds) :], writable, strict=True):
        command += ["--bind", source, target]
    os.execve(bubblewrap, [*command, *tail], {})


def join(files: list[str]) -> None:
    """Moves this process into cgroups, given by their `cgroup.procs`."""
    for file in files:
        with open(file, "w", encoding="ascii") as procs:
            procs.write("0")


def become(uid: int) -> None:
    """Gives up root for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def stage(sources: list[str]) -> list[str]:
    """The same sources at paths that any user can reach; as they are where this process may not mount."""
    if _libc.unshare(_NEWNS):
        return sources
    mount(None, "/", None, _RECURSIVE | _SLAVE)
    moved = [path for path in sources if not path.startswith(_REACHABLE)]
    descriptors = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in moved]
    mount("tmpfs", "/tmp", "tmpfs", 0, "mode=0755,size=1m")
    places: dict[str, str] = {}
    for index, (path, descriptor) in enumerate(zip(moved, descriptors, strict=True)):
        place = f"/tmp/{index}"
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o755))
        mount(f"/proc/self/fd/{descriptor}", place, None, _BIND | _RECURSIVE)
        places[path] = place
    return [places.get(path, path) for path in sources]


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2). Raises OSError."""
    words = [word.encode() if word else None for word in (source, target, kind)]
    if _libc.mount(*words, flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} on {target}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1])
