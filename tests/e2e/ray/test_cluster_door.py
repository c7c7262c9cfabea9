"""Into a running cluster and back: a submitted job's environment, nodes that come later, logs of dead actors.

The name sorts before those of the other Ray tests: a process that has driven a Ray with a token fails to start actors
in one without, and these clusters have none.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.config.recipe import Recipe

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray")
from ray import exceptions as ray_errors  # noqa: E402 - needs ray
from ray.cluster_utils import Cluster  # noqa: E402
from ray.util.placement_group import placement_group, remove_placement_group  # noqa: E402
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: E402

from rlvr.run.ray.actor_logs import last_lines  # noqa: E402
from rlvr.run.ray.nodes.handshake import shake_hands  # noqa: E402
from rlvr.run.ray.nodes.members import members  # noqa: E402
from rlvr.run.ray.placement import Reserved  # noqa: E402
from rlvr.run.ray.weight_files import CHUNKS_AHEAD, stream  # noqa: E402

STORE = 80 << 20
# What a driver of a run does, and what its workers see.
DRIVER = """
import os, sys, ray
from rlvr.config.sections.cluster import ClusterConfig
from rlvr.run.ray.connect import connected
names = ("HF_HUB_OFFLINE", "MINE", "MY_TOKEN", "NCCL_DEBUG", "PYTHONPATH")
config = ClusterConfig(address=sys.argv[1], env={"MY_TOKEN": None, "NCCL_DEBUG": "INFO"})
with connected(config):
    @ray.remote(num_cpus=0)
    def seen():
        import rlvr.records
        return [os.environ.get(name, "") for name in names]
    print("seen:", *ray.get(seen.remote(), timeout=60))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with two cores; tests add nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE})
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def joined(cluster: Any) -> Iterator[Any]:
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()


def recipe_of(address: str, **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"tiny": {}},
            "data": {"train": [{"source": "x.jsonl", "verifier": "text_match"}]},
            "rollout": {"engine": "toy"},
            "cluster": {"backend": "ray", "address": address, "start_deadline_s": 30, **changes},
        }
    )


def test_a_submitted_job_joins_and_secrets_reach_workers_but_no_file_of_ray(cluster: Any, tmp_path: Path):
    job = {"env_vars": {"HF_HUB_OFFLINE": "1", "MINE": "of-the-job", "PYTHONPATH": str(tmp_path)}}
    environ = {
        **os.environ,
        **job["env_vars"],
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": job, "metadata": {}}),
        "MY_TOKEN": "secret-4711-value",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, cluster.address], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = next(line for line in done.stdout.splitlines() if line.startswith("seen:")).split()[1:]
    assert seen[:4] == ["1", "of-the-job", "secret-4711-value", "INFO"]
    assert str(tmp_path) in seen[4].split(os.pathsep)
    session = Path(cluster.head_node.get_session_dir_path())
    leaks = [
        str(file)
        for file in session.rglob("*")
        if file.is_file() and not file.is_symlink() and b"secret-4711" in file.read_bytes()
    ]
    assert leaks == []


def test_a_stream_of_weights_waits_for_a_slow_reader(joined: Any):
    @ray.remote(concurrency_groups={"questions": 1, "weights": 1}, num_cpus=0)
    class Sender:
        sent = 0

        @ray.method(concurrency_group="weights")
        def read_weights(self, count: str, _: int) -> Iterator[bytes]:
            for _ in range(int(count)):
                self.sent += 1
                yield b"x" * (1 << 20)

        @ray.method(concurrency_group="questions")
        def so_far(self) -> int:
            return self.sent

    sender = Sender.remote()
    chunks = stream(sender, "20")
    first = ray.get(next(chunks), timeout=60)
    assert len(first) == 1 << 20
    counts = [0, ray.get(sender.so_far.remote(), timeout=60)]
    while counts[-1] != counts[-2]:
        time.sleep(0.5)  # many times what the sender needs for all chunks
        counts.append(ray.get(sender.so_far.remote(), timeout=60))
    assert counts[-1] <= 1 + CHUNKS_AHEAD + 1
    assert sum(len(ray.get(chunk)) for chunk in chunks) == 19 << 20


def test_a_run_waits_for_a_node_and_an_engine_for_the_return_of_its_own(joined: Any):
    lines: list[str] = []
    added: list[Any] = []

    def say(line: str) -> None:
        lines.append(line)
        if not added:  # the autoscaler reacts
            added.append(joined.add_node(num_cpus=3, object_store_memory=STORE))

    recipe = recipe_of(joined.address, engines=2, cpus_per_engine=1.5, wait_for_nodes_s=60)
    reserved = Reserved(recipe, say=say)
    assert lines[0].startswith("waiting for nodes, 0 of cluster.wait_for_nodes_s=60 s: 4 CPUs are needed")
    engine = next(
        index
        for index, group in reserved._engines.items()
        if ray.util.placement_group_table(group)["bundles_to_node_id"][0] == added[0].node_id
    )

    async def scenario() -> None:
        assert await reserved.place(engine) == added[0].node_id
        joined.remove_node(added[0], allow_graceful=False)
        waiting = asyncio.create_task(reserved.place(engine))
        await asyncio.sleep(3.0)
        assert not waiting.done()
        again = joined.add_node(num_cpus=3, object_store_memory=STORE)  # only in the main thread
        assert await asyncio.wait_for(waiting, 60) == again.node_id
        reserved.release(engine)  # as when the node is refused or drained: the next place is another one
        waiting = asyncio.create_task(reserved.place(engine, avoid=[again.node_id]))
        await asyncio.sleep(3.0)
        assert not waiting.done()
        waiting.cancel()
        joined.remove_node(again, allow_graceful=False)

    try:
        asyncio.run(scenario())
    finally:
        reserved.close()


def test_a_node_is_busy_while_something_is_placed_there_and_not_afterwards(joined: Any):
    def are_busy() -> bool:
        return any(node["is_busy"] for node in members(joined.address))

    group = placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group)

    @ray.remote(num_cpus=1)
    def work() -> bool:
        return True

    assert ray.get(work.options(scheduling_strategy=strategy).remote(), timeout=60)
    until(are_busy)
    remove_placement_group(group)
    until(lambda: not are_busy())


def until(met: Callable[[], bool], *, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_node_that_is_lost_while_it_is_asked_is_left_out_and_what_was_reserved_there_moves(joined: Any):
    node = joined.add_node(num_cpus=1, object_store_memory=STORE)
    reserved = Reserved(recipe_of(joined.address, engines=2, heartbeat_deadline_s=5))
    raylet = node.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)  # as a container that has ended: still listed, and without an answer
    killed = threading.Timer(3, lambda: os.kill(raylet, signal.SIGKILL))
    killed.start()
    said: list[str] = []
    try:
        known = shake_hands([], with_vllm=False, deadline_s=120, say=said.append)
        assert len(known) == 1
        assert {line.partition(") ")[2] for line in said} == {  # also for a node of the test before
            "was lost before it reported its versions; the run starts without it"
        }
        assert not reserved.nodes <= set(known)
        reserved.renew()
        assert reserved.nodes == set(known)
        assert len(reserved.plan.engine_bundles) == 1
    finally:
        killed.join()
        reserved.close()
        joined.remove_node(node, allow_graceful=False)


def test_an_actor_that_dies_on_another_node_leaves_its_last_lines(joined: Any):
    node = joined.add_node(num_cpus=1, resources={"there": 1}, object_store_memory=STORE)

    @ray.remote(resources={"there": 1}, num_cpus=0)
    class Victim:
        def die(self) -> None:
            os.write(2, b"RuntimeError: CUDA error: an illegal memory access\n")
            os.kill(os.getpid(), signal.SIGKILL)

    victim = Victim.remote()
    with pytest.raises(ray_errors.RayError):
        ray.get(victim.die.remote(), timeout=60)
    said = last_lines(victim._actor_id.hex()).splitlines()
    assert said[0].startswith(f"the end of its log (node {node.node_ip_address}, {node.get_logs_dir_path()}/worker-")
    assert said[-1] == "  RuntimeError: CUDA error: an illegal memory access"
    joined.remove_node(node, allow_graceful=False)
    assert last_lines(victim._actor_id.hex()) == ""
