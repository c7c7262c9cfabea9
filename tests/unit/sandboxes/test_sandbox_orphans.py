"""A supervisor that is killed in the middle of a run leaves no process of a box, and no directory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.sandboxes.sandbox_cases import BACKENDS, make

SUPERVISOR = """
import asyncio, os, signal, sys
from pathlib import Path
from rlvr.protocols import Limits
from rlvr_sandboxes.inside import limits
from tests.unit.sandboxes.sandbox_cases import make

async def main():
    sandbox = make(sys.argv[1])
    program = b"import time\\nwhile True: time.sleep(1)"
    running = asyncio.ensure_future(sandbox.run(("python", "main.py"), {"main.py": program}, b"", Limits(wall_s=1000)))
    before = set()
    while True:  # until the program is one of the processes
        await asyncio.sleep(0.3)
        assert not running.done(), running.result()
        now = set(limits.descendants(os.getpid()))
        if len(now) >= 3 and now == before:
            break
        before = now
    print(*now, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("name", list(BACKENDS))
def test_what_a_killed_supervisor_had_started_ends_and_its_directories_go(name: str, tmp_path: Path) -> None:
    make(name)  # skips where this machine cannot
    for folder in (tmp_path, *tmp_path.parents[:3]):  # up to pytest-of-USER, below xdist too
        folder.chmod(folder.stat().st_mode | 0o755)  # as root each slot has another user
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISOR, name],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) >= 3
    until = time.monotonic() + 60
    while not all(map(is_gone, pids)) or list(tmp_path.iterdir()):
        assert time.monotonic() < until, (pids, list(tmp_path.iterdir()))
        time.sleep(0.02)
