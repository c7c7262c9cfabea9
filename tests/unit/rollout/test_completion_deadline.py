"""A completion that the engine cuts off at its deadline gets no verdict, and its group continues without it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from rlvr.config.recipe import RewardConfig, TinyModel
from rlvr.models.policy import build_tiny
from rlvr.protocols import GenerationRequest, Sampling
from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Status, Verdict
from rlvr.run.step.metrics import rollout_metrics
from rlvr.run.step.sampler import SamplingPlan, SingleTurnSampler
from tests.unit.run.ray.fleets.fleet_engines import SimulatedEngine


class Hasty(SimulatedEngine):
    """Cuts off every completion with an odd index; keeps the requests."""

    requests: Sequence[GenerationRequest] = ()

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        self.requests = requests
        async for completion in super().generate(requests):
            is_cut = completion.sample_index % 2 == 1
            yield replace(completion, finish_reason=FinishReason.ABORT) if is_cut else completion


class Generous:
    """Passes whatever it is asked, and notes what that was."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def verify(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        self.asked.append(completion.sample_index)
        verdict = Verdict(status=Status.PASS, score=1.0, reason="generous", verifier="g@1", seconds=0.0)
        return {"c": verdict}


def make_group(engine: Hasty, verifier: Generous) -> Group:
    tiny = build_tiny(TinyModel(layers=1, hidden_size=16, heads=2, characters="01?"), seed=0)
    sampler = SingleTurnSampler(
        engine=engine,
        verifier=verifier,
        tokenizer=tiny.tokenizer,
        reward=RewardConfig(),
        run_seed=0,
        completion_deadline_s=7.0,
    )
    prompt = Prompt(prompt_id="p", text="1?", source="s", checks=(Check(name="c", verifier="text_match"),))
    plan = SamplingPlan(sampling=Sampling(temperature=1.0, max_tokens=4), group_size=4)
    return asyncio.run(sampler.make_group("g", prompt, plan=plan, policy_version=0))


def test_what_was_cut_off_has_no_reward_and_the_others_keep_theirs():
    engine, service = Hasty("e"), Generous()
    group = make_group(engine, service)
    assert group.rewards == (1.0, None, 1.0, None)
    assert group.num_judged == 2
    assert sorted(service.asked) == [0, 2]
    assert {request.deadline_s for request in engine.requests} == {7.0}


def test_cut_off_completions_are_counted_and_are_no_verifier_errors():
    metrics = rollout_metrics([make_group(Hasty("e"), Generous())])
    assert metrics["rollout/aborted_rate"] == 0.5
    assert metrics["reward/unjudged_rate"] == 0.5
    assert metrics["reward/mean"] == 1.0
    assert metrics["verifier/error_rate"] == 0.0
