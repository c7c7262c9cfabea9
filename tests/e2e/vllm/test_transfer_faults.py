"""Broadcasts that fail: each ends within its deadline, and the fleet continues with whoever is well.

Two vLLM engines serve all tests, in order. A broadcast is held up by a file, so that something can be hurt meanwhile.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import transfer_cases
import vllm_cases as cases
from gloo_communicator import HANG_VARIABLE
from transfer_cases import change, fleet_of, largest_gap, learner_of
from vllm_cases import request

from rlvr.errors import LearnerError
from rlvr.protocols import LoadReceipt
from rlvr.records import Transport
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.run.weights.answers import deliver

pytestmark = pytest.mark.cluster
T = TypeVar("T")
DEADLINE_S = 6.0
SLACK_S = 6.0  # on a busy machine


class Scene:
    """Two engines, a learner, and the loop in which the fleet lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hang = folder / "hang"
        self.loop = asyncio.new_event_loop()
        self.failed_after_s = 0.0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.engines = {name: partial(self._engine, name) for name in ("engine-0", "engine-1")}
        self.policy = cases.without_end(cases.tiny_policy(seed=1))
        self.learner = learner_of(self.policy, folder)
        self.fleet = fleet_of(self.learner, self.engines, events=self.events, deadline_s=DEADLINE_S)
        self.run(self.fleet.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 200))

    def sync(self) -> LoadReceipt:
        """One publication that arrives; the engines compute as the learner."""
        change(self.learner, self.policy, seed=len(self.events))
        _, receipt = self.run(deliver(self.fleet, self.learner.publish(), canary=cases.CANARY))
        assert largest_gap(receipt, self.learner.score(cases.CANARY)) < 2e-4
        return receipt

    async def while_held(self, hurt: Callable[[], None]) -> LoadReceipt:
        """A sync whose first broadcast is held up until `hurt` was called and the sync has ended or failed once."""
        change(self.learner, self.policy, seed=len(self.events))
        self.hang.touch()
        loading = asyncio.create_task(deliver(self.fleet, self.learner.publish(), canary=cases.CANARY))
        await asyncio.sleep(2.0)
        hurt()
        started = time.monotonic()
        while not loading.done() and not self.of_kind("transfer_failed"):
            await asyncio.sleep(0.02)
        self.failed_after_s = time.monotonic() - started
        self.hang.unlink(missing_ok=True)
        return (await loading)[1]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    def processes(self, name: str) -> tuple[int, ...]:
        (member,) = (m for m in self.fleet.members if m.name == name)
        return member.remote.process_ids  # type: ignore[attr-defined]

    def close(self) -> None:
        self.run(self.fleet.close())
        self.learner.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def _engine(self, name: str) -> VllmEngine:
        return cases.engine_for(self.policy, transport=Transport.NCCL, name=name)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("transfer")
    with pytest.MonkeyPatch.context() as patch:
        transfer_cases.prepare(patch, folder)
        patch.setenv(HANG_VARIABLE, str(folder / "hang"))
        with closing(Scene(folder)) as scene:
            scene.sync()
            yield scene


@pytest.fixture
def scene(started: Scene) -> Scene:
    started.events.clear()
    return started


def test_a_communicator_that_hangs_costs_one_deadline_and_no_engine_or_request(scene: Scene):
    async def work() -> tuple[LoadReceipt, set[tuple[int, ...]]]:
        requests = [request(f"{i}", seed=i, max_tokens=300) for i in range(4)]

        async def generate() -> set[tuple[int, ...]]:
            return {tuple(sorted(set(c.policy_versions))) async for c in scene.fleet.generate(requests)}

        generating = asyncio.create_task(generate())
        await asyncio.sleep(0.1)
        receipt = await scene.while_held(lambda: None)
        return receipt, await generating

    receipt, versions = scene.run(work())
    assert scene.failed_after_s < DEADLINE_S + SLACK_S
    (failed,) = scene.of_kind("transfer_failed")
    assert f"did not end within {DEADLINE_S:g} s (cluster.sync_deadline_s)" in failed["reason"]
    assert scene.of_kind("engine_lost") == []
    assert len(receipt.each) == 2
    assert largest_gap(receipt, scene.learner.score(cases.CANARY)) < 2e-4
    assert versions == {(receipt.policy_version - 1, receipt.policy_version)}


def test_an_engine_killed_in_mid_broadcast_costs_one_deadline_and_comes_back_with_a_file(scene: Scene):
    def hurt() -> None:
        for process in scene.processes("engine-1"):
            os.kill(process, signal.SIGKILL)

    receipt = scene.run(scene.while_held(hurt))
    assert scene.failed_after_s < DEADLINE_S + SLACK_S
    assert largest_gap(receipt, scene.learner.score(cases.CANARY)) < 2e-4
    assert [fields["engine"] for fields in scene.of_kind("engine_lost")] == ["engine-1"]

    async def back() -> None:
        while not scene.of_kind("engine_restarted"):
            await asyncio.sleep(0.05)

    scene.run(back())
    receipts = {m.name: m.receipt.policy_version for m in scene.fleet.members if m.receipt}
    assert receipts == {"engine-0": receipt.policy_version, "engine-1": receipt.policy_version}
    assert len(scene.sync().each) == 2


def test_a_rank_of_the_learner_killed_in_mid_broadcast_ends_the_sync_before_the_deadline(scene: Scene):
    with closing(learner_of(cases.tiny_policy(seed=6), scene.folder, ranks=2)) as learner:
        before, transfer = scene.learner, scene.fleet._transfer
        scene.fleet._transfer = fleet_of(learner, scene.engines, events=scene.events, deadline_s=DEADLINE_S)._transfer
        scene.learner = learner
        scene.policy, policy = learner.policy, scene.policy
        with pytest.raises(LearnerError, match="rank 1 of 2 ended"):
            scene.run(scene.while_held(lambda: os.kill(learner.pids[1], signal.SIGKILL)))
        assert scene.failed_after_s < DEADLINE_S
        scene.learner, scene.policy, scene.fleet._transfer = before, policy, transfer
