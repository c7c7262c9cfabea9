"""Locks on open files (`flock`), which the kernel releases however their process ends."""

import errno
import fcntl

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class NoLocksError(OSError):
    """The file system has no locks."""


def acquire(descriptor: int, *, is_shared: bool = False) -> None:
    """Takes the lock on an open file, without waiting. A shared lock keeps off only those that want it exclusively.

    Raises: BlockingIOError when another process holds it; NoLocksError when the file system has no locks; OSError
        otherwise.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise NoLocksError(error.errno, error.strerror) from error
        raise


def release(descriptor: int) -> None:
    """Gives the lock back, for copies of the descriptor in other processes too. Raises OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
