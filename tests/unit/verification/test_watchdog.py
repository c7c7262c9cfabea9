"""What a killed process leaves is removed by its watchdog, and nothing else is."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlvr.processes import watchdog

OWNER = """
import os, signal, subprocess, sys
from pathlib import Path
from rlvr.processes import watchdog
guarded, forgotten, used = map(Path, sys.argv[1:4])
for folder in (guarded, forgotten, used):
    folder.mkdir()
    (folder / "file").write_text("x")
watchdog.guard(guarded)
watchdog.guard(forgotten)
watchdog.forget(forgotten)
watchdog.guard(used, with_users=True)
sleeper = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(1000)"], stdout=subprocess.DEVNULL, start_new_session=True,
    env=os.environ | {watchdog.FOLDER_OF: str(used)},
)
print(sleeper.pid, flush=True)
if os.fork() == 0:  # it holds the pipe to the watchdog open
    import time
    os.close(1)
    time.sleep(1000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_until(met: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not met():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_what_a_killed_process_guarded_goes_with_those_who_use_it(tmp_path: Path):
    folders = [tmp_path / name for name in ("guarded", "forgotten", "used")]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.Popen(
        [sys.executable, "-c", OWNER, *map(str, folders)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert done.stdout is not None
    sleeper = int(done.stdout.readline())
    try:
        assert done.wait(timeout=60) == -signal.SIGKILL
        wait_until(lambda: not folders[0].exists() and not folders[2].exists())
        wait_until(lambda: is_gone(sleeper))
        assert (folders[1] / "file").exists()
    finally:
        os.killpg(done.pid, signal.SIGKILL)  # the fork
        done.stdout.close()


def test_a_folder_in_use_a_link_and_anything_else_stay(tmp_path: Path):
    used = tmp_path / "used"
    used.mkdir()
    descriptor = watchdog.open_own(used)
    assert descriptor is not None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert not watchdog.remove_unused(used)
    (tmp_path / "link").symlink_to(used)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for name in ("link", "fifo", "file"):
        assert not watchdog.remove_unused(tmp_path / name)
    os.close(descriptor)
    assert not watchdog.remove_unused(tmp_path / "link")
    assert watchdog.remove_unused(used)
    assert watchdog.remove_unused(tmp_path / "was never there")


NESTED = """
import os, signal, sys, time
from pathlib import Path
from rlvr.processes import watchdog
outer, inner = map(Path, sys.argv[1:3])
outer.mkdir()
watchdog.guard(outer, with_users=True)
os.environ[watchdog.FOLDER_OF] = str(outer)
if os.fork() == 0:  # as an actor of a private Ray, which has its variable from its start
    program = (
        "import sys, time; from pathlib import Path; from rlvr.processes import watchdog; folder = Path(sys.argv[1]); "
        "folder.mkdir(); watchdog.guard(folder); print(flush=True); time.sleep(1000)"
    )
    os.execv(sys.executable, [sys.executable, "-c", program, str(inner)])
time.sleep(1000)
"""


def test_one_watchdog_ends_the_owner_of_another_which_then_does_its_own_work(tmp_path: Path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    owner = subprocess.Popen(
        [sys.executable, "-c", NESTED, str(outer), str(inner)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    assert inner.is_dir()
    owner.kill()
    owner.wait()
    wait_until(lambda: not outer.exists() and not inner.exists())
    owner.stdout.close()
