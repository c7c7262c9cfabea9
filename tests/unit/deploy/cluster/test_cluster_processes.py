"""Nodes as processes of this machine, with a stand-in for Ray that waits."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlvr.deploy.cluster.host_processes import HostProcesses
from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.cluster.node import Facts, NodeState
from rlvr.deploy.cluster.node_commands import in_node
from rlvr.deploy.cluster.remote import Remote

RAY = """#!/bin/sh
[ "$1" = start ] || exit 0
echo "$RAY_AUTH_TOKEN_PATH $*" >>"$RLVR_NODE/calls"
sleep 1000 &
wait
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found through /proc")


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inventory]:
    """A head on this machine, stopped at the end."""
    programs = tmp_path / "venv/bin"
    programs.mkdir(parents=True)
    for name, text in {"ray": RAY, "rlvr": "#!/bin/sh\n", "python": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path / "state"))
    made = Inventory.model_validate(
        {
            "name": f"t{os.getpid()}",
            "runtime": "host",
            "venv": str(tmp_path / "venv"),
            "shared": str(tmp_path),
            "hosts": [{"name": "h", "address": "127.0.0.1"}],
        }
    )
    yield made
    HostProcesses(made, Remote()).stop(made.head, grace_s=1)


def eventually(what: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if what():
            return True
        time.sleep(0.05)
    return False


def started(inventory: Inventory) -> tuple[HostProcesses, Path]:
    """The runtime and the folder of the node, which has called Ray."""
    runtime = HostProcesses(inventory, Remote())
    runtime.prepare(inventory.head, "t" * 64)
    runtime.start(inventory.head, Facts(state=NodeState.ABSENT, cpus=3), fingerprint="mark")
    folder = Path(os.environ["RLVR_STATE_DIR"]) / f"clusters/{inventory.name}/hosts/h"
    assert eventually((folder / "calls").exists)
    return runtime, folder


def test_a_node_outlives_the_command_that_started_it_and_is_found_again(inventory: Inventory) -> None:
    runtime, folder = started(inventory)
    found = runtime.probe(inventory.head)
    assert (found.state, found.token, found.problem) == (NodeState.RUNNING, "mark", "")
    assert f"{folder}/token start --head" in (folder / "calls").read_text()
    assert "--num-cpus=3" in (folder / "calls").read_text()


def test_stopping_ends_every_process_and_removes_the_files(inventory: Inventory) -> None:
    runtime, folder = started(inventory)
    runtime.stop(inventory.head, grace_s=5)
    mark = f"RLVR_NODE={folder}".encode()
    left = [p for p in Path("/proc").glob("[0-9]*/environ") if os.access(p, os.R_OK) and mark in _environment(p)]
    assert left == []
    assert not folder.exists()
    assert runtime.probe(inventory.head).state is NodeState.ABSENT
    runtime.stop(inventory.head, grace_s=5)


def _environment(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:  # it ended, or belongs to another user
        return []


def test_a_process_that_only_has_the_number_of_the_node_is_left_alone(inventory: Inventory) -> None:
    runtime, folder = started(inventory)
    runtime.stop(inventory.head, grace_s=5)
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        folder.mkdir(parents=True)
        (folder / "pid").write_text(f"{stranger.pid} 12345 mark\n")
        assert runtime.probe(inventory.head).state is NodeState.ENDED
        runtime.stop(inventory.head, grace_s=1)
        assert stranger.poll() is None
        stranger.kill()


def test_a_command_in_the_node_has_its_environment(inventory: Inventory) -> None:
    _, folder = started(inventory)
    words = in_node(inventory, inventory.head, ["sh", "-c", "echo $RAY_AUTH_TOKEN_PATH $RLVR_PORT $RLVR_HEAD; cat"])
    done = Remote().run(inventory.head, words, stdin=b"input")
    assert done.stdout == f"{folder}/token 6379 127.0.0.1:6379\ninput"


def test_an_installation_that_is_missing_is_a_problem(inventory: Inventory, tmp_path: Path) -> None:
    (tmp_path / "venv/bin/ray").unlink()
    problem = HostProcesses(inventory, Remote()).probe(inventory.head).problem
    assert problem == f"{tmp_path}/venv/bin/ray does not exist there; install rlvr[ray] into {tmp_path}/venv"


def test_a_wrong_folder_for_the_installation_is_one_problem(inventory: Inventory, tmp_path: Path) -> None:
    wrong = inventory.model_copy(update={"venv": f"{tmp_path}/none"})
    problem = HostProcesses(wrong, Remote()).probe(wrong.head).problem
    assert problem == f"{tmp_path}/none/bin/ray does not exist there; install rlvr[ray] into {tmp_path}/none"
