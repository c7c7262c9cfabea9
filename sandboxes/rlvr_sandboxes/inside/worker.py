"""The process in which code runs that is not trusted with the host: confined first, then it imports that code.

    pool --(frames)--> worker --fork--> one chunk of items; then what it left is killed and the temporary folder emptied

namespaces: process 1 of a bubblewrap jail, which drops its capabilities before anything else.
landlock:   below a guard that stays outside: it ends the worker's processes when the pool is gone or the worker dies.

Standard library only, in any Python from 3.11 on: this file runs inside the box.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import select
import signal
import site
import stat
import sys
from typing import Any, NoReturn

from rlvr_sandboxes.inside import landlock_rules, landlock_start, launch, limits, rooms, seccomp
from rlvr_sandboxes.inside.seccomp import Filter, Mode

TEMPORARY = "/tmp/w"  # in a namespace jail
_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_PDEATHSIG = 4, 24, 28, 1
_PR_SET_NO_NEW_PRIVS = 38
_SAMPLE_EVERY_MS = 50
_MOST_ENTRIES = 4096  # of the temporary folder, where the kernel does not limit its size
_MOST_FILES = 1024
_libc = ctypes.CDLL(None, use_errno=True)


class _Jail:
    """Implements `rlvr.jails.WorkerJail`; `confine` is called once, before any other code."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self.temporary = TEMPORARY
        self._folder = -1

    def confine(self) -> list[str]:
        """Closes the jail behind this process; returns the import path. Raises OSError."""
        raise NotImplementedError

    def lock(self) -> None:
        """In a child: gives up what only the worker needs."""
        raise NotImplementedError

    def fork(self) -> int:
        """Forks like `os.fork`; the child starts in the empty temporary folder."""
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(0)
            os.setpgid(0, 0)
            self.lock()
            os.chdir(self.temporary)
        return pid

    def clean(self) -> None:
        """Ends every process that the children have started, and empties the temporary folder."""
        while True:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)  # everything in this jail but this process
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        os.fchmod(self._folder, 0o700)
        if os.listdir(self._folder) != [".shm"] or os.listdir(f"{self.temporary}/.shm"):
            remove_below(self._folder)
            self._make_shm()

    def is_above_limit(self) -> bool:
        """Whether the children together use more memory than one process may; False where that is not measured."""
        return False

    def _open_temporary(self) -> None:
        self._folder = os.open(self.temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        remove_below(self._folder)
        self._make_shm()
        os.chdir(self.temporary)

    def _make_shm(self) -> None:
        os.mkdir(f"{self.temporary}/.shm", 0o700)  # /dev/shm leads here in a namespace jail


class _NamespaceJail(_Jail):
    """Bubblewrap has made the namespaces and the mounts."""

    def confine(self) -> list[str]:
        if self._config["has_proc"]:
            # Only processes, which are those of this jail: no /proc/sys, no /proc/meminfo.
            flags = _NOSUID_NODEV_NOEXEC
            _checked(_libc.mount(b"proc", b"/proc", b"proc", flags, b"subset=pid"), "mount /proc")
        self._open_temporary()
        _set_limits(self._config, self._config["pids"] + 2)
        _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")
        _checked(_libc.prctl(_PR_SET_SECUREBITS, rooms.SECUREBITS, 0, 0, 0), "PR_SET_SECUREBITS")
        for capability in range(64):
            if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                break  # the kernel knows no more
        rooms.drop_capabilities()
        Filter(seccomp.base_filter(Mode.NAMESPACES, owns_files=True)).install()
        Filter(seccomp.run_filter(Mode.NAMESPACES)).install()
        return [*sys.path, self._config["packages_folder"], *self._config["readable"], *self._config["sites"]]

    def is_above_limit(self) -> bool:
        """Without a cgroup, the memory is summed over the processes of /proc."""
        if not self._config["samples"]:
            return False
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        limit = self._config["memory_bytes"]
        return limits.memory_bytes(pids, limit=limit, baseline=limits.own_anonymous_bytes()) > limit

    def lock(self) -> None:
        """Nothing: process 1 of a namespace is out of reach of the others."""


class _LandlockJail(_Jail):
    """Landlock rules, and a user id of its own where the pool is root."""

    def confine(self) -> list[str]:
        config = self._config
        launch.join(config["cgroups"])
        _fork_guard(config)
        self.temporary = f"{config['scratch']}/run/w"
        folder = f"{config['scratch']}/packages"
        uid = config["uid"]
        for path in (folder, f"{config['scratch']}/run", self.temporary):
            os.mkdir(path, 0o700)
            if uid:
                os.chown(path, uid, uid)
        packages: list[tuple[str, str]] = config["packages"]
        rules = self._rules(folder, packages)
        kept = landlock_start.keep(
            [*sys.path, *(place for _, place in packages), *config["readable"], *config["sites"]]
        )
        version = landlock_rules.abi()
        ruleset = landlock_rules.make_ruleset(
            [*rules, (f"{config['scratch']}/run", landlock_rules.everything(version))]
        )
        _set_limits(config, config["extra_tasks"] + config["pids"])
        if uid:
            launch.become(uid)
        reached = landlock_start.reach(kept)
        self._open_temporary()
        for name, place in packages:
            os.symlink(reached[place], f"{folder}/{name}")
        rooms.become_subreaper()
        _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")
        rooms.drop_capabilities()
        base = Filter(seccomp.base_filter(Mode.LANDLOCK, owns_files=bool(uid)))
        self._filter = Filter(seccomp.run_filter(Mode.LANDLOCK, protected=(os.getpid(), os.getppid())))
        self._scope = landlock_rules.signal_scope() if version >= 6 else -1
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
        landlock_rules.restrict_self(ruleset)
        os.close(ruleset)
        base.install()
        Filter(seccomp.run_filter(Mode.NAMESPACES, kept=("landlock_restrict_self",))).install()
        rooms.require_out_of_reach(os.getppid())
        path = [reached[path] for path in sys.path]
        landlock_start.redirect_packages(reached)
        return [*path, folder, *(reached[one] for one in (*config["readable"], *config["sites"]))]

    def _rules(self, folder: str, packages: list[tuple[str, str]]) -> list[rooms.Rule]:
        config = self._config
        everything = landlock_rules.everything(landlock_rules.abi())
        rules: list[rooms.Rule] = [(path, landlock_rules.READ_EXECUTE) for path in config["trees"]]
        rules += [(path, landlock_rules.Access.READ_DIR) for path in config["listed"]]
        rules += [(place, landlock_rules.READ_EXECUTE) for _, place in packages]
        rules += [(path, everything) for path in config["writable"]]
        rules += [(f"/dev/{name}", landlock_rules.DEVICE) for name in ("null", "zero", "full")]
        rules += [(f"/dev/{name}", landlock_rules.READ) for name in ("random", "urandom")]
        rules.append((folder, landlock_rules.READ))
        return rules

    def lock(self) -> None:
        """A child may not signal the worker, or all at once."""
        if self._scope >= 0:
            landlock_rules.restrict_self(self._scope)
        self._filter.install()


def remove_below(directory: int) -> None:
    """Empties a directory of any depth, one level at a time, without following a link and without a rename, which
    Landlock denies below the guard. Nothing else may change the directory meanwhile.

    Raises: OSError when something cannot be removed.
    """
    depth, current = 0, os.dup(directory)
    try:
        while True:
            inner = _removed_until_folder(current)
            if inner:
                following = os.open(inner, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            elif depth:
                following = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
            else:
                return
            os.close(current)
            current, depth = following, depth + (1 if inner else -1)
    finally:
        os.close(current)


def _removed_until_folder(directory: int) -> str:
    """Removes files and empty folders; the name of the first folder that holds something, or ""."""
    for name in os.listdir(directory):
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=directory)
            continue
        os.chmod(name, 0o700, dir_fd=directory)
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return name
    return ""


def _set_limits(config: dict[str, Any], tasks: int) -> None:
    """The limits that are the same for the worker and its children; the module sets those of memory and time."""
    limits.apply_constant()
    limits.apply_to_worker(file_bytes=config["tmp_bytes"], num_files=_MOST_FILES, tasks=tasks)


def _fork_guard(config: dict[str, Any]) -> None:
    """Returns in a child, the worker. This process stays as the guard until every process below it is gone."""
    rooms.become_subreaper()
    can_signal = landlock_rules.abi() >= 6
    if can_signal:
        landlock_start.enclose_guard()
    worker = os.fork()
    if worker == 0:
        os.close(config["lifeline"])
        return
    _guard(worker, config, can_signal=can_signal)


def _guard(worker: int, config: dict[str, Any], *, can_signal: bool) -> NoReturn:
    """Waits for the worker's end, or for the pool's, and ends what is left."""
    lifeline = config["lifeline"]
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    ended = os.pidfd_open(worker)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while not poll.poll(_SAMPLE_EVERY_MS):
        if _is_above(config):
            _end_children(worker)
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    if can_signal:
        rooms.kill_descendants()
    elif config["uid"]:
        _kill_user(config["uid"])
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _end_children(worker: int) -> None:
    """Kills what the worker has started, which then goes on; the worker itself if it has started nothing."""
    for pid in [pid for pid in limits.descendants(os.getpid()) if pid != worker] or [worker]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_user(uid: int) -> None:
    """Ends every process of a user id that only this jail has."""
    pid = os.fork()
    if pid == 0:
        launch.become(uid)
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    os.waitpid(pid, 0)


def _is_above(config: dict[str, Any]) -> bool:
    """Whether the temporary folder or, without a cgroup, the memory is above its limit."""
    try:
        folder = os.open(f"{config['scratch']}/run", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False  # not made yet
    try:
        size, entries = limits.tree_usage(folder)
    finally:
        os.close(folder)
    if size > config["tmp_bytes"] + limits.MIB or entries > _MOST_ENTRIES:
        return True
    if config["cgroups"]:
        return False
    pids = limits.descendants(os.getpid())
    return limits.memory_bytes(pids, limit=config["memory_bytes"], baseline=0) > config["memory_bytes"]


def main(argument: str) -> None:
    """Called with a JSON object; `workers.py` outside writes it."""
    config: dict[str, Any] = json.loads(argument)
    jail = _LandlockJail(config) if config["mode"] == "landlock" else _NamespaceJail(config)
    found = jail.confine()
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = jail.temporary
    first = len(found) - len(config["sites"])
    sys.path[:] = found[:first]
    finders = list(sys.meta_path)
    for folder in found[first:]:
        site.addsitedir(folder)
    sys.meta_path[:] = finders  # those of editable installs lead to folders that cannot be read here
    sys.path_importer_cache.clear()
    module = importlib.import_module(config["module"])
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    module.main(config["arguments"], jail)


def _checked(answer: int, what: str) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
