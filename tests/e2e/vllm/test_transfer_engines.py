"""Broadcasts reach vLLM engines: after each sync their log-probs are the learner's, whatever the two are made of."""

import asyncio
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import transfer_cases
import vllm_cases as cases
from transfer_cases import BUFFER_BYTES, change, fleet_of, largest_gap, learner_of, sent_bytes

from rlvr.config.recipe import LoraConfig
from rlvr.models import lora
from rlvr.models.policy import Policy
from rlvr.records import Transport
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.weights.answers import deliver

pytestmark = pytest.mark.cluster
NUM_SYNCS = 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    transfer_cases.prepare(monkeypatch, tmp_path)
    return tmp_path


def adapted(policy: Policy) -> Policy:
    """The policy with adapters whose second matrix is not 0."""
    lora.attach(policy.model, LoraConfig(rank=4), seed=0, base_name="tiny")
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    return policy


async def several_syncs(fleet: EngineFleet, learner: Any, policy: Policy, *, within: float, folder: Path) -> None:
    """Publishes, sends and compares; the bytes are those of the weights in the dtype of the wire."""
    for number in range(NUM_SYNCS):
        if number:
            await asyncio.to_thread(change, learner, policy, seed=number)
        ref = await asyncio.to_thread(learner.publish)
        assert ref.transport is Transport.NCCL
        assert {entry.checksum for entry in ref.manifest} == {None}
        before = sent_bytes(folder)
        sent, receipt = await deliver(fleet, ref, canary=cases.CANARY)
        wire = sent_bytes(folder) - before
        assert ref.num_bytes <= wire <= 1.02 * ref.num_bytes
        assert ref.num_bytes > 3 * BUFFER_BYTES
        assert None not in {entry.checksum for entry in sent.manifest}
        assert [one.policy_version for one in receipt.each] == [ref.policy_version] * len(fleet.members)
        scores = await asyncio.to_thread(learner.score, cases.CANARY)
        assert largest_gap(receipt, scores) < within


def engine_of(name: str) -> VllmEngine:
    return cases.engine_for(cases.tiny_policy(seed=1), transport=Transport.NCCL, name=name)


def test_one_and_two_learners_send_to_one_and_two_engines_with_and_without_adapters(folder: Path):
    """One pair of engines serves all cases; the second joins after the first."""
    engines = {name: partial(engine_of, name) for name in ("engine-0", "engine-1")}
    events: list[tuple[str, dict[str, Any]]] = []
    others = (
        (2, cases.tiny_policy(seed=2)),
        (1, adapted(cases.tiny_policy(seed=3))),
        (2, adapted(cases.tiny_policy(seed=4))),
    )

    async def work() -> None:
        policy = cases.tiny_policy(seed=1)
        first = learner_of(policy, folder)
        fleet = fleet_of(first, engines, events=events, num_engines=1)
        await fleet.start()
        try:
            await several_syncs(fleet, first, policy, within=2e-4, folder=folder)
            fleet.add()
            while len(fleet._healthy()) < 2:
                await asyncio.sleep(0.05)
            change(first, policy, seed=9)
            await several_syncs(fleet, first, policy, within=2e-4, folder=folder)
            for ranks, made in others:
                with closing(await asyncio.to_thread(learner_of, made, folder, ranks=ranks)) as learner:
                    fleet._transfer = fleet_of(learner, engines, events=events)._transfer
                    await several_syncs(fleet, learner, made, within=2e-4, folder=folder)
        finally:
            await fleet.close()
            first.close()

    asyncio.run(work())
    assert [kind for kind, _ in events] == ["engine_joined"]
