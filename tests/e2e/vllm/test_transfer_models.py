"""Broadcasts of models other than a small tied one: an untied one over two workers, and experts that vLLM fuses."""

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import transfer_cases
import vllm_cases as cases
from transfer_cases import change, fleet_of, largest_gap, learner_of, sent_bytes

from rlvr.models.policy import Policy
from rlvr.records import Transport
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.run.weights.answers import deliver

pytestmark = pytest.mark.cluster


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    transfer_cases.prepare(monkeypatch, tmp_path)
    return tmp_path


def experts_policy() -> Policy:
    """A small Qwen3 with experts, of which transformers holds each layer's as two tensors."""
    small = cases.tiny_policy(seed=0)
    config = Qwen3MoeConfig(
        vocab_size=small.model.config.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return dataclasses.replace(small, model=Qwen3MoeForCausalLM(config))


def gaps(policy: Policy, engine: VllmEngine, folder: Path, *, width: int, dtype: torch.dtype) -> list[float]:
    """The largest difference of a log-prob to the learner after each of three syncs; checks the bytes of each."""
    found: list[float] = []
    events: list[tuple[str, dict[str, Any]]] = []

    async def work() -> None:
        learner = learner_of(policy, folder, dtype=dtype)
        fleet = fleet_of(learner, {"engine-0": lambda: engine}, events=events, width=width)
        await fleet.start()
        try:
            for number in range(3):
                if number:
                    change(learner, policy, seed=number)
                before = sent_bytes(folder)
                ref, receipt = await deliver(fleet, learner.publish(), canary=cases.CANARY)
                assert ref.num_bytes <= sent_bytes(folder) - before <= 1.02 * ref.num_bytes
                found.append(largest_gap(receipt, learner.score(cases.CANARY)))
        finally:
            await fleet.close()
            learner.close()

    asyncio.run(work())
    assert events == []
    return found


def test_an_untied_model_reaches_both_workers_of_an_engine_in_bfloat16(folder: Path):
    policy = cases.untied_policy(seed=5)
    engine = cases.engine_for(
        policy, "rollout.engine_dtype=bfloat16", "rollout.engine_args.tensor_parallel_size=2", transport=Transport.NCCL
    )
    found = gaps(policy, engine, folder, width=2, dtype=torch.bfloat16)
    assert max(found) < 0.1
    num_numbers = sum(p.numel() for p in policy.model.parameters())
    assert sent_bytes(folder) < 3 * 2 * num_numbers * 1.02


def test_fused_experts_arrive_as_from_a_file(folder: Path):
    """Compared with a file of the same weights: vLLM's kernels for experts differ from transformers' on a CPU."""
    policy = experts_policy()
    events: list[tuple[str, dict[str, Any]]] = []
    build = {"engine-0": lambda: cases.engine_for(policy, transport=Transport.NCCL)}

    async def work() -> None:
        learner = learner_of(policy, folder)
        fleet = fleet_of(learner, build, events=events)
        await fleet.start()
        seen: set[tuple[tuple[float, ...], ...]] = set()
        try:
            for number in range(2):
                if number:
                    change(learner, policy, seed=number)
                ref, receipt = await deliver(fleet, learner.publish(), canary=cases.CANARY)
                file = learner.write_file(ref)
                _, of_file = await deliver(fleet, file, canary=cases.CANARY)
                assert file.manifest == ref.manifest
                assert receipt.canary_logprobs == of_file.canary_logprobs
                seen.add(receipt.canary_logprobs)
        finally:
            await fleet.close()
            learner.close()
        assert len(seen) == 2

    asyncio.run(work())
    assert events == []
