"""`docker` by a client that runs its containers' programs on this machine; it was not tested with a Docker engine."""

import asyncio
import itertools
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from rlvr.contracts.box import children_of_this_process, processes_named, settled
from rlvr.errors import SandboxError
from rlvr.protocols import Limits, Program
from rlvr_sandboxes.docker import DockerConfig, DockerSandbox, container_argv, exec_argv

LIMITS = Limits(wall_s=5.0)
HELLO = {"main.py": b"print('hello', input())"}
PROGRAM = ("python", "main.py")
# one that any user may execute: the supervisor changes the user id
PYTHON = next((p for p in ("/usr/local/bin/python3", "/usr/bin/python3") if Path(p).exists()), "")

FAKE_CLIENT = """#!{shell}
import os, sys
log = open({log!r}, "a")
log.write(repr(sys.argv[1:]) + "\\n")
log.close()
command = sys.argv[1]
if command == "exec":
    start = sys.argv.index("python3")
    os.execv({python!r}, [{python!r}, *sys.argv[start + 1:]])
if command == "inspect":
    print("false" if os.path.exists({gone!r}) else "true")
if command == "run" and os.path.exists({refuse!r}):
    sys.exit("no such image")
"""


@pytest.fixture
def fake_docker(tmp_path: Path) -> Path:
    """A docker client that logs its calls to the file `log` in its folder."""
    path = tmp_path / "docker"
    names = {name: str(tmp_path / name) for name in ("log", "gone", "refuse")}
    path.write_text(FAKE_CLIENT.format(shell=sys.executable, python=PYTHON, **names))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


needs_root = pytest.mark.skipif(os.geteuid() != 0 or not PYTHON, reason="its supervisor changes the user id")


@needs_root
def test_docker_runs_and_talks_through_its_client(fake_docker: Path) -> None:
    async def check() -> None:
        box = DockerSandbox(DockerConfig(command=str(fake_docker), slots=2))
        result = await box.run(PROGRAM, HELLO, b"there", LIMITS)
        assert result.stdout == b"hello there\n"
        who = b"import os; print(os.getuid(), os.getgroups(), sorted(os.environ))"
        result = await box.run(PROGRAM, {"main.py": who}, b"", LIMITS)
        assert 60000 <= int(result.stdout.split()[0]) < 65000
        assert b"PYTEST" not in result.stdout
        echo = b"import os\nwhile True: os.write(4, os.read(3, 100))"
        programs = [Program(argv=PROGRAM, files={"main.py": echo}) for _ in range(2)]
        sessions = await box.open_sessions(programs)
        for session in sessions:
            await session.send(b"ping")
            assert await session.receive(5.0) == b"ping"
        assert [(await session.close()).exit_code for session in sessions] == [-9, -9]
        await box.close()

    asyncio.run(check())
    log = (fake_docker.parent / "log").read_text().splitlines()
    assert [line.split("'")[1] for line in log] == ["run", *["exec"] * 4, "rm"]
    assert "'--force'" in log[-1]


@needs_root
def test_docker_starts_a_fresh_container_when_the_old_one_is_gone(fake_docker: Path) -> None:
    async def check() -> None:
        box = DockerSandbox(DockerConfig(command=str(fake_docker), slots=1))
        await box.start()
        (fake_docker.parent / "gone").touch()
        box._source = "raise SystemExit('no such container')"
        with pytest.raises(SandboxError, match="no such container"):
            await box.run(PROGRAM, HELLO, b"", LIMITS)
        await box.close()

    asyncio.run(check())
    log = (fake_docker.parent / "log").read_text()
    assert log.count("['run'") == 2


@needs_root
def test_what_a_killed_supervisor_left_is_ended_and_removed_by_the_next_run(fake_docker: Path) -> None:
    name = "rlvrleft"
    orphan = (
        f"import ctypes, os, time\nif os.fork() == 0:\n    os.setsid()\n"
        f"    ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n    time.sleep(30)\n"
        "open('here', 'w').write('x')\ntime.sleep(30)"
    )

    async def check() -> None:
        box = DockerSandbox(DockerConfig(command=str(fake_docker), slots=1))
        before = children_of_this_process()
        session = await box.open_session(PROGRAM, {"main.py": orphan.encode()}, LIMITS)
        while not processes_named(name):
            await asyncio.sleep(0.02)
        supervisor = min(children_of_this_process() - before)
        assert list(Path("/tmp").glob(f"rlvr-run-{supervisor}-*"))
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(SandboxError, match="without a result"):
            await session.close()
        assert (await box.run(PROGRAM, HELLO, b"x", LIMITS)).stdout == b"hello x\n"
        assert list(Path("/tmp").glob(f"rlvr-run-{supervisor}-*")) == []
        assert await settled(lambda: processes_named(name)) == set()
        await box.close()

    asyncio.run(check())


def test_docker_reports_the_engines_message(fake_docker: Path) -> None:
    (fake_docker.parent / "refuse").touch()
    box = DockerSandbox(DockerConfig(command=str(fake_docker)))
    with pytest.raises(SandboxError, match="no such image"):
        asyncio.run(box.start())
    missing = DockerSandbox(DockerConfig(command=str(fake_docker) + "-missing"))
    with pytest.raises(SandboxError, match="is the engine installed"):
        asyncio.run(missing.start())


def test_the_container_has_no_network_no_host_and_no_privileges() -> None:
    argv = container_argv(DockerConfig(slots=2, runtime="runsc"), "box-1")
    pairs = list(itertools.pairwise(argv))
    for pair in (
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--runtime", "runsc"),
        ("--memory", "4096m"),
        ("--memory-swap", "4096m"),
        ("--pids-limit", "256"),
    ):
        assert pair in pairs
    assert "--read-only" in argv
    assert not {"--privileged", "--volume", "-v", "--mount", "--env", "-e"} & set(argv)
    assert "--interactive" in exec_argv(DockerConfig(), "box-1", "pass")
