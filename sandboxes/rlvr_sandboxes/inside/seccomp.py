"""System call filters for sandboxed programs: a BPF assembler in a page, and the two filters that every run carries.

Two filters, because installing one costs time in proportion to its length:

    base   an allow-list, installed once in the zygote and inherited by each run for nothing
    run    the few calls that only the zygote needs, refused; installed in each run

The kernel obeys the stricter of both. Standard library only: this file also runs inside the box.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from enum import StrEnum

from rlvr_sandboxes.inside import syscalls

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _MASK, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x05, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
# every CLONE_NEW* of clone(2); CLONE_NEWTIME exists in clone3 and unshare only
_NEW_NAMESPACE = 0x7E020000
_AF_UNIX, _AF_NETLINK, _SOCK_STREAM = 1, 16, 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

_REFUSED = _ERRNO | errno.EPERM
_ABSENT = _ERRNO | errno.ENOSYS
_PRETEND = _ERRNO | 0

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


class Mode(StrEnum):
    """Which box the filter completes.

    NAMESPACES: the run has its own mounts, processes and (empty) network.
    LANDLOCK: it shares those with the host, so no socket may be created and no signal may reach the zygote.
    """

    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"


def base_filter(mode: Mode, *, owns_files: bool, machine: str = "") -> bytes:
    """The allow-list of the zygote and its runs.

    Args:
        owns_files: the run has a user id of its own, so that it may change modes and times of files; else those calls
            succeed and do nothing, because Landlock does not guard the user's own files against them.
    """
    machine = machine or os.uname().machine
    groups = [syscalls.PLAIN, syscalls.EXEC, syscalls.ZYGOTE]
    actions: dict[int, int | tuple[Instruction, ...]] = {}
    for number in syscalls.numbers(*groups, machine=machine).values():
        actions[number] = _ALLOW
    for number in syscalls.numbers(syscalls.PRETENDED, machine=machine).values():
        actions[number] = _PRETEND
    for number in syscalls.numbers(syscalls.METADATA, machine=machine).values():
        actions[number] = _ALLOW if owns_files else _PRETEND
    checked = syscalls.numbers(syscalls.CHECKED, machine=machine)
    for name, number in checked.items():
        actions[number] = _check(name, mode)
    if mode is Mode.LANDLOCK:
        plain = syscalls.numbers(syscalls.PLAIN, machine=machine)
        for name in ("connect", "bind", "listen", "accept", "accept4"):
            actions[plain[name]] = _REFUSED
    return _assemble(
        [
            (_LOAD, 0, 0, _ARCH),
            (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER),
            *_tree(actions, x32=machine == "x86_64"),
        ]
    )


def run_filter(
    mode: Mode, *, can_exec: bool = True, protected: Sequence[int] = (), kept: Sequence[str] = (), machine: str = ""
) -> bytes:
    """Refuses what the zygote may do and a run may not, except `kept`; in LANDLOCK mode also signals to `protected` or
    all.
    """
    zygote = syscalls.numbers(syscalls.ZYGOTE, machine=machine)
    refused = {number for name, number in zygote.items() if name not in kept}
    if not can_exec:
        refused |= set(syscalls.numbers(syscalls.EXEC, machine=machine).values())
    body: list[Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    for number in sorted(refused):
        body += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSED)]
    if mode is Mode.LANDLOCK:
        names = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
        checked = syscalls.numbers(syscalls.CHECKED, machine=machine)
        targets = [0xFFFFFFFF]  # -1: everybody
        for pid in protected:
            targets += [pid, -pid & 0xFFFFFFFF]  # and its process group
        for name in names:
            check: list[Instruction] = [(_LOAD, 0, 0, _FIRST_ARGUMENT)]
            for target in targets:
                check += [(_EQUAL, 0, 1, target), (_RETURN, 0, 0, _REFUSED)]
            check.append((_RETURN, 0, 0, _ALLOW))
            body += [(_EQUAL, 0, len(check), checked[name]), *check]
    body.append((_RETURN, 0, 0, _ALLOW))
    return _assemble(body)


def local_sockets_filter(machine: str = "") -> bytes:
    """Allows everything but sockets that could leave this machine: only AF_UNIX, and AF_NETLINK, with which bubblewrap
    sets up the loopback device of a jail.
    """
    machine = machine or os.uname().machine
    number = syscalls.numbers(syscalls.CHECKED, machine=machine)["socket"]
    return _assemble(
        [
            (_LOAD, 0, 0, _ARCH),
            (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER),
            *([(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)] if machine == "x86_64" else []),
            (_EQUAL, 1, 0, number),
            (_RETURN, 0, 0, _ALLOW),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_EQUAL, 1, 0, _AF_UNIX),
            (_EQUAL, 0, 1, _AF_NETLINK),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ERRNO | errno.EACCES),
        ]
    )


class Filter:
    """A filter ready to install: the memory that the kernel reads, made once so that a forked child only calls."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._header = ctypes.create_string_buffer(
            struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(self._code))
        )
        self._libc = ctypes.CDLL(None, use_errno=True)

    def install(self) -> None:
        """Binds the calling thread and all it will start. Raises OSError."""
        if self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
        if self._libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._header, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP) failed")


def _check(name: str, mode: Mode) -> tuple[Instruction, ...]:
    """The instructions that decide a call by its arguments (their low 32 bits: the kernel itself reads no more)."""
    first, second = _FIRST_ARGUMENT, _FIRST_ARGUMENT + 8
    unless_zero = ((_LOAD, 0, 0, first), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _REFUSED))
    allow = (_RETURN, 0, 0, _ALLOW)
    if name == "clone":
        return ((_LOAD, 0, 0, first), (_ANY_BIT, 0, 1, _NEW_NAMESPACE), (_RETURN, 0, 0, _REFUSED), allow)
    if name == "clone3":
        # its flags lie in memory that a filter cannot read; the C library falls back to clone
        return ((_RETURN, 0, 0, _ABSENT),)
    if name == "ioctl":  # both type into a terminal
        return (
            (_LOAD, 0, 0, second),
            (_EQUAL, 1, 0, _TIOCSTI),
            (_EQUAL, 0, 1, _TIOCLINUX),
            (_RETURN, 0, 0, _REFUSED),
            allow,
        )
    if name == "socket":
        if mode is Mode.LANDLOCK:
            return ((_RETURN, 0, 0, _ERRNO | errno.EACCES),)
        return ((_LOAD, 0, 0, first), (_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, _ERRNO | errno.EACCES), allow)
    if name == "socketpair":  # a datagram pair could send to any named socket of the host
        stream = ((_LOAD, 0, 0, second), (_MASK, 0, 0, 0xF), (_EQUAL, 1, 0, _SOCK_STREAM), (_RETURN, 0, 0, _REFUSED))
        family = ((_LOAD, 0, 0, first), (_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, _REFUSED))
        return (*family, *(stream if mode is Mode.LANDLOCK else ()), allow)
    if name == "setpriority":  # PRIO_PROCESS of itself
        return (*unless_zero, (_LOAD, 0, 0, second), *unless_zero[1:], allow)
    if name in ("prlimit64", "sched_setaffinity"):  # of itself
        return (*unless_zero, allow)
    return (allow,)  # the signals: see run_filter


def _tree(actions: dict[int, int | tuple[Instruction, ...]], *, x32: bool) -> list[Instruction]:
    """A binary search over ranges of numbers with one action; a number in no group is refused."""
    highest = max(actions)
    leaves: list[tuple[int, int | tuple[Instruction, ...]]] = []
    for number in range(highest + 2):
        action = actions.get(number, _ABSENT if number > highest else _REFUSED)
        if not leaves or leaves[-1][1] != action:
            leaves.append((number, action))
    if x32:
        leaves.append((_X32_BIT, _KILL))

    def emit(part: Sequence[tuple[int, int | tuple[Instruction, ...]]]) -> list[Instruction]:
        if len(part) == 1:
            action = part[0][1]
            return [(_RETURN, 0, 0, action)] if isinstance(action, int) else list(action)
        middle = len(part) // 2
        low, high = emit(part[:middle]), emit(part[middle:])
        # A conditional jump reaches 255 instructions; a plain one reaches all.
        return [(_AT_LEAST, 0, 1, part[middle][0]), (_JUMP, 0, 0, len(low)), *low, *high]

    return emit(leaves)


def _assemble(instructions: Sequence[Instruction]) -> bytes:
    if len(instructions) > 4096:
        raise OSError(f"a filter of {len(instructions)} instructions; the kernel takes 4096")
    return b"".join(struct.pack("HBBI", code, yes, no, constant) for code, yes, no, constant in instructions)
