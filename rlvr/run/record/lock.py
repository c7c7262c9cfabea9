"""One process at a time writes in a run directory: an exclusive `flock` on RUN_DIR/.lock, held until the process ends.

The kernel releases it however the process ends, so no stale lock is left; the file stays and names the last
holder. Readers (`rlvr report`, `rlvr eval`) take no lock. Programs that the run starts do not inherit the descriptor,
and a fork closes it. With Ray the driver holds it, because it alone decides what is written.

On NFS the server keeps the lock (Linux 2.6.12 and later), so it holds between hosts too; mounted with `nolock` or
`local_lock`, it holds on one host only. If a file system has no locks, the run warns and continues.
"""

import errno
import json
import logging
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from rlvr.errors import ConfigError, StorageError
from rlvr.storage import locks

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class RunLock:
    """The lock on one run directory; made by `lock_directory`."""

    def __init__(self, path: Path, descriptor: int, token: str) -> None:
        self._path = path
        self._descriptor = descriptor
        self._token = token
        _held.add(self)

    def require_ours(self) -> None:
        """Raises StorageError when the run directory is gone, or another run has taken its place.

        Further writes would mix with the files of that run.
        """
        folder = self._path.parent
        if not folder.is_dir():
            raise StorageError(
                f"the run directory {str(folder)!r} is gone: it was removed or renamed while the run wrote in it"
            )
        token = _holder(self._path).get("token", self._token)
        if token != self._token:
            raise StorageError(
                f"the run directory {str(folder)!r} was replaced while this run wrote in it: another run is there now"
            )

    def release(self) -> None:
        """Releases the lock even if a child that was just forked has not closed its copy of the descriptor yet."""
        if self._descriptor >= 0:
            with suppress(OSError):  # a file system without locks
                locks.release(self._descriptor)
        self.close()

    def close(self) -> None:
        """Closes only this process's descriptor, as a child does; the parent keeps the lock. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def lock_directory(folder: Path) -> Iterator[RunLock]:
    """Context in which no other process can start to write in `folder`.

    Raises: ConfigError when a process holds it, with its host and process id, or when the folder cannot be written;
        StorageError when the disk is full.
    """
    path = folder / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        _lock(path, descriptor)
        token = os.urandom(8).hex()
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "token": token}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise _not_written(folder, error) from error
    except BaseException:
        os.close(descriptor)
        raise
    lock = RunLock(path, descriptor, token)
    try:
        yield lock
    finally:
        lock.release()


def _lock(path: Path, descriptor: int) -> None:
    try:
        locks.acquire(descriptor)
    except BlockingIOError:
        holder = _holder(path)
        who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')}"
        raise ConfigError(
            f"run directory {str(path.parent)!r} is in use: {who} writes in it. Wait until that run has ended, stop "
            "it, or choose another --run-dir"
        ) from None
    except locks.NoLocksError as error:
        logger.warning(
            "%s: this file system has no locks (%s); make sure that no other process trains in this folder",
            path,
            error.strerror,
        )
    except OSError as error:
        raise ConfigError(f"{path} cannot be locked: {error.strerror or error}") from error


def _not_written(folder: Path, error: OSError) -> ConfigError | StorageError:
    text = f"run directory {str(folder)!r} cannot be written: {error.strerror or error}"
    if error.errno in _FULL:
        return StorageError(f"{text}; free some space")
    return ConfigError(f"{text}; {what_to_do(folder, error)}")


def what_to_do(folder: Path, error: OSError) -> str:
    """The advice on a run directory that cannot be written: often a mounted folder that belongs to another user."""
    choose, user = "choose a writable place with --run-dir", os.geteuid()
    if error.errno in (errno.EACCES, errno.EPERM):
        with suppress(OSError, StopIteration):
            existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
            owner = existing.stat().st_uid
            if owner != user:
                return (
                    f"{str(existing)!r} belongs to user id {owner}, and this process has user id {user}: run `chown "
                    f"{user}` on the folder, where it is mounted from if this is a container, or {choose}"
                )
    return choose


def _holder(path: Path) -> dict[str, Any]:
    """The process that last wrote the file; empty when it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
