"""Two hosts, as network namespaces joined by a cable: a run spreads over both, and survives when one is cut off."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.ray.ray_runs import TINY, TOY, command, environment, events_of, rows_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
pytest.importorskip("ray")
PORT = 6399


def shell(text: str) -> None:
    subprocess.run(text, shell=True, check=True, capture_output=True, text=True)


@dataclass(frozen=True)
class Host:
    name: str
    address: str

    def start(self, arguments: list[str], *, env: dict[str, str], log: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *arguments],
            env=env,
            text=True,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )


@dataclass(frozen=True)
class Hosts:
    head: Host
    worker: Host
    env: dict[str, str]


@pytest.fixture
def hosts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """A Ray head on one host and a worker on the other, with one token. Its parameter: the cores of each."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    mark = secrets.token_hex(2)
    head, worker = Host(f"h{mark}", "10.77.0.1"), Host(f"w{mark}", "10.77.0.2")
    try:
        shell(f"ip netns add {head.name} && ip netns add {worker.name}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    env = environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_health_check_failure_threshold": "2",
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_timeout_ms": "4000",
    }
    nodes: list[subprocess.Popen[str]] = []
    try:
        shell(f"ip link add v{mark} netns {head.name} type veth peer name v{mark} netns {worker.name}")
        for host in (head, worker):
            run = f"ip netns exec {host.name}"
            shell(f"{run} ip addr add {host.address}/24 dev v{mark}")
            shell(f"{run} ip link set v{mark} up && {run} ip link set lo up")
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        size = f"--object-store-memory={100 << 20}"
        for index, host in enumerate((head, worker)):
            where = (
                ["--head", f"--port={PORT}", "--include-dashboard=false"]
                if index == 0
                else [f"--address={head.address}:{PORT}"]
            )
            folder = [f"--temp-dir=/tmp/r{mark}"] if index == 0 else []
            nodes.append(
                host.start(
                    [
                        *ray,
                        *where,
                        size,
                        f"--node-ip-address={host.address}",
                        f"--num-cpus={request.param[index]}",
                        *folder,
                    ],
                    env=env,
                    log=tmp_path / f"node{index}.log",
                )
            )
            time.sleep(8)
        yield Hosts(head, worker, env)
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            try:
                node.wait(timeout=30)
            except subprocess.TimeoutExpired:
                node.kill()
        for host in (head, worker):
            pids = subprocess.run(
                ["ip", "netns", "pids", host.name], capture_output=True, text=True, check=False
            ).stdout.split()
            for pid in pids:
                os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
        shutil.rmtree(f"/tmp/r{mark}", ignore_errors=True)


@pytest.mark.parametrize("hosts", [(3, 4)], indirect=True)
def test_a_host_with_engines_that_is_cut_off_is_done_without(hosts: Hosts, tmp_path: Path):
    """The cores leave one way to place a learner of 1 and three engines of 2: the learner on the head."""
    run = run_and_cut_off_the_worker(hosts, tmp_path)
    places = {event["place"].partition(",")[0] for event in events_of(run, "engine_lost")}
    assert places == {f"node {hosts.worker.address}"}
    assert not events_of(run, "learner_restart")


@pytest.mark.parametrize("hosts", [(4, 3)], indirect=True)
def test_a_host_with_the_learner_that_is_cut_off_is_done_without(hosts: Hosts, tmp_path: Path):
    """Two engines stand on the head and learner and engine on the worker; a learner and one engine fit on the head."""
    run = run_and_cut_off_the_worker(hosts, tmp_path)
    assert len(events_of(run, "learner_restart")) == 1
    (fewer,) = events_of(run, "fewer_engines")
    assert (fewer["engines"], fewer["wanted"]) == (1, 3)


def run_and_cut_off_the_worker(hosts: Hosts, tmp_path: Path) -> Path:
    """The directory of a run of 40 steps whose second host was cut off in the middle."""
    run = tmp_path / "run"
    log = tmp_path / "run.log"
    changes = [
        *TINY, *TOY, "cluster.backend=ray", f"cluster.address={hosts.head.address}:{PORT}", "cluster.engines=3",
        "cluster.cpus_per_engine=2", "cluster.heartbeat_deadline_s=10", "cluster.start_deadline_s=120", "run.steps=40",
        "data.eval=[]", "rollout.max_completion_tokens=6", "cluster.max_engine_restarts=20",
    ]  # fmt: skip
    driver = hosts.head.start(command("train", "tiny", *changes, "--run-dir", str(run)), env=hosts.env, log=log)
    try:
        end = time.monotonic() + 240
        while not (run / "metrics.jsonl").is_file() or len(rows_of(run)) < 3:
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        subprocess.run(
            f"ip netns exec {hosts.worker.name} ip link set lo down; "
            f"for d in $(ip netns exec {hosts.worker.name} ls /sys/class/net | grep -v lo); do "
            f"ip netns exec {hosts.worker.name} ip link set $d down; done",
            shell=True,
            check=False,
        )
        assert driver.wait(timeout=240) == 0, log.read_text()
    finally:
        driver.kill()
        driver.wait()
    assert [row["step"] for row in rows_of(run)] == list(range(1, 41))
    return run
