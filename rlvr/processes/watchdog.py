"""A small process that cleans up after this one if it is killed; standard library only.

    guard(folder)                    when this process ends, for whatever reason, the folder is removed
    guard(folder, with_users=True)   and the processes that were started with it in FOLDER_OF are killed first
    forget(folder)                   stops guarding the folder

Each process that guards a folder has one, started with the first folder. It is detached, so that Ray, which ends the
children of its workers, leaves it alone. It waits for the pipe from its owner to close, or for the owner to end if a
child of the owner holds that pipe open.

A folder that several processes share stays while one of them holds `flock` on it; the last holder removes it.
"""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

FOLDER_OF = "RLVR_FOLDER"  # an environment variable, which child processes inherit
_CLEAN_S = 10.0
_POLL_S = 0.1
_END = b"\0"
_lock = threading.Lock()
_pipes: dict[int, int] = {}  # by process id: a fork must not write to its parent's pipe


def guard(folder: Path, *, with_users: bool = False) -> None:
    """Has the folder removed when this process ends, unless no watchdog process can be started."""
    _tell((b"*" if with_users else b"+") + os.fsencode(folder.absolute()) + _END)


def forget(folder: Path) -> None:
    """Stops guarding the folder."""
    _tell(b"-" + os.fsencode(folder.absolute()) + _END)


def remove_unused(folder: Path) -> bool:
    """Removes our folder if no process holds `flock` on it; returns whether it is gone. Never follows a link."""
    descriptor = open_own(folder)
    if descriptor is None:
        return not os.path.lexists(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return not os.path.lexists(folder)


def open_own(folder: Path) -> int | None:
    """A descriptor of a folder that belongs to this user and is not a link; None for anything else."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if os.fstat(descriptor).st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    return None


def _tell(message: bytes) -> None:
    with _lock:
        pid = os.getpid()
        for _ in range(2):  # the previous one may have been killed
            try:
                if pid not in _pipes:
                    _pipes[pid] = _start(pid)
                os.write(_pipes[pid], message)
                return
            except BrokenPipeError:
                os.close(_pipes.pop(pid))
            except OSError:
                return


def _start(pid: int) -> int:
    """The pipe to a watchdog that waits for the process `pid`. Raises OSError."""
    reader, writer = os.pipe()
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", __file__, str(pid)],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != FOLDER_OF},
            cwd="/",
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(writer)
        raise OSError(f"no watchdog could be started: {error}") from error
    finally:
        os.close(reader)
    return writer


def _watch(owner: int) -> None:
    """Listens until the owner is gone, then cleans up."""
    folders: dict[bytes, bool] = {}
    poller = select.poll()
    poller.register(0, select.POLLIN)
    if owner >= 0:
        poller.register(owner, select.POLLIN)
    rest, is_open = b"", True
    while is_open:
        ready = dict(poller.poll())
        is_open = owner not in ready
        os.set_blocking(0, False)
        try:
            data = os.read(0, 1 << 16)
            is_open = is_open and bool(data)
        except BlockingIOError:
            data = b""
        *messages, rest = (rest + data).split(_END)
        for message in messages:
            if message[:1] == b"-":
                folders.pop(message[1:], None)
            else:
                folders[message[1:]] = message[:1] == b"*"
    for folder, with_users in folders.items():
        if with_users:
            end_users(Path(os.fsdecode(folder)))
        until = time.monotonic() + _CLEAN_S
        while not remove_unused(Path(os.fsdecode(folder))) and time.monotonic() < until:
            time.sleep(_POLL_S)


def end_users(folder: Path) -> None:
    """Kills the processes that were started with this folder in FOLDER_OF, until none is left."""
    until = time.monotonic() + _CLEAN_S
    while users := _users(f"{FOLDER_OF}={folder}"):
        for pid in users:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        if time.monotonic() > until:
            return
        time.sleep(_POLL_S)


def _users(entry_of_environment: str) -> list[int]:
    wanted = os.fsencode(entry_of_environment)
    found: list[int] = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if entry.isdecimal() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        found.append(int(entry))
            except OSError:
                continue
    return found


def main() -> None:
    """Takes the owner's process id; returns at once in the owner's child, and watches in a detached process."""
    pid = int(sys.argv[1])
    try:
        owner = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or an old one
        owner = -1
    if os.fork():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _watch(owner)


if __name__ == "__main__":
    main()
