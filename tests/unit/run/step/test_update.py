"""From groups to an optimiser step: shaping, KL in the reward, masks, what is dropped, and streaming."""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console as RichConsole

from rlvr.algorithms.build import build_advantage, build_loss
from rlvr.algorithms.kl import k1
from rlvr.config.recipe import RewardConfig, TinyModel, Truncated
from rlvr.config.sections.algorithm import AlgorithmConfig, DrGrpoAdvantage, GrpoAdvantage
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.learner.learner import PolicyLearner
from rlvr.models.policy import build_tiny
from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Rollout, Transport
from rlvr.run.activity import Activity
from rlvr.run.step.buffer import GroupBuffer
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.step.shaping import DropReason, RewardShaping, Screened, Shaped, signal_filter
from rlvr.run.step.update import KlInReward, Prepared, Update, Updater

TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")
LIMIT = 6


def group(number: int, rewards: Sequence[float | None], lengths: Sequence[int] | None = None) -> Group:
    """Rollouts with these rewards; one as long as the limit was cut off."""
    name = f"p{number}"
    prompt = Prompt(prompt_id=name, text="?", source="s", checks=(Check(name="main", verifier="v", reference="4"),))
    rollouts: list[Rollout] = []
    for i, reward in enumerate(rewards):
        size = (lengths or [3] * len(rewards))[i]
        completion = Completion(
            completion_id=f"{number}#{i}",
            prompt_id=name,
            sample_index=i,
            prompt_token_ids=(1, 5, 6 + number),
            token_ids=tuple(4 + (number + i + k) % 10 for k in range(size)),
            logprobs=(-2.5,) * size,
            sampled_mask=(True,) * size,
            text="",
            policy_versions=(0,) * size,
            finish_reason=FinishReason.LENGTH if size >= LIMIT else FinishReason.STOP,
        )
        parts = {} if reward is None else {"main": reward}
        rollouts.append(Rollout(completion=completion, verdicts={}, reward=reward, reward_parts=parts))
    return Group(group_id=f"{number:08d}", prompt=prompt, rollouts=tuple(rollouts), issue_index=number)


class World:
    """A tiny learner behind an Updater; `run` feeds it one step of groups."""

    def __init__(self, folder: Path, *, num_groups: int, kl_coef: float = 0.0, **settings: Any) -> None:
        policy = build_tiny(TINY, seed=3)
        policy.model.double()
        self.learner = PolicyLearner(
            policy,
            config=LearnerConfig(dtype=LearnerDtype.FLOAT32, lr=1e-2, max_grad_norm=1e9),
            loss=build_loss(AlgorithmConfig(), max_completion_tokens=LIMIT, uses_proximal=False),
            temperature=1.0,
            transport=Transport.SHARED,
            reference=build_tiny(TINY, seed=9).model.double() if kl_coef else None,
            fault_folder=folder,
        )
        reward = settings.pop("reward", RewardConfig(truncated=Truncated.JUDGE))
        shaping = self.shaping = RewardShaping.of(reward, max_completion_tokens=LIMIT)
        self.buffer = GroupBuffer(
            prompts_per_step=num_groups,
            screen=signal_filter(
                min_judged=2, shaping=shaping, is_signal_needed=settings.pop("is_signal_needed", False)
            ),
        )
        self.calls: list[str] = []
        self.thread = LearnerThread(before_training=self.free_devices)
        self.updater = Updater(
            buffer=self.buffer,
            learner=self.learner,
            thread=self.thread,
            advantage=build_advantage(settings.pop("advantage", GrpoAdvantage())),
            shaping=shaping,
            kl_in_reward=KlInReward(coef=kl_coef, estimator=k1) if kl_coef else None,
            drops_zero_variance=settings.pop("drops_zero_variance", False),
            pad_token_id=policy.pad_token_id,
            is_streaming=settings.pop("is_streaming", False),
            may_overlap=settings.pop("may_overlap", False),
            activity=Activity(RichConsole(file=io.StringIO())),
        )
        assert not settings, settings

    async def free_devices(self) -> None:
        self.calls.append("free devices")

    def run(self, *groups: Group) -> Update:
        async def step() -> Update:
            for one in groups:
                await self.buffer.admit()
                self.buffer.expect(one.group_id)
            for one in reversed(groups):  # arrival in another order than issue
                self.buffer.put(one)
            return await asyncio.wait_for(self.updater.step(policy_version=0), 60)

        try:
            return asyncio.run(step())
        finally:
            self.thread.close()

    def prepare(self, *groups: Group) -> Prepared:
        shaped = [self.shaping.shape_group(one) for one in groups]
        pairs = zip(groups, shaped, strict=True)
        return self.updater.prepare([Screened(group=g, reason=None, shaped=x) for g, x in pairs])

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.learner.policy.model.parameters()])


THREE = (
    group(0, [1.0, 0.0, 0.0], [2, 3, 4]),
    group(1, [0.0, 1.0, 1.0], [5, 1, 3]),
    group(2, [1.0, 1.0, 0.0], [4, 4, 2]),
)


@pytest.mark.parametrize("may_overlap", [False, True])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize("drops_zero_variance", [False, True])
def test_streaming_takes_the_same_step(tmp_path: Path, may_overlap: bool, kl_coef: float, drops_zero_variance: bool):
    settings = {"num_groups": 4, "kl_coef": kl_coef, "drops_zero_variance": drops_zero_variance}
    groups = (*THREE, group(3, [1.0, 1.0, 1.0]))
    whole, streaming = (
        World(tmp_path, **settings),
        World(tmp_path, **settings, is_streaming=True, may_overlap=may_overlap),
    )
    before = whole.weights()
    one, other = whole.run(*groups), streaming.run(*groups)
    moved = (whole.weights() - before).norm()
    assert moved > 0.01
    assert (whole.weights() - streaming.weights()).norm() < 1e-6 * moved
    assert other.shaped.keys() == one.shaped.keys()
    for name, shaped in one.shaped.items():
        assert other.shaped[name].reward == pytest.approx(shaped.reward, rel=1e-6)
        assert other.shaped[name].advantage == pytest.approx(shaped.advantage, rel=1e-5, abs=1e-9)
    assert [g.group_id for g in other.taken.kept] == [g.group_id for g in one.taken.kept]
    for name in ("policy/loss", "policy/grad_norm", "policy/entropy", "learner/loss_tokens", "reward/mean"):
        assert other.metrics[name] == pytest.approx(one.metrics[name], rel=1e-6, abs=1e-6), name


def test_advantages_are_recorded_and_the_batch_has_a_row_for_each(tmp_path: Path):
    update = World(tmp_path, num_groups=3, advantage=DrGrpoAdvantage()).run(*THREE)
    assert update.shaped["0#0"].advantage == pytest.approx(2 / 3)
    assert update.shaped["1#0"].advantage == pytest.approx(-2 / 3)
    assert update.metrics["learner/loss_tokens"] == 28
    assert update.metrics["policy/staleness_max"] == 0


def test_the_overlong_penalty_lowers_the_shaped_reward_and_leaves_the_stored_one(tmp_path: Path):
    reward = RewardConfig(truncated=Truncated.JUDGE, overlong_buffer_tokens=4, overlong_penalty=0.8)
    world = World(tmp_path, num_groups=1, reward=reward, advantage=DrGrpoAdvantage())
    update = world.run(group(0, [1.0, 1.0, 0.0, None], [2, 4, 6, 6]))
    shaped = [update.shaped[f"0#{i}"] for i in range(3)]
    assert [x.overlong_penalty for x in shaped] == pytest.approx([0.0, 0.4, 0.8])
    assert [x.reward for x in shaped] == pytest.approx([1.0, 0.6, -0.8])
    assert [x.advantage for x in shaped] == pytest.approx([1 - 0.8 / 3, 0.6 - 0.8 / 3, -0.8 - 0.8 / 3])
    assert "0#3" not in update.shaped
    assert update.metrics["reward/overlong_penalty_mean"] == pytest.approx(0.4)
    assert update.metrics["reward/mean"] == pytest.approx(2 / 3)
    assert update.taken.kept[0].rewards == (1.0, 1.0, 0.0, None)


def test_a_masked_rollout_counts_in_the_baseline_and_not_in_the_denominators(tmp_path: Path):
    reward = RewardConfig(truncated=Truncated.MASK)
    world = World(tmp_path, num_groups=2, reward=reward, advantage=DrGrpoAdvantage())
    all_cut = group(1, [0.0, 1.0, 0.0], [6, 6, 6])
    prepared = world.prepare(group(0, [1.0, 0.0, 1.0], [2, 3, 6]), all_cut)
    assert prepared.batch is not None
    assert prepared.batch.num_sequences == 2
    assert prepared.batch.num_prompts == 1
    assert prepared.batch.num_loss_tokens == 5
    assert prepared.batch.group_num_tokens.tolist() == [5, 5]
    kept = prepared.batch.advantages.sum(1) / prepared.batch.loss_mask.sum(1)
    assert kept.tolist() == pytest.approx([1 / 3, -2 / 3])  # the mean of all three is 2 / 3
    assert prepared.shaped["0#2"].advantage == pytest.approx(1 / 3)
    world.thread.close()


def test_groups_whose_advantages_are_all_zero_leave_the_denominators_and_are_counted(tmp_path: Path):
    silent = group(1, [1.0, 1.0, 1.0])
    update = World(tmp_path, num_groups=2, drops_zero_variance=True).run(THREE[0], silent)
    assert [(g.group_id, why) for g, why in update.taken.dropped] == [("00000001", DropReason.ZERO_ADVANTAGES)]
    assert update.metrics["learner/loss_tokens"] == 9
    assert update.metrics["rollout/zero_variance_dropped_groups"] == 1
    assert update.metrics["rollout/dropped_groups"] == 0
    assert update.metrics["rollout/wasted_tokens"] == 9
    assert update.metrics["rollout/wasted_rate"] == 0.5
    kept = World(tmp_path, num_groups=2).run(THREE[0], silent)
    assert kept.metrics["learner/loss_tokens"] == 18
    half = update.metrics["policy/grad_norm"] / 2
    assert kept.metrics["policy/grad_norm"] == pytest.approx(half, rel=1e-4)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_step_without_signal_moves_nothing(tmp_path: Path, is_streaming: bool):
    world = World(tmp_path, num_groups=2, drops_zero_variance=True, is_streaming=is_streaming)
    before = world.weights()
    update = world.run(group(0, [1.0, 1.0]), group(1, [0.0, 0.0]))
    assert not update.has_learned
    assert update.taken.kept == []
    assert torch.equal(world.weights(), before)
    assert "policy/loss" not in update.metrics


def test_the_kl_in_the_reward_is_charged_before_the_advantages(tmp_path: Path):
    world = World(tmp_path, num_groups=1, kl_coef=0.2, advantage=DrGrpoAdvantage())
    one = group(0, [1.0, 0.0, 0.0], [2, 3, 4])
    batch = world.prepare(one).batch
    assert batch is not None
    assert batch.ref_logprobs is not None
    reference = torch.where(batch.loss_mask, batch.ref_logprobs, 0.0).sum(1)
    # k1: behavior minus reference, summed over the row; every behavior log-prob is -2.5.
    expected = [0.2 * (-2.5 * n - float(ref)) for n, ref in zip([2, 3, 4], reference, strict=True)]
    update = world.run(one)
    shaped = [update.shaped[f"0#{i}"] for i in range(3)]
    assert [x.kl_penalty for x in shaped] == pytest.approx(expected, rel=1e-4)
    rewards = [r - p for r, p in zip([1.0, 0.0, 0.0], expected, strict=True)]
    assert [x.reward for x in shaped] == pytest.approx(rewards, rel=1e-4)
    mean = sum(rewards) / 3
    assert [x.advantage for x in shaped] == pytest.approx([r - mean for r in rewards], rel=1e-3)
    assert update.metrics["reward/kl_penalty_mean"] == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert update.metrics["reward/mean"] == pytest.approx(1 / 3)


def test_the_filter_names_why_a_group_has_no_signal():
    overlong = RewardConfig(truncated=Truncated.MASK, overlong_buffer_tokens=3, overlong_penalty=0.5)
    shaping = RewardShaping.of(overlong, max_completion_tokens=LIMIT)
    screen = signal_filter(min_judged=2, shaping=shaping, is_signal_needed=True)

    def why(of: Group) -> DropReason | None:
        return screen(of).reason

    assert why(group(0, [1.0, None, None])) is DropReason.UNJUDGED
    assert why(group(0, [0.1, 0.1, None], [3, 3, 5])) is DropReason.EQUAL_REWARDS
    assert why(group(0, [0.0, 1.0], [6, 6])) is DropReason.ALL_MASKED
    assert why(group(0, [1.0, 0.0])) is None
    assert why(group(0, [1.0, 1.0], [3, 5])) is None  # equal before shaping, different after it
    indifferent = signal_filter(min_judged=2, shaping=shaping, is_signal_needed=False)
    assert indifferent(group(0, [1.0, 1.0])).reason is None
    assert indifferent(group(0, [1.0, None])).reason is DropReason.UNJUDGED


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize("is_signal_needed", [False, True])
def test_each_rollout_is_shaped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_streaming: bool, is_signal_needed: bool
):
    seen: list[str] = []
    shape = RewardShaping.shape

    def counted(self: RewardShaping, rollout: Rollout) -> Shaped | None:
        seen.append(rollout.completion.completion_id)
        return shape(self, rollout)

    monkeypatch.setattr(RewardShaping, "shape", counted)
    world = World(tmp_path, num_groups=4, is_streaming=is_streaming, is_signal_needed=is_signal_needed)
    update = world.run(*THREE, group(3, [None, 1.0, 0.0]))
    assert sorted(seen) == [f"{number}#{i}" for number in range(4) for i in range(3)]
    assert update.shaped.keys() == set(seen) - {"3#0"}


@pytest.mark.parametrize("is_streaming", [False, True])
def test_devices_are_freed_before_all_that_the_learner_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_streaming: bool
):
    world = World(tmp_path, num_groups=2, is_streaming=is_streaming)
    for name in ("annotate", "accumulate", "apply", "step"):
        method = getattr(world.learner, name)

        def noted(argument: Any, *, name: str = name, method: Any = method) -> Any:
            world.calls.append(name)
            return method(argument)

        monkeypatch.setattr(world.learner, name, noted)
    assert world.run(*THREE[:2]).has_learned
    each = ["free devices", "annotate", "accumulate"]
    whole = ["free devices", "annotate", "step", "accumulate", "apply"]
    assert world.calls == ([*each, *each, "free devices", "apply"] if is_streaming else whole)
