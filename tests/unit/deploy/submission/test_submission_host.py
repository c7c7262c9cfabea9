"""What the head host does with submitted runs, in this process and without supervisors unless a test names one."""

import errno
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlvr.deploy.submission import host
from rlvr.deploy.submission.run_folder import Phase, RunFolder, Spec, State
from rlvr.deploy.submission.supervisor import HELD
from rlvr.errors import ClusterError, ConfigError


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., RunFolder]:
    """Makes the folder of a run that was submitted; later ones are newer."""
    ages = iter(range(1000, 2000))

    def made(name: str, *, phase: Phase = Phase.WAITING, grace_s: float = 90.0) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        spec = Spec(name=name, train=("tiny",), run_dir=f"/nowhere/{name}", cwd="/", head="h:1", grace_s=grace_s)
        folder.write_spec(spec)
        folder.write_state(State(phase=phase))
        os.utime(folder.path / "run.json", (age := next(ages), age))
        return folder

    return made


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of runs whose supervisor was started; that of `bad` does not start."""
    names: list[str] = []

    def start(folder: RunFolder) -> None:
        if folder.path.name == "bad":
            raise ClusterError("the supervisor of bad ended: exit code 1")
        names.append(folder.path.name)

    monkeypatch.setattr(host, "start_supervisor", start)
    return names


@contextmanager
def asked_by_another(folder: RunFolder) -> Iterator[None]:
    """As if another process were asking whether the run is supervised, which takes microseconds."""
    with (folder.path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def rows(answer: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["phase"], row["problem"]) for row in answer["runs"]}


def test_two_that_ask_do_not_take_each_other_for_a_supervisor(make: Callable[..., RunFolder]):
    folder = make("r")
    assert not folder.is_supervised()
    with asked_by_another(folder):
        assert not folder.is_supervised()
    with folder.locked() as is_ours:
        assert is_ours
        assert folder.is_supervised()


def test_a_supervisor_that_starts_while_somebody_asks_gets_the_lock(make: Callable[..., RunFolder]):
    folder = make("r")
    with (folder.path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.2, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with folder.locked(patience_s=5) as is_ours:
            assert is_ours


@pytest.mark.parametrize("code", [1, HELD])
def test_a_supervisor_that_ended_without_the_lock_did_not_start(
    make: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch, code: int
):
    real = subprocess.Popen
    monkeypatch.setattr(host.subprocess, "Popen", lambda _, **options: real(["sh", "-c", f"exit {code}"], **options))
    with pytest.raises(ClusterError, match=f"the supervisor of r ended: exit code {code}"):
        host.start_supervisor(make("r"))


def test_a_run_that_cannot_be_continued_does_not_keep_the_others(
    make: Callable[..., RunFolder], begun: list[str], tmp_path: Path
):
    for name in ("first", "bad", "damaged", "second"):
        make(name)
    (tmp_path / "damaged" / "state.json").write_text("{")
    found = rows(host.resume_all(tmp_path))
    assert begun == ["second", "first"]
    assert found["bad"] == ("suspended", "the supervisor of bad ended: exit code 1")
    assert found["damaged"][0] == "unreadable"
    assert found["first"][1] == found["second"][1] == ""


def test_a_damaged_run_is_a_row_of_the_list(make: Callable[..., RunFolder], tmp_path: Path):
    make("good", phase=Phase.DONE)
    (make("damaged").path / "run.json").write_text("{")
    found = rows(host.listed(tmp_path))
    assert found["good"] == ("done", "")
    assert found["damaged"][0] == "unreadable"
    assert "run.json cannot be read" in found["damaged"][1]


@pytest.mark.parametrize("fault", ["stale", "newer"])
def test_a_run_that_may_have_ended_is_not_continued(
    make: Callable[..., RunFolder], begun: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
):
    folder = make("r", phase=Phase.DONE)
    read = Path.read_text

    def stale(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == "state.json":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(path, *arguments, **options)

    if fault == "stale":
        monkeypatch.setattr(Path, "read_text", stale)
    else:
        (folder.path / "state.json").write_text('{"phase": "archived"}')
    assert "state.json cannot be read" in rows(host.resume_all(tmp_path))["r"][1]
    with pytest.raises(ConfigError, match=r"state\.json cannot be read: .*remove the file"):
        host.resume(folder)
    assert begun == []


def test_suspend_waits_for_every_run_and_names_those_that_did_not_end(make: Callable[..., RunFolder], tmp_path: Path):
    slow, late = make("slow", grace_s=60), make("late", grace_s=-29.8)
    with late.locked(), slow.locked():
        answers: list[dict[str, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(host.suspend(tmp_path)))
        asking.start()
        time.sleep(0.6)
        assert asking.is_alive()
    asking.join(20)
    found = rows(answers[0])
    assert "late has not ended within 0.2 s" in found["late"][1]
    assert found["slow"][1] == ""
    assert slow.suspend.exists()
    assert late.suspend.exists()


@pytest.fixture
def request_of_r(monkeypatch: pytest.MonkeyPatch, begun: list[str]) -> dict[str, Any]:
    monkeypatch.setattr(host, "require_head", lambda spec: None)
    monkeypatch.setattr(host, "_require_valid", lambda spec: None)
    return {"spec": {"name": "r", "train": ["RECIPE"], "run_dir": "/nowhere", "cwd": "/", "head": "h:1"}, "recipe": "x"}


def test_a_name_that_a_killed_submit_left_is_free(request_of_r: dict[str, Any], begun: list[str], tmp_path: Path):
    (tmp_path / "r").mkdir()
    with RunFolder(tmp_path / "r").locked(), pytest.raises(ConfigError, match="'r' is being submitted"):
        host.submit(tmp_path, request_of_r)
    host.submit(tmp_path, request_of_r)
    assert begun == ["r"]
    with pytest.raises(ConfigError, match="'r' was submitted before"):
        host.submit(tmp_path, request_of_r)
    assert rows(host.listed(tmp_path))["r"] == ("suspended", "")


def test_a_refused_run_leaves_no_folder(request_of_r: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(spec: Spec) -> None:
        raise ConfigError("no")

    monkeypatch.setattr(host, "_require_valid", refuse)
    with pytest.raises(ConfigError, match="no"):
        host.submit(tmp_path, request_of_r)
    assert not (tmp_path / "r").exists()


def test_a_shared_folder_without_locks_is_refused(
    request_of_r: dict[str, Any], begun: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ConfigError, match=r"without file locks .*mount the shared folder with locks"):
        host.submit(tmp_path, request_of_r)
    assert begun == []


def test_what_is_followed_says_that_it_is_there_and_that_it_was_whole(
    make: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host, "_FOLLOW_S", 0.01)
    monkeypatch.setattr(host, "_BEAT_S", 0.0)
    folder = make("r", phase=Phase.DONE)
    folder.output.write_bytes(b"one\0\4 two\n")
    shown: list[bytes] = []
    with folder.locked():
        thread = threading.Thread(target=host.follow, args=(folder,), kwargs={"show": shown.append})
        thread.start()
        until = time.monotonic() + 10
        while host.BEAT not in shown and time.monotonic() < until:
            time.sleep(0.01)
    thread.join(10)
    assert shown[0] == b"one two\n"
    assert set(shown[1:-1]) == {host.BEAT}
    assert shown[-1] == host.END
