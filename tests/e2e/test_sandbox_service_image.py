"""The sandbox service in a real container, with the options of `container_options`: attacks on the machine and it.

Needs Podman or Docker and the image RLVR_IMAGE (localhost/rlvr:cpu), whose rlvr is replaced by this tree's.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from rlvr.deploy.sandbox_service import USER, SandboxSize, container_options
from rlvr.protocols import Limits
from rlvr.registry import build_sandbox
from tests.contract.code_suite import planted_host, read_rows, verify_rows, wrong_verdicts
from tests.contract.test_code_attacks import is_quick

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("RLVR_IMAGE", "localhost/rlvr:cpu")
SITE = "/opt/rlvr/lib/python3.11/site-packages"
NAME = f"rlvr-sandbox-test-{os.getpid()}"
LACKS = {"dev_shm", "g++"}  # of Landlock, and of the image
FOLDERS = "/tmp /var/tmp /dev/shm /dev/mqueue /run"
LOOK = f"for p in /proc/[0-9]*; do cat $p/comm; done | sort; find {FOLDERS} -mindepth 1 | sort"

# Programs that attack the service. Each prints REACHED if it gets anywhere.
ATTACKS = {
    "reads the key": "open('FOLDER/key').read(); print('REACHED')",
    "lists the folder": "import os; os.listdir('FOLDER'); print('REACHED')",
    "connects": "import socket; socket.socket(socket.AF_UNIX).connect('FOLDER/socket'); print('REACHED')",
    "replaces the socket": "import os; os.rename('FOLDER/socket', 'FOLDER/x'); print('REACHED')",
    "removes the socket": "import os; os.unlink('FOLDER/socket'); print('REACHED')",
    "writes next to the socket": "open('FOLDER/new', 'w'); print('REACHED')",
    "kills": (
        "import os\nfor pid in {*range(1, 400), -1} - {os.getpid()}:\n  try: os.kill(pid, 9); print('REACHED')\n"
        "  except OSError: pass"
    ),
    "kills groups": (
        "import os\nfor pid in range(2, 400):\n  try: os.killpg(pid, 9); print('REACHED')\n  except OSError: pass"
    ),
    "reads other processes": (
        "import os\nfor pid in set(range(1, 400)) - {os.getpid()}:\n"
        "  for name in ('mem', 'environ', 'maps', 'cmdline'):\n"
        "    try: open(f'/proc/{pid}/{name}', 'rb').read(1); print('REACHED')\n    except OSError: pass"
    ),
    "traces": (
        "import ctypes, os\nfor pid in set(range(1, 400)) - {os.getpid()}:\n"
        "  if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0: print('REACHED')"
    ),
    "leaves files": (
        "for folder in ('/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/run', '/home/rlvr'):\n"
        "  try: open(folder + '/left', 'w'); print('REACHED')\n  except OSError: pass"
    ),
    "opens sockets": (
        "import socket\nfor family in range(46):\n  for kind in (1, 2, 3, 5):\n"
        "    try: socket.socket(family, kind); print('REACHED')\n    except OSError: pass"
    ),
    "looks for secrets": "import os; print([n for n in os.environ if 'KEY' in n or 'TOKEN' in n] and 'REACHED' or '')",
    "reads the image": "open('SITE/rlvr/__init__.py'); print('REACHED')",
}  # fmt: skip


def engine() -> str:
    """The engine's client; skips without one, or without the image."""
    found = shutil.which("podman") or shutil.which("docker")
    if found is None:
        pytest.skip("neither podman nor docker is installed")
    if os.geteuid() != 0:
        pytest.skip("the test gives the socket's folder to the container's user, which needs root")
    if subprocess.run([found, "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no image {IMAGE}; docker/README.md builds it, and RLVR_IMAGE names another")
    return found


@pytest.fixture
def folder() -> Generator[Path]:
    """The folder of the socket of a running container with two slots."""
    program = engine()
    with tempfile.TemporaryDirectory(prefix="rlvr-service-") as place:
        shared = Path(place) / "shared"
        shared.mkdir(mode=0o700)
        os.chown(shared, USER, USER)
        entries = Path(place) / "entry_points.txt"
        entries.write_text(distribution("rlvr").read_text("entry_points.txt") or "")
        info = f"rlvr-{distribution('rlvr').version}.dist-info"
        mounts = {
            ROOT / "rlvr": f"{SITE}/rlvr",
            ROOT / "sandboxes/rlvr_sandboxes": f"{SITE}/rlvr_sandboxes",
            ROOT / "verifiers/rlvr_verifiers": f"{SITE}/rlvr_verifiers",
            ROOT / "docker/start-sandbox.sh": "/usr/local/bin/start-sandbox.sh",
            entries: f"{SITE}/{info}/entry_points.txt",
        }
        command = [program, "run", "--detach", "--name", NAME]
        command += container_options(SandboxSize(slots=2), volume=str(shared))
        command += [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        subprocess.run([*command, "--env", "RLVR_SANDBOX_BACKEND=landlock", IMAGE], check=True, capture_output=True)
        try:
            end = time.monotonic() + 60.0
            while not (shared / "socket").exists():
                assert time.monotonic() < end, logs(program)
                time.sleep(0.2)
            assert "could be confined further" not in logs(program)
            yield shared
        finally:
            subprocess.run([program, "rm", "--force", "--time", "5", NAME], check=False, capture_output=True)


def logs(program: str) -> str:
    done = subprocess.run([program, "logs", NAME], check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


def state() -> str:
    """Processes and files in the container."""
    command = [engine(), "exec", NAME, "sh", "-c", LOOK]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.image
def test_a_default_container_stops_attacks_on_it_and_runs_honest_programs(folder: Path) -> None:
    attacks, honest = (
        [
            row
            for row in read_rows(name)
            if row.get("needs") not in LACKS and row["language"] == "python" and is_quick(row)
        ]
        for name in ("attacks", "honest")
    )

    async def check() -> None:
        box = build_sandbox("service", {"socket": str(folder / "socket")})
        for _ in range(2):  # both slots are up
            await asyncio.gather(*(box.run(("python", "m.py"), {"m.py": b"print(1)"}, b"", Limits()) for _ in range(4)))
        before = state()
        with planted_host() as host:
            for rows in (attacks[::4], honest[::4]):
                assert wrong_verdicts(rows, await verify_rows(box, rows)) == []
            assert [effect for row in attacks for effect in host.effects_of(row)] == []
        for name, source in ATTACKS.items():
            text = source.replace("FOLDER", "/run/rlvr-sandbox").replace("SITE", SITE).encode()
            result = await box.run(("python", "m.py"), {"m.py": text}, b"", Limits())
            assert b"REACHED" not in result.stdout, (name, result)
        assert await box.self_test() == ()
        assert without_names(state()) == without_names(before)
        await box.close()

    asyncio.run(check())
    assert {path.name for path in folder.iterdir()} == {"key", "socket"}


def without_names(text: str) -> list[str]:
    """Lines of a state without the random names of the boxes' folders, which are replaced now and then."""
    return sorted(
        line.replace(line.split("/")[2], "box") if "/rlvr-box-" in line else line for line in text.splitlines()
    )
