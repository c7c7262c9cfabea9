"""One writer a run directory: refused with its holder's name, free again whatever ends it."""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.errors import ConfigError, StorageError
from rlvr.run.record.directory import RunDirectory, locked_directory
from rlvr.run.record.lock import LOCK_FILE, lock_directory, what_to_do

HOLDER = """
import sys, time
from pathlib import Path
from rlvr.run.record.lock import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_writer_is_refused_and_the_error_names_the_first(tmp_path: Path) -> None:
    with lock_directory(tmp_path), pytest.raises(ConfigError) as caught, lock_directory(tmp_path):
        pass
    assert caught.value.exit_code == 2
    assert f"process {os.getpid()} on {socket.gethostname()} writes in it" in str(caught.value)
    with lock_directory(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {process.pid} on"), lock_directory(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with lock_directory(tmp_path):
        pass


def test_neither_a_fork_nor_a_program_that_was_started_keeps_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with lock_directory(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the test is over
            os._exit(0)
        started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with lock_directory(tmp_path):
            pass
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)
        started.communicate(b"\n")


def test_a_child_that_has_not_closed_its_descriptor_does_not_keep_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with lock_directory(tmp_path):
        child = ctypes.PyDLL(None).fork()  # runs no hook of Python's: as a fork that has not got to run yet
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with lock_directory(tmp_path):
            pass
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


def test_a_forked_child_that_lets_go_does_not_free_the_lock_of_its_parent(tmp_path: Path) -> None:
    with lock_directory(tmp_path):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(ConfigError, match="is in use"), lock_directory(tmp_path):
            pass


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with lock_directory(tmp_path):
        pass
    assert "this file system has no locks (No locks available)" in caplog.text


def test_a_lock_that_fails_for_another_reason_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(ConfigError, match="cannot be locked: Input/output error"), lock_directory(tmp_path):
        pass


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"), lock_directory(tmp_path):
        pass


def test_a_run_whose_directory_was_removed_or_replaced_stops_writing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with lock_directory(folder) as first:
        first.require_ours()
        folder.rename(tmp_path / "moved")
        with pytest.raises(StorageError, match="is gone"):
            first.require_ours()
        folder.mkdir()
        with lock_directory(folder) as second:
            second.require_ours()
            with pytest.raises(StorageError, match="another run is there now"):
                first.require_ours()


def test_a_run_that_began_and_ended_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RunDirectory.create

    def create(path: Path | str | None, recipe_name: str) -> RunDirectory:
        directory = made(path, recipe_name)
        directory.recipe.write_text("name: other\n")  # another run, between the look and the lock
        return directory

    monkeypatch.setattr(RunDirectory, "create", create)
    opening = locked_directory(tmp_path / "run", recipe_name="x", resume=False)
    with pytest.raises(ConfigError, match="exists and is not empty"), opening:
        pass


def test_a_reader_is_not_kept_out(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", "x")
    run.recipe.write_text("name: x\n")
    with lock_directory(run.path):
        assert RunDirectory.open_existing(run.path).lock is None


def test_a_folder_of_another_user_is_named_with_both_users_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the image's user finds when a volume belongs to root of the host."""
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1000)
    advice = what_to_do(tmp_path / "tiny" / "now", PermissionError(errno.EACCES, "Permission denied"))
    assert f"{str(tmp_path)!r} belongs to user id {owner}, and this process has user id {owner + 1000}" in advice
    assert f"`chown {owner + 1000}`" in advice
    monkeypatch.undo()
    assert what_to_do(tmp_path, OSError(errno.EROFS, "Read-only file system")).startswith("choose a writable place")
