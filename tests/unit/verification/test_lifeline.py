"""A process that is bound to its parent ends with it, also where no thread of its own can run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it only there")

HOLDS_THE_LOCK = """
import ctypes, sys
print(sys.argv[1], flush=True)
ctypes.PyDLL(None).sleep(1000)  # as a C library that waits with the interpreter's lock held
"""
PARENT = """
import os, signal, subprocess, sys
from rlvr.processes.lifeline import bound_command
child = subprocess.Popen(bound_command("holds_the_lock", "started"), stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "holds_the_lock.py").write_text(HOLDS_THE_LOCK)
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    return os.environ | {"PYTHONPATH": path}


def test_a_child_that_holds_the_interpreters_lock_ends_with_its_killed_parent(environment: dict[str, str]):
    done = subprocess.run([sys.executable, "-c", PARENT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    until = time.monotonic() + 60
    while not is_gone(pid):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_child_whose_parent_was_gone_before_it_could_be_bound_runs_nothing(environment: dict[str, str]):
    stranger = os.getppid()
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.processes.lifeline", str(stranger), "holds_the_lock", "started"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
