"""What must be caught, and what must end: a stale packed head, a killed and a frozen core, a closed engine."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import vllm_cases as cases
from vllm_cases import Living, collect, differences, expected_logprobs, request

from rlvr.errors import RolloutError
from rlvr.models.policy import Policy

pytestmark = pytest.mark.cluster

# A worker that leaves the packed head as it was, which is what vLLM's own reload does.
STALE = '''
from rlvr.rollout.vllm import extension
from rlvr.rollout.vllm.extension import WorkerExtension


class LeavesPackedCopies(WorkerExtension):
    """Repacks and fails only on request."""

    must_fail = False

    def rlvr_repack(self):
        if self.must_fail:
            raise RuntimeError("a drill")
        return []

    def fail_next(self):
        self.must_fail = True

    def repack_after_all(self):
        return super().rlvr_repack()
'''


@pytest.fixture(scope="module")
def policy() -> Policy:
    return cases.without_end(cases.tiny_policy(seed=1))


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("extension")
    (folder / "stale_extension.py").write_text(STALE)
    sys.path.insert(0, str(folder))  # vLLM's processes are given this path
    yield "stale_extension.LeavesPackedCopies"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def living(policy: Policy, extension: str) -> Iterator[Living]:
    living = Living(cases.engine_for(policy, extension=extension))
    yield living
    living.end()


def test_a_stale_packed_head_shows_in_the_canary_and_repacking_cures_it(living: Living, policy: Policy, tmp_path: Path):
    """Checksums and version are right, the embedding is new, the head is old: only the canary can tell."""

    def errors(found: list[list[float]]) -> list[float]:
        return [
            error
            for row, line in zip(cases.CANARY, found, strict=True)
            for error in differences(line, expected_logprobs(policy, row))
        ]

    ref = cases.publish(cases.tensors_of(policy), tmp_path / "v1.safetensors", version=1)
    receipt = living.run(living.engine.load_weights(ref, canary=cases.CANARY))
    assert receipt.checksums == {entry.name: entry.checksum for entry in ref.manifest}
    assert max(errors([list(row) for row in receipt.canary_logprobs])) > 0.1
    repacked = living.run(living.engine._core.call("collective_rpc", "repack_after_all"))
    assert repacked == [["lm_head"]]
    assert max(errors(living.run(living.engine.score(cases.CANARY)))) < 2e-4


def test_health_reports_a_frozen_core_which_continues_when_it_is_released(living: Living):
    (core,) = living.engine.process_ids
    os.kill(core, signal.SIGSTOP)
    try:
        until = time.monotonic() + 10
        while psutil.Process(core).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < until
        health = living.run(living.engine.health(), within_s=1)
        assert not health.is_healthy
        assert f"process {core} is stopped" in health.detail
    finally:
        os.kill(core, signal.SIGCONT)
    assert len(living.generate(request("x"))) == 1


def test_a_killed_core_fails_open_requests_and_health_reports_it(living: Living):
    (core,) = living.engine.process_ids

    async def work() -> float:
        requests = [request(f"{i}", seed=i, max_tokens=200) for i in range(32)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.1)
        os.kill(core, signal.SIGKILL)
        begin = time.monotonic()
        with pytest.raises(RolloutError, match=f"process {core} is gone"):
            await task
        return time.monotonic() - begin

    assert living.run(work()) < 15
    health = living.run(living.engine.health(), within_s=1)
    assert not health.is_healthy
    assert "start a new engine" in health.detail
    with pytest.raises(RolloutError, match="is gone"):
        living.generate(request("x"))


def test_close_ends_the_processes_and_open_requests(policy: Policy, tmp_path: Path):
    living = Living(cases.engine_for(policy))
    ref = cases.publish(cases.tensors_of(policy), tmp_path / "v1.safetensors", version=1)

    async def work() -> None:
        await living.engine.load_weights(ref)
        requests = [request(f"{i}", seed=i, max_tokens=200) for i in range(32)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.1)
        processes = living.engine.process_ids
        assert all(psutil.pid_exists(pid) for pid in processes)
        await living.engine.close()
        with pytest.raises(RolloutError, match="the engine is closed"):
            await task
        assert not any(psutil.pid_exists(pid) for pid in processes)
        with pytest.raises(RolloutError, match="the engine is closed"):
            await collect(living.engine, requests)

    living.run(work())
    living.end()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


OWNER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import vllm_cases as cases

if __name__ == "__main__":
    living = cases.Living(cases.engine_for(cases.tiny_policy(seed=1)))
    living.run(living.engine.start())
    folder = living.engine._core._folder
    assert any(path.is_socket() for path in folder.iterdir())
    assert "VLLM_RPC_BASE_PATH" not in os.environ
    print("cores", *living.engine.process_ids, folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_core_ends_when_the_engines_process_is_killed_and_its_folder_and_sockets_go(
    tmp_path: Path, short_folder: Path
):
    (tmp_path / "owner.py").write_text(OWNER)
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(tmp_path / "owner.py"), str(here)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TMPDIR": str(short_folder)},
    )
    assert done.returncode == -signal.SIGKILL
    line = next(line for line in done.stdout.splitlines() if line.startswith("cores"))
    _, core, folder = line.split()
    until = time.monotonic() + 120
    while Path(folder).exists() or (
        psutil.pid_exists(int(core)) and psutil.Process(int(core)).status() != psutil.STATUS_ZOMBIE
    ):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert Path(folder).parent == short_folder
    assert not any(path.is_socket() for path in short_folder.iterdir())


@pytest.mark.slow
def test_a_load_that_fails_half_way_ends_the_engine(policy: Policy, extension: str, tmp_path: Path):
    """Some layers would be new and some old: nothing may be generated with that."""
    living = Living(cases.engine_for(policy, extension=extension))
    tensors = cases.tensors_of(policy)
    first = cases.publish(tensors, tmp_path / "v1.safetensors", version=1)
    second = cases.publish(tensors, tmp_path / "v2.safetensors", version=2)

    async def work() -> None:
        await living.engine.load_weights(first)
        await living.engine._core.call("collective_rpc", "fail_next")
        requests = [request(f"{i}", seed=i, max_tokens=200) for i in range(32)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.05)
        with pytest.raises(RolloutError, match="a drill"):
            await living.engine.load_weights(second)
        with pytest.raises(RolloutError, match="version 2 were loaded only in part"):
            await task
        health = await living.engine.health()
        assert (health.is_healthy, health.policy_version) == (False, 1)
        with pytest.raises(RolloutError, match="start a new engine"):
            await living.engine.load_weights(second)

    living.run(work())
    living.end()
