"""How a Landlock zygote starts: a guard above it, the user it becomes, and the modules it can still reach afterwards.

Standard library only: this file runs as the zygote, before any program.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

from rlvr_sandboxes.inside import landlock_rules, launch
from rlvr_sandboxes.inside.rooms import (
    FIRST_KEPT,
    NUM_KEPT,
    LandlockRoom,
    Rule,
    become_subreaper,
    enclose_signals,
    kill_descendants,
)

# A supervisor that is killed closes the control socket, which the zygote sees, a moment before the directory.
_LOOKS, _BETWEEN_LOOKS_S = 10, 0.005


def fork_guard(scratch: str) -> None:
    """Returns in a child. The parent stays as the guard: when the zygote dies, by whatever hand, it ends what is left,
    and removes the slot's directory where the supervisor is gone too.

    Without it a run whose zygote was killed would go on with no limit on its time. Below Landlock 6 (only as root) it
    leaves that to the kernel, which ends the first process of a run with its zygote.
    """
    become_subreaper()
    can_kill = landlock_rules.abi() >= 6
    if can_kill:
        enclose_guard()
    zygote = os.fork()
    if zygote == 0:
        return
    os.closerange(3, 4096)  # or the control socket would outlive the supervisor here
    while True:
        pid, _ = os.waitpid(-1, 0)
        if pid == zygote:
            if can_kill:
                kill_descendants()
            _remove_orphaned(scratch)
            os._exit(0)


def _remove_orphaned(scratch: str) -> None:
    """Removes the slot's directory unless the supervisor holds it, which removes it itself."""
    with contextlib.suppress(OSError):
        descriptor = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        for _ in range(_LOOKS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_BETWEEN_LOOKS_S)
            else:
                shutil.rmtree(scratch, ignore_errors=True)
                return


def enclose_guard() -> None:
    """Proves on a child from before that the guard's signals stay inside."""
    reading, writing = os.pipe()
    outsider = os.fork()
    if outsider == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        enclose_signals(outsider)
    finally:
        os.close(writing)
        os.waitpid(outsider, 0)


def open_room(config: dict[str, Any]) -> LandlockRoom:
    """The room of this zygote, and as root the change to the slot's own user. Raises OSError."""
    packages: list[tuple[str, str]] = config["packages"]
    rules: list[Rule] = [(path, landlock_rules.READ_EXECUTE) for path in config["readable"]]
    rules += [(path, landlock_rules.Access.READ_DIR) for path in config["listed"]]
    rules += [(place, landlock_rules.READ_EXECUTE) for _, place in packages]
    folder = f"{config['scratch']}/packages"
    os.mkdir(folder, 0o755)
    rules.append((folder, landlock_rules.READ))
    os.mkdir(f"{config['scratch']}/run", 0o700)
    kept = keep([*sys.path, *(place for _, place in packages)])
    if config["uid"]:
        os.chown(folder, config["uid"], config["uid"])
        os.chown(f"{config['scratch']}/run", config["uid"], config["uid"])
    room = LandlockRoom(
        can_exec=config["can_exec"], owns_user=bool(config["uid"]), scratch=f"{config['scratch']}/run", rules=rules
    )
    if config["uid"]:
        launch.become(config["uid"])
    reached = reach(kept)
    for name, place in packages:
        os.symlink(reached[place], f"{folder}/{name}")
    sys.path[:] = [*(reached[path] for path in sys.path), folder]
    redirect_packages(reached)
    sys.executable = _reachable_interpreter(config["executable"])
    return room


def keep(paths: Iterable[str]) -> dict[str, int]:
    """A descriptor of each path that exists, from FIRST_KEPT on."""
    kept: dict[str, int] = {}
    for path in dict.fromkeys(paths):
        if not os.path.exists(path):
            kept[path] = -1
            continue
        low = os.open(path, os.O_PATH | os.O_CLOEXEC)
        kept[path] = fcntl.fcntl(low, fcntl.F_DUPFD, FIRST_KEPT)
        os.close(low)
    if len(kept) >= NUM_KEPT:  # one is for the ruleset
        raise OSError(f"{len(kept)} module paths; the box keeps at most {NUM_KEPT}")
    return kept


def reach(kept: dict[str, int]) -> dict[str, str]:
    """Each path as this user can reach it: itself, or through the descriptor opened before (then it stays open)."""
    reached: dict[str, str] = {}
    for path, descriptor in kept.items():
        if descriptor < 0 or os.access(path, os.R_OK):
            reached[path] = path
            if descriptor >= 0:
                os.close(descriptor)
        else:
            reached[path] = f"/proc/self/fd/{descriptor}"
    return reached


def redirect_packages(reached: dict[str, str]) -> None:
    """Makes loaded packages find their submodules where this user can reach them."""
    for module in list(sys.modules.values()):
        places = getattr(module, "__path__", None)
        if isinstance(places, list):
            for index, place in enumerate(cast("list[str]", places)):
                parent = next((path for path in reached if path and place.startswith(f"{path}/")), "")
                places[index] = reached.get(parent, "") + place[len(parent) :]
    sys.path_importer_cache.clear()


def _reachable_interpreter(executable: str) -> str:
    """What programs find as sys.executable: this interpreter, else one of the system that their user can start."""
    choices: Sequence[str] = (executable, "/usr/bin/python3", "/usr/local/bin/python3")
    return next((path for path in choices if os.access(path, os.X_OK)), "")
