"""A submitted run whose head is killed: the same `rlvr cluster up` brings the head back, and the run ends by itself.

The host is a network namespace, which a stand-in for ssh enters; the nodes are processes of this installation.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlvr.deploy.submission.run_folder import Phase, RunFolder, newest_checkpoint
from tests.e2e.ray.ray_runs import TINY, TOY, command, environment, ledger_of, rows_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
pytest.importorskip("ray")
ADDRESS = "10.79.0.1"
STEPS = 40
SSH = '#!/bin/sh\nfor last; do :; done\nexec ip netns exec "$HOST_SPACE" sh -c "$last"\n'


def shell(text: str) -> str:
    return subprocess.run(text, shell=True, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a namespace with the address, as the host `a` of `cluster.yaml`."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    name = f"s{secrets.token_hex(2)}"
    try:
        shell(f"ip netns add {name}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    shell(f"ip -n {name} link set lo up && ip -n {name} link add name v0 type veth peer name v1")
    shell(f"ip -n {name} addr add {ADDRESS}/24 dev v0 && ip -n {name} link set dev v0 up")
    shell(f"ip -n {name} link set dev v1 up")
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    (tmp_path / "shared").mkdir()
    for program, words in {"python": "", "ray": "-m ray.scripts.scripts", "rlvr": "-m rlvr.cli"}.items():
        script = tmp_path / "venv/bin" / program
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        script.chmod(0o755)
    (tmp_path / "cluster.yaml").write_text(
        f"name: {name}\nruntime: host\nvenv: {tmp_path}/venv\nshared: {tmp_path}/shared\n"
        f"hosts:\n  - {{name: a, ssh: ops@a, address: {ADDRESS}, cpus: 4}}\n"
    )
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("HOST_SPACE", name)
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path / "state"))
    yield name
    subprocess.run(command("cluster", "down", "--force"), cwd=tmp_path, env=environment(), check=False, timeout=120)
    for pid in shell(f"ip netns pids {name}").split():
        os.kill(int(pid), 9)
    shell(f"ip netns del {name}")


def cluster(folder: Path, *words: str) -> str:
    done = subprocess.run(
        command("cluster", *words),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bring_up(folder: Path) -> None:
    """`rlvr cluster up`, again if Ray did not start within the 30 s that it allows itself on a busy machine."""
    for _ in range(2):
        done = subprocess.run(
            command("cluster", "up"), cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        if "timed out during startup" not in done.stderr:
            break
    cluster(folder, "up")


def until(met: Callable[[], bool], run: RunFolder, limit_s: float = 240.0) -> None:
    end = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < end, run.output.read_text()
        assert not run.state().phase.is_final, run.output.read_text()
        time.sleep(0.2)


def test_a_run_continues_by_itself_when_its_killed_head_is_back(space: str, tmp_path: Path):
    bring_up(tmp_path)
    settings = [f"run.steps={STEPS}", "run.checkpoint_every_steps=4", "data.eval=[]", "learner.device=cpu"]
    name = cluster(tmp_path, "submit", "tiny", *TINY, *TOY, *settings, "cluster.cpus_per_engine=0.5").strip()
    run_dir = tmp_path / "shared/runs" / name
    run = RunFolder(tmp_path / "shared/submitted" / name)
    until(lambda: newest_checkpoint(run_dir) >= 4, run)

    heads = [pid for pid in shell(f"ip netns pids {space}").split() if "gcs_server" in comm(pid)]
    os.kill(int(heads[0]), 9)
    until(lambda: run.state().restarts == 1, run)
    bring_up(tmp_path)  # the same command as at the start; the head may be back already
    until_done = run.path / "supervisor.jsonl"
    end = time.monotonic() + 240
    while run.state().phase is not Phase.DONE:
        assert time.monotonic() < end, run.output.read_text() + until_done.read_text()
        assert not run.state().phase.is_final, run.output.read_text()
        time.sleep(0.2)

    assert f"done, step {STEPS} of {STEPS}, restarted 1x" in cluster(tmp_path, "status")
    assert [row["step"] for row in rows_of(run_dir)] == list(range(1, STEPS + 1))
    trained = [prompt for _, prompt, state, _ in ledger_of(run_dir) if state == "trained"]
    assert len(trained) == len(set(trained)) == 4 * STEPS  # each prompt exactly once


def comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
