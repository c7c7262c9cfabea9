"""Landlock in three system calls: which part of the file system a process and its children may touch.

Rules bind a file hierarchy, not a name, and cannot be lifted. Landlock does NOT guard: names, sizes and times of files
(stat), changes of mode, owner and times, sockets with names, System V memory and queues. The system call filter does.
Standard library only: this file also runs inside the box.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from enum import IntFlag

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_NET_BIND_CONNECT = 3
_SCOPE_SIGNALS = 2
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_libc = ctypes.CDLL(None, use_errno=True)


class Access(IntFlag):
    """Rights on files, named as in the kernel's header."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
READ_EXECUTE = READ | Access.EXECUTE
DEVICE = Access.READ_FILE | Access.WRITE_FILE
_FILE_RIGHTS = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV


def abi() -> int:
    """The version of Landlock that the kernel offers; 0 when there is none or a container forbids it."""
    return max(0, _libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def handled(version: int) -> Access:
    """Every right that this version can deny: what a ruleset does not grant is then refused."""
    rights = Access((1 << 13) - 1)
    if version >= 2:
        rights |= Access.REFER
    if version >= 3:
        rights |= Access.TRUNCATE
    if version >= 5:
        rights |= Access.IOCTL_DEV
    return rights


def everything(version: int) -> Access:
    """What a run may do in its own directory: all but device nodes."""
    return handled(version) & ~(Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.IOCTL_DEV)


def make_ruleset(rules: Iterable[tuple[int | str, Access]]) -> int:
    """A descriptor of a ruleset: all file rights denied but `rules` (path or directory descriptor, rights), no TCP, and
    from version 6 no signals and abstract sockets beyond the run. Paths that do not exist are left out.

    Raises: OSError.
    """
    version = abi()
    if version < 1:
        raise OSError("this kernel has no Landlock, or the container forbids it")
    rights = handled(version)
    network = _NET_BIND_CONNECT if version >= 4 else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", rights, network, scopes), 24)
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, size, 0), "create_ruleset")
    for path, access in rules:
        _add_rule(ruleset, path, access & rights)
    return ruleset


def scope_signals() -> None:
    """From here on this thread and all it will start can signal only one another; needs version 6 and no_new_privs."""
    ruleset = signal_scope()
    restrict_self(ruleset)
    os.close(ruleset)


def signal_scope() -> int:
    """A descriptor of the ruleset of `scope_signals`; needs version 6. Raises OSError."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, _SCOPE_SIGNALS), 24)
    return _checked(_libc.syscall(_CREATE_RULESET, attributes, 24, 0), "create_ruleset")


def restrict_self(ruleset: int) -> None:
    """Binds the calling thread and all it will start; needs no_new_privs. Raises OSError."""
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "restrict_self")


def _add_rule(ruleset: int, path: int | str, access: Access) -> None:
    if isinstance(path, int):
        descriptor = os.dup(path)
    else:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _FILE_RIGHTS
        rule = ctypes.create_string_buffer(struct.pack("<Qi", access, descriptor), 12)
        _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), f"add_rule {path}")
    finally:
        os.close(descriptor)


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock {what}: {os.strerror(number)}")
    return answer
