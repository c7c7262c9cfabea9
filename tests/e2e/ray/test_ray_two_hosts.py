"""Two hosts, as network namespaces joined by a cable: a run spreads over both, and survives when one is cut off."""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from rlvr import versions
from rlvr.config.recipe import ModelConfig
from rlvr.models.policy import load_policy
from tests.e2e.ray.ray_runs import TINY, TOY, command, environment, events_of, ledger_of, rlvr, rows_of

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
    """before_start: a shell script that the worker runs whenever its node starts; it has its own view of the mounts."""

    head: Host
    worker: Host
    env: dict[str, str]
    before_start: Path


@pytest.fixture
def hosts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """A Ray head on one host and a worker on the other, with one token. Its parameter: the cores of each.

    The worker's node is started again whenever it ends, as by a container's restart policy.
    """
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
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "120",
    }
    before_start = tmp_path / "before_start.sh"
    before_start.write_text("")
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
            words = [
                *ray,
                *where,
                size,
                f"--node-ip-address={host.address}",
                f"--num-cpus={request.param[index]}",
                *folder,
            ]
            if index == 1:
                words = ["sh", "-c", f"while :; do . {before_start}; {shlex.join(words)}; sleep 0.5; done"]
            nodes.append(host.start(words, env=env, log=tmp_path / f"node{index}.log"))
            time.sleep(8)
        yield Hosts(head, worker, env, before_start)
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
def test_a_host_with_engines_that_is_cut_off_drained_or_upgraded_is_done_without_until_it_is_back(
    hosts: Hosts, tmp_path: Path
):
    """The cores leave one way to place a learner of 1 and three engines of 2: the learner on the head.

    Then the driver is killed and resumed, and the head is lost, which ends the run as a supervisor expects.
    """
    changes = [*TINY, *TOY, *LEARNER_APART, "run.steps=100000", "rollout.max_completion_tokens=6"]
    changes += ["run.checkpoint_every_steps=1", "run.keep_checkpoints=1", "cluster.max_engine_restarts=2"]
    driver = start(hosts, tmp_path / "run", changes)
    run = driver.run
    try:
        driver.until(lambda: has_steps(run))
        cut_off(hosts.worker)
        driver.until(lambda: len(events_of(run, "engine_lost")) == 2)
        driver.until(lambda: bool(events_of(run, "node_left")))
        steps = driver.steps()
        reconnect(hosts.worker)
        driver.until(lambda: len(events_of(run, "engine_restarted")) == 2)
        assert driver.steps() > steps
        driver.until(lambda: bool(events_of(run, "verifier_returned")))  # a pool had moved to the head

        end_node(hosts.worker, signal.SIGTERM)
        driver.until(lambda: len(events_of(run, "engine_returned")) == 2)
        assert len(events_of(run, "node_draining")) == 1
        assert len(events_of(run, "engine_lost")) == 2

        original, changed = changed_source(tmp_path)
        hosts.before_start.write_text(f"mount --bind {changed} {original}\n")
        end_node(hosts.worker, signal.SIGKILL)
        driver.until(lambda: bool(events_of(run, "node_refused")))
        steps = driver.steps()
        hosts.before_start.write_text(f"umount -l {original}\n")
        end_node(hosts.worker, signal.SIGKILL)
        driver.until(lambda: len(events_of(run, "engine_restarted")) == 4)
        assert driver.steps() > steps
        (refused,) = events_of(run, "node_refused")
        assert refused["address"] == hosts.worker.address
        assert "sources of rlvr is" in refused["reason"]
        assert driver.log.read_text().count("is not used, because it differs from the driver") == 1

        driver.process.kill()  # behind it the cluster is free again, so that a resume finds all that it needs
        driver.process.wait()
        steps = driver.steps()
        driver = start(hosts, run, changes, options=["--resume"])
        driver.until(lambda: driver.steps() > steps + 1)
        assert not events_of(run, "fewer_engines")
        (head,) = (p for p in processes_of(hosts.head) if p.name() == "gcs_server")
        (block,) = (p for p in processes_of(hosts.head) if "--block" in p.cmdline())
        block.suspend()  # it would end this host's raylet too, and Ray a driver without a raylet, with exit code 1
        head.kill()
        assert driver.process.wait(timeout=60) == 75, driver.log.read_text()
        block.resume()
    finally:
        driver.process.kill()
        driver.process.wait()
    last = json.loads((run / "events.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["error"]) == ("stopped", "ClusterLost")
    assert "--resume" in driver.log.read_text().splitlines()[-1]
    assert not events_of(run, "learner_restart")
    places = {event["place"].partition(",")[0] for event in events_of(run, "engine_restarted")}
    assert places == {f"node {hosts.worker.address}"}
    trained = [(issue, step) for issue, _, state, step in ledger_of(run) if state == "trained"]
    steps = len(rows_of(run))
    assert [row["step"] for row in rows_of(run)] == list(range(1, steps + 1))
    assert trained == [(issue, 1 + issue // 4) for issue in range(4 * steps)]


@pytest.mark.parametrize("hosts", [(4, 3)], indirect=True)
def test_a_host_with_the_learner_that_is_cut_off_is_done_without(hosts: Hosts, tmp_path: Path):
    """Two engines stand on the head and learner and engine on the worker; a learner and one engine fit on the head."""
    run = run_and_cut_off_the_worker(hosts, tmp_path, [*TINY, *TOY, *LEARNER_APART])
    assert len(events_of(run, "learner_restart")) == 1
    (fewer,) = events_of(run, "fewer_engines")
    assert (fewer["engines"], fewer["wanted"]) == (1, 3)


# A learner and two engines fill the head, so that the second learner runs on the worker; without it one engine is left.
APART = [
    "cluster.learners=2", "cluster.learners_per_node=1", "cluster.engines=2", "cluster.cpus_per_engine=1.5",
    "cluster.heartbeat_deadline_s=10", "cluster.start_deadline_s=240", "data.eval=[]",
]  # fmt: skip


@pytest.mark.parametrize("hosts", [(4, 1)], indirect=True)
def test_learners_on_two_hosts_train_as_on_one(hosts: Hosts, tmp_path: Path):
    """Toy engines answer alike whatever the weights, so every number can be compared; entropy gives a gradient."""
    same = [*TINY, *TOY, "run.steps=20", "run.checkpoint_every_steps=20", "algorithm.entropy_coef=0.01"]
    changes = [*same, *APART]
    two = finish(start(hosts, tmp_path / "two", changes))
    assert_learners_on_both(two, hosts)
    one = tmp_path / "one"
    rlvr("train", "tiny", *same, "data.eval=[]", "cluster.learners=2", "--run-dir", str(one), cwd=tmp_path)
    assert all(row["policy/grad_norm"] > 0 for row in rows_of(two))
    assert numbers_of(two) == [pytest.approx(row, rel=1e-6, abs=1e-9) for row in numbers_of(one)]
    assert largest_difference(two, one) < 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize("hosts", [(3, 1)], indirect=True)
def test_learners_on_two_hosts_train_a_vllm_engine_as_on_one(hosts: Hosts, tmp_path: Path):
    """With a cold start on both; the weights reach the engine through the first learner's file."""
    pytest.importorskip("vllm")
    changes = [
        *TINY, "rollout.engine=vllm", "rollout.engine_dtype=float32", "rollout.max_completion_tokens=8",
        "rollout.max_batch_rows=16", "cold_start.steps=20", "cluster.learners=2", "cluster.cpus_per_engine=2",
        "cluster.start_deadline_s=400", "data.eval=[]", "proof.max_groups=4", "run.steps=20",
        "run.checkpoint_every_steps=20",
    ]  # fmt: skip
    two = finish(start(hosts, tmp_path / "two", [*changes, "cluster.learners_per_node=1"]), limit_s=1200)
    assert_learners_on_both(two, hosts)
    one = finish(start(hosts, tmp_path / "one", changes), limit_s=1200)
    assert not events_of(one, "learners_placed")
    assert numbers_of(two) == [pytest.approx(row, rel=1e-6, abs=1e-6) for row in numbers_of(one)]
    assert largest_difference(two, one) < 1e-6
    assert [event["policy_version"] for event in events_of(two, "weights_synced")] == list(range(21))


@pytest.mark.parametrize("hosts", [(4, 1)], indirect=True)
def test_learners_of_which_one_host_is_cut_off_continue_from_the_last_checkpoint(hosts: Hosts, tmp_path: Path):
    changes = [*TINY, *TOY, *APART, "run.checkpoint_every_steps=2"]
    run = run_and_cut_off_the_worker(hosts, tmp_path, changes, is_ready=has_checkpoint)
    assert_learners_on_both(run, hosts)
    [restart] = events_of(run, "learner_restart")
    assert "rank 1 of 2 ended (its host or node was lost" in restart["message"]
    assert restart["from_step"] >= 2
    [fewer] = events_of(run, "fewer_engines")
    assert (fewer["engines"], fewer["wanted"]) == (1, 2)


def assert_learners_on_both(run: Path, hosts: Hosts) -> None:
    placed = events_of(run, "learners_placed")[0]
    assert (placed["nodes"], placed["learners"]) == ([hosts.head.address, hosts.worker.address], [1, 1])


def numbers_of(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if isinstance(v, int | float)} for row in rows_of(run)]


def largest_difference(a: Path, b: Path) -> float:
    """Between the last checkpoints, of any weight."""
    paths = [str(run / "checkpoints" / f"step_{rows_of(run)[-1]['step']}") for run in (a, b)]
    first, second = (load_policy(ModelConfig(path=path), seed=0).model.parameters() for path in paths)
    return max(float((p - q).detach().abs().max()) for p, q in zip(first, second, strict=True))


LEARNER_APART = [
    "cluster.engines=3", "cluster.cpus_per_engine=2", "cluster.heartbeat_deadline_s=10",
    "cluster.start_deadline_s=120", "data.eval=[]", "cluster.max_engine_restarts=20",
]  # fmt: skip


def start(hosts: Hosts, run: Path, changes: list[str], *, options: Sequence[str] = ()) -> "Driver":
    """Starts a run on the head."""
    changes = [*changes, "cluster.backend=ray", f"cluster.address={hosts.head.address}:{PORT}"]
    log = run.with_suffix(".log")
    words = command("train", "tiny", *changes, "--run-dir", str(run), *options)
    return Driver(run, log, hosts.head.start(words, env=hosts.env, log=log))


@dataclass(frozen=True)
class Driver:
    run: Path
    log: Path
    process: subprocess.Popen[str]

    def until(self, met: Callable[[], bool], *, limit_s: float = 240) -> None:
        """Waits until `met`, while the run lives."""
        end = time.monotonic() + limit_s
        while not met():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text() + (self.run / "events.jsonl").read_text()
            time.sleep(0.1)

    def steps(self) -> int:
        """Steps recorded so far."""
        return len(rows_of(self.run))


def finish(driver: Driver, *, limit_s: float = 300) -> Path:
    """Waits for the end of a run."""
    try:
        assert driver.process.wait(timeout=limit_s) == 0, driver.log.read_text()
    finally:
        driver.process.kill()
        driver.process.wait()
    return driver.run


def has_steps(run: Path) -> bool:
    return (run / "metrics.jsonl").is_file() and len(rows_of(run)) >= 3


def has_checkpoint(run: Path) -> bool:
    return any((run / "checkpoints").glob("step_*/complete.json"))


def run_and_cut_off_the_worker(
    hosts: Hosts, tmp_path: Path, changes: list[str], *, is_ready: Callable[[Path], bool] = has_steps
) -> Path:
    """The directory of a run of 40 steps whose second host was cut off in the middle."""
    changes = [*changes, "run.steps=40", "rollout.max_completion_tokens=6"]
    driver = start(hosts, tmp_path / "run", changes)
    run = driver.run
    try:
        driver.until(lambda: is_ready(run))
        cut_off(hosts.worker)
    finally:
        finish(driver, limit_s=240)
    assert [row["step"] for row in rows_of(run)] == list(range(1, 41))
    return run


def cut_off(host: Host) -> None:
    """Takes down every network interface of a host."""
    run = f"ip netns exec {host.name}"
    subprocess.run(f"for d in $({run} ls /sys/class/net); do {run} ip link set $d down; done", shell=True, check=False)


def reconnect(host: Host) -> None:
    """Undoes `cut_off`."""
    cable = host.name[1:]
    shell(f"ip netns exec {host.name} ip link set v{cable} up && ip netns exec {host.name} ip link set lo up")


def processes_of(host: Host) -> list[psutil.Process]:
    said = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True).stdout
    found: list[psutil.Process] = []
    for pid in said.split():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(pid)))
    return found


def end_node(host: Host, number: signal.Signals) -> None:
    """Sends the signal to the command that keeps the host's Ray node; SIGKILL to all processes but the loop."""
    for process in processes_of(host):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if (number is signal.SIGKILL and words[:1] != ["sh"]) or "ray.scripts.scripts" in words[:3]:
                process.send_signal(number)


def changed_source(folder: Path) -> tuple[Path, Path]:
    """A module of rlvr, and a copy of it that differs in one line."""
    original = Path(versions.__file__)
    changed = folder / original.name
    changed.write_text(original.read_text() + "# changed\n")
    return original, changed
