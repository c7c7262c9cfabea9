"""The space of one run, as the zygote builds it: namespaces inside a bubblewrap jail, or Landlock in the open.

Standard library only: this file runs inside the box. `prepare` is called once in the zygote, `fork` starts a run,
`enter` is called in the child before the program, `clean` after the run's end.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import stat
import struct
from collections.abc import Sequence
from typing import Protocol

from rlvr_sandboxes.inside import landlock_rules, limits, seccomp
from rlvr_sandboxes.inside.limits import RunLimits
from rlvr_sandboxes.inside.seccomp import Filter, Mode

_NEWNS, _NEWIPC, _NEWPID = 0x20000, 0x8000000, 0x20000000
_NOSUID_NODEV, _NOEXEC, _RDONLY = 6, 8, 1
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 4, 24, 28
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_SET_PDEATHSIG = 36, 38, 1
SECUREBITS = 0xEF  # no root, no setuid fix-up, no ambient capabilities, each locked
_CAPABILITY_VERSION_3 = 0x20080522
Rule = tuple[int | str, landlock_rules.Access]
# descriptors of a Landlock zygote that outlive the closing of all others
FIRST_KEPT, NUM_KEPT = 900, 64
_libc = ctypes.CDLL(None, use_errno=True)
# looked up here once, and not in each fork
_mount, _unshare, _setns = _libc.mount, _libc.unshare, _libc.setns
_prctl, _capset = _libc.prctl, _libc.capset
_no_capabilities = (
    ctypes.create_string_buffer(struct.pack("II", _CAPABILITY_VERSION_3, 0)),
    ctypes.create_string_buffer(24),
)


class Room(Protocol):
    """How one kind of box isolates a run."""

    def prepare(self) -> None:
        """Makes the zygote ready. Raises OSError when this machine cannot hold the promise."""
        ...

    def fork(self) -> int:
        """Forks like `os.fork`; the child is the first process of the run."""
        ...

    def enter(self, run_limits: RunLimits, tmp_bytes: int) -> None:
        """In the child: its own empty working directory, then no way back. Raises OSError."""
        ...

    def lock(self) -> None:
        """In the child, last: no capabilities, no further system calls."""
        ...

    def pids(self) -> list[int]:
        """The live processes of the run."""
        ...

    def clean(self) -> None:
        """After the first process ended: nothing of the run is left. Raises OSError when something is."""
        ...

    def usage(self) -> tuple[int, int]:
        """Bytes and entries of the run's files, where the kernel does not cap them; else zeros."""
        ...


class NamespaceRoom:
    """Its own process, mount and IPC namespaces; one tmpfs for /tmp and /dev/shm; the jail's empty network."""

    def __init__(self, *, can_exec: bool, has_proc: bool) -> None:
        self._has_proc = has_proc
        self._base = Filter(seccomp.base_filter(Mode.NAMESPACES, owns_files=True))
        self._filter = Filter(seccomp.run_filter(Mode.NAMESPACES, can_exec=can_exec))
        self._own_pids = -1

    def prepare(self) -> None:
        self._own_pids = os.pidfd_open(os.getpid())
        if self._has_proc:
            # Only processes, and of those only the run's own: no /proc/sys, /proc/meminfo, /proc/1.
            flags, options = _NOSUID_NODEV | _NOEXEC, b"subset=pid,hidepid=4"
            _checked(_mount(b"proc", b"/proc", b"proc", flags, options), "mount /proc")
        _checked(_prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")
        _checked(_prctl(_PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0), "PR_SET_SECUREBITS")
        for capability in range(64):
            if _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                break  # the kernel knows no more
        self._base.install()

    def fork(self) -> int:
        # unshare refuses a second time until the zygote points back at its own namespace
        _checked(_setns(self._own_pids, _NEWPID), "setns")
        _checked(_unshare(_NEWPID), "unshare(NEWPID)")
        return os.fork()

    def enter(self, run_limits: RunLimits, tmp_bytes: int) -> None:
        _checked(_unshare(_NEWNS | _NEWIPC), "unshare(NEWNS|NEWIPC)")
        options = f"size={tmp_bytes},nr_inodes=1024,mode=1777".encode()
        _checked(_mount(b"tmpfs", b"/tmp", b"tmpfs", _NOSUID_NODEV, options), "mount tmpfs")
        os.mkdir("/tmp/.shm", 0o1777)  # /dev/shm leads here
        os.mkdir("/tmp/w")
        os.chdir("/tmp/w")

    def lock(self) -> None:
        drop_capabilities()
        self._filter.install()

    def pids(self) -> list[int]:
        own = os.getpid()
        if not self._has_proc:
            return []
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]

    def clean(self) -> None:
        """The kernel ended every process of the namespace before its first one could be waited for."""

    def usage(self) -> tuple[int, int]:
        return (0, 0)


class LandlockRoom:
    """A directory of its own under Landlock rules; the zygote finds and kills what the run leaves."""

    def __init__(self, *, can_exec: bool, owns_user: bool, scratch: str, rules: Sequence[Rule]) -> None:
        """Opens what the rules name, so it may come before the zygote gives up the rights to reach it."""
        self._scratch = scratch
        self._can_exec = can_exec
        self._base = Filter(seccomp.base_filter(Mode.LANDLOCK, owns_files=owns_user))
        self._filter = self._base
        self._directory = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        devices = [(f"/dev/{name}", landlock_rules.DEVICE) for name in ("null", "zero", "full")]
        devices += [(f"/dev/{name}", landlock_rules.READ) for name in ("random", "urandom")]
        own = (self._directory, landlock_rules.everything(landlock_rules.abi()))
        low = landlock_rules.make_ruleset([*rules, *devices, own])
        # `lock` comes after all descriptors below FIRST_KEPT are closed
        self._ruleset = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, FIRST_KEPT)
        os.close(low)

    def prepare(self) -> None:
        pid = os.getpid()
        become_subreaper()
        _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
        _checked(_prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "PR_SET_DUMPABLE")
        enclose_signals(os.getppid())
        if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):
            raise OSError("/proc/PID/task/TID/children is missing: what a run leaves cannot be found")
        self._filter = Filter(seccomp.run_filter(Mode.LANDLOCK, can_exec=self._can_exec, protected=(pid, os.getppid())))
        self._base.install()

    def fork(self) -> int:
        return os.fork()

    def enter(self, run_limits: RunLimits, tmp_bytes: int) -> None:
        os.mkdir("w", 0o700, dir_fd=self._directory)
        os.chdir(f"{self._scratch}/w")
        # Dumpable, so that the zygote may read the run's proportional memory; Landlock bars everybody else's ptrace.
        _checked(_prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE")
        _checked(_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")

    def lock(self) -> None:
        drop_capabilities()
        landlock_rules.restrict_self(self._ruleset)
        os.close(self._ruleset)
        self._filter.install()

    def pids(self) -> list[int]:
        return limits.descendants(os.getpid())

    def clean(self) -> None:
        kill_descendants()
        os.fchmod(self._directory, 0o700)
        remove_below(self._directory)

    def usage(self) -> tuple[int, int]:
        return limits.tree_usage(self._directory)


def drop_capabilities() -> None:
    """Gives up every capability of this process. Raises OSError."""
    _checked(_capset(*_no_capabilities), "capset")


def become_subreaper() -> None:
    """From here on orphans among this process's descendants become its children."""
    _checked(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def kill_descendants() -> None:
    """Ends every descendant of a subreaper whose signals reach nobody else (`enclose_signals`).

    One call reaches them all at one moment: a program that forks as fast as it can is never ahead, as it would be of
    a list of its processes.

    Raises: OSError when some still live.
    """
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass
        if not limits.descendants(os.getpid()):
            return
    raise OSError("processes of a run are still alive after SIGKILL")


def enclose_signals(outsider: int) -> None:
    """Lets this process signal only its own descendants, from Landlock 6 on.

    Args:
        outsider: a process that must be out of reach afterwards, for example because it has another user.

    Raises: OSError when it can be reached, because then `kill_descendants` would end what is not ours.
    """
    if landlock_rules.abi() >= 6:
        _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
        landlock_rules.scope_signals()
    require_out_of_reach(outsider)


def require_out_of_reach(outsider: int) -> None:
    """Raises OSError when this process may signal one that its box must not reach."""
    try:
        os.kill(outsider, 0)
    except PermissionError:
        return
    raise OSError("signals of the box would reach other processes of its user; Landlock 6 is needed without root")


def remove_below(directory: int) -> None:
    """Empties a directory without following a link and without descending: a nested directory is first moved to the
    top, so neither depth nor name can stop it.

    Raises: OSError when something cannot be removed.
    """
    counter = 0
    while True:
        names = os.listdir(directory)
        if not names:
            return
        for name in names:
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
                continue
            os.chmod(name, 0o700, dir_fd=directory)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                for child in os.listdir(inner):
                    entry = os.stat(child, dir_fd=inner, follow_symlinks=False)
                    if stat.S_ISDIR(entry.st_mode):
                        os.chmod(child, 0o700, dir_fd=inner)
                        counter += 1
                        moved = f".moved-{counter}-{entry.st_ino}"
                        os.rename(child, moved, src_dir_fd=inner, dst_dir_fd=directory)
                    else:
                        os.unlink(child, dir_fd=inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=directory)


def _checked(answer: int, what: str) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
