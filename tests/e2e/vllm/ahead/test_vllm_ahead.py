"""Asynchronous scheduling, the default on a GPU, gives the tokens and log-probs of an engine without it.

vLLM switches it off on a CPU. Here it stays on, with vLLM's own scheduler, queue of batches and output thread of the
worker; only CUDA's streams are stubs. The model runner is the one of a CPU (V1); a GPU has another one (V2).
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))  # vLLM's processes get the same path
sys.path.insert(0, str(Path(__file__).parent.parent))
import vllm_cases as cases
from vllm_cases import Living, collect, differences, expected_logprobs, request

from rlvr.models.policy import Policy
from rlvr.records import Completion, FinishReason

pytestmark = [pytest.mark.cluster, pytest.mark.thorough]
EXTENSION = "ahead_stubs.AheadExtension"


@pytest.fixture
def num_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each engine that was started keeps under way."""
    from vllm.platforms.cpu import CpuPlatform

    plain = CpuPlatform.check_and_update_config
    found: list[int] = []

    def check(config: Any) -> None:
        is_ahead = config.scheduler_config.async_scheduling
        plain(config)
        config.scheduler_config.async_scheduling = is_ahead
        found.append(config.max_concurrent_batches)

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(check))
    return found


@contextmanager
def started(policy: Policy, folder: Path, *, is_ahead: bool) -> Iterator[Living]:
    """An engine with the policy's weights, version 1."""
    change = f"rollout.engine_args.async_scheduling={str(is_ahead).lower()}"
    living = Living(cases.engine_for(policy, change, extension=EXTENSION))
    ref = cases.publish(cases.tensors_of(policy), folder / f"{is_ahead}.safetensors", version=1)
    try:
        living.run(living.engine.load_weights(ref))
        yield living
    finally:
        living.end()


async def busy_scores(living: Living) -> tuple[list[list[float]], dict[str, Completion]]:
    """Scores of rows while others are generated, and what was generated."""
    requests = [request(f"{i}", seed=i, max_tokens=150) for i in range(24)]
    task = asyncio.create_task(collect(living.engine, requests))
    await asyncio.sleep(0.1)
    return await living.engine.score(cases.CANARY), await task


def test_scheduling_ahead_changes_no_number(tmp_path: Path, num_steps: list[int]) -> None:
    policy, other = (cases.without_end(cases.tiny_policy(seed=seed)) for seed in (1, 2))
    with started(policy, tmp_path, is_ahead=False) as plain:
        expected_scores, expected = plain.run(busy_scores(plain))
    with started(policy, tmp_path, is_ahead=True) as ahead:
        scores, found = ahead.run(busy_scores(ahead))
        _versions_are_exact_across_a_load(ahead, policy, other, tmp_path)
        _a_deadline_returns_what_was_generated(ahead)
    assert num_steps[0] == 1
    assert num_steps[-1] == 2
    assert scores == expected_scores
    assert {name: c.token_ids for name, c in found.items()} == {name: c.token_ids for name, c in expected.items()}
    for name, completion in found.items():
        assert max(differences(completion.logprobs, expected[name].logprobs)) < 1e-5


def _versions_are_exact_across_a_load(living: Living, policy: Policy, other: Policy, folder: Path) -> None:
    """Each token in flight has the log-prob of the weights that it is said to come from."""
    ref = cases.publish(cases.tensors_of(other), folder / "v2.safetensors", version=2)

    async def work() -> dict[str, Completion]:
        requests = [request(f"{i}", seed=i, temperature=1.0, max_tokens=200) for i in range(24)]
        task = asyncio.create_task(collect(living.engine, requests))
        await asyncio.sleep(0.25)
        await living.engine.load_weights(ref)
        return await task

    found = living.run(work())
    assert {tuple(sorted(set(c.policy_versions))) for c in found.values()} == {(1, 2)}
    for completion in list(found.values())[:6]:
        switch = completion.policy_versions.index(2)
        row = completion.prompt_token_ids + completion.token_ids
        start = len(completion.prompt_token_ids)
        exact = (
            expected_logprobs(policy, row, start=start)[:switch] + expected_logprobs(other, row, start=start)[switch:]
        )
        errors = differences(completion.logprobs, exact)
        assert sum(errors) / len(errors) < 2e-5


def _a_deadline_returns_what_was_generated(living: Living) -> None:
    found = living.generate(*(request(f"{i}", seed=i, max_tokens=440, deadline_s=0.5) for i in range(96)))
    assert {c.finish_reason for c in found.values()} == {FinishReason.ABORT}
    assert all(0 < len(c.token_ids) == len(c.logprobs) < 440 for c in found.values())
