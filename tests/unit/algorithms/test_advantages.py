"""Advantages of one group by hand, and what holds for all rewards."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.algorithms.advantages import (
    GroupRewards,
    dr_grpo_advantages,
    grpo_advantages,
    maxrl_advantages,
    pass_at_k_advantages,
    rloo_advantages,
)
from rlvr.algorithms.build import build_advantage
from rlvr.config.sections.algorithm import (
    AdvantageConfig,
    BatchNormAdvantage,
    DrGrpoAdvantage,
    GdpoAdvantage,
    GrpoAdvantage,
    MaxRlAdvantage,
    PassAtKAdvantage,
    RlooAdvantage,
)

Rewards = Sequence[float | None]
Advantages = Callable[[Rewards], list[float | None]]
PER_GROUP: dict[str, Advantages] = {
    "grpo": partial(grpo_advantages, eps=1e-4),
    "dr_grpo": dr_grpo_advantages,
    "rloo": rloo_advantages,
    "maxrl": partial(maxrl_advantages, eps=1e-6),
    "pass_at_2": partial(pass_at_k_advantages, k=2, threshold=1.0),
}
CONFIGS: list[AdvantageConfig] = [
    GrpoAdvantage(),
    DrGrpoAdvantage(),
    RlooAdvantage(),
    MaxRlAdvantage(),
    PassAtKAdvantage(k=3),
    BatchNormAdvantage(),
    BatchNormAdvantage.model_validate({"baseline": "none"}),
    GdpoAdvantage(),
]


def group(rewards: Rewards) -> GroupRewards:
    return GroupRewards(
        rewards_G=rewards,
        parts_G=[{} if reward is None else {"right": reward} for reward in rewards],
        weights={"right": 1.0},
        num_tokens_G=[3] * len(rewards),
    )


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        # mean 1/3, Bessel std sqrt((4/9 + 1/9 + 1/9) / 2) = 0.57735
        ("grpo", [1.154501, -0.577250, -0.577250], [0.577250, 0.577250, -1.154501]),
        ("dr_grpo", [2 / 3, -1 / 3, -1 / 3], [1 / 3, 1 / 3, -2 / 3]),
        ("rloo", [1.0, -0.5, -0.5], [0.5, 0.5, -1.0]),
        # mean 1/3 and 2/3, eps 1e-6
        ("maxrl", [1.999994, -0.999997, -0.999997], [0.499999, 0.499999, -0.999999]),
        # pass@2 = 1 - C(2, 2) / C(3, 2) = 2/3, std sqrt(2/9); with two passes it is 1
        ("pass_at_2", [0.707107, -0.353553, -0.353553], [0.0, 0.0, 0.0]),
    ],
)
def test_worked_example_of_two_groups_of_three(name: str, first: list[float], second: list[float]):
    assert PER_GROUP[name]([1.0, 0.0, 0.0]) == pytest.approx(first, abs=1e-6)
    assert PER_GROUP[name]([1.0, 1.0, 0.0]) == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("name", PER_GROUP)
@pytest.mark.parametrize("reward", [0.1, 0.0, 1.0, 0.925969264107557])  # 7 * the last / 7 is not it
def test_zero_variance_group_gets_exactly_zero_advantage(name: str, reward: float):
    assert PER_GROUP[name]([reward] * 7) == [0.0] * 7


@pytest.mark.parametrize("name", PER_GROUP)
def test_unjudged_rollouts_leave_the_baseline(name: str):
    with_hole = PER_GROUP[name]([1.0, None, 0.0, 0.0])
    assert with_hole[1] is None
    assert [a for a in with_hole if a is not None] == PER_GROUP[name]([1.0, 0.0, 0.0])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_a_group_has_advantages_exactly_from_min_judged_on(config: AdvantageConfig):
    advantage = build_advantage(config)
    for num_judged in range(6):
        rewards = [*[1.0, 0.0, 0.0, 0.0, 0.0][:num_judged], None, None]
        (got,) = advantage([group(rewards)])
        is_judged = num_judged >= config.min_judged
        assert [a is not None for a in got] == [is_judged] * num_judged + [False, False]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_a_step_of_equal_rewards_gets_exactly_zero(config: AdvantageConfig):
    got = build_advantage(config)([group([0.3] * 5), group([0.3, None, 0.3, 0.3, 0.3])])
    assert got == [[0.0] * 5, [0.0, None, 0.0, 0.0, 0.0]]


def rewards_lists(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high), min_size=3, max_size=16)


@pytest.mark.parametrize("name", PER_GROUP)
@given(rewards=rewards_lists(0.0, 10.0))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(name: str, rewards: list[float]):
    advantages = [a for a in PER_GROUP[name](rewards) if a is not None]
    assert len(advantages) == len(rewards)
    assert abs(math.fsum(advantages)) < 1e-6 * max(1.0, *(abs(a) for a in advantages))
    for (_, a1), (_, a2) in itertools.pairwise(sorted(zip(rewards, advantages, strict=True))):
        assert a1 <= a2 + 1e-9


@pytest.mark.parametrize("name", PER_GROUP)
@given(rewards=rewards_lists(0.0, 1.0), order=st.randoms(use_true_random=False))
def test_advantages_follow_their_rollouts(name: str, rewards: list[float], order: object):
    index = list(range(len(rewards)))
    order.shuffle(index)  # type: ignore[attr-defined] # hypothesis's random.Random
    straight = PER_GROUP[name](rewards)
    shuffled = PER_GROUP[name]([rewards[i] for i in index])
    assert shuffled == pytest.approx([straight[i] for i in index], abs=1e-12)


@given(rewards_lists(-5.0, 5.0))
def test_rloo_is_the_reward_minus_the_mean_of_the_others(rewards: list[float]):
    n = len(rewards)
    others = [math.fsum(rewards[:i] + rewards[i + 1 :]) / (n - 1) for i in range(n)]
    by_hand = [r - o for r, o in zip(rewards, others, strict=True)]
    centred = dr_grpo_advantages(rewards)
    assert rloo_advantages(rewards) == pytest.approx(by_hand, abs=1e-9)
    scaled = [n / (n - 1) * c for c in centred if c is not None]
    assert rloo_advantages(rewards) == pytest.approx(scaled, abs=1e-12)


def test_maxrl_weighs_a_prompt_by_one_over_its_solve_rate():
    rare = maxrl_advantages([1.0] + [0.0] * 9, eps=1e-9)
    usual = maxrl_advantages([1.0] * 5 + [0.0] * 5, eps=1e-9)
    assert rare[0] == pytest.approx(9.0, abs=1e-6)
    assert usual[0] == pytest.approx(1.0, abs=1e-6)


def test_maxrl_gives_nothing_to_a_group_whose_mean_reward_is_not_positive():
    assert maxrl_advantages([-1.0, 0.5, None], eps=1e-6) == [0.0, 0.0, None]
    assert maxrl_advantages([1.0, -1.0], eps=1e-6) == [0.0, 0.0]


@given(rewards_lists(-1.0, 1.0))
def test_maxrl_stays_bounded_when_penalties_bring_the_mean_near_zero(rewards: list[float]):
    got = [a for a in maxrl_advantages(rewards, eps=1e-9) if a is not None]
    assert max(abs(a) for a in got) <= len(rewards) - 1


@pytest.mark.parametrize("num_passes", range(9))
@pytest.mark.parametrize("k", [2, 3, 7])
def test_pass_at_k_is_the_mean_over_all_draws_of_k(num_passes: int, k: int):
    """Each rollout's advantage is the mean normalised reward of the draws that it is in."""
    passed = [i < num_passes for i in range(8)]
    draws = list(itertools.combinations(range(8), k))
    rewards = [float(any(passed[i] for i in draw)) for draw in draws]
    mean = sum(rewards) / len(draws)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(draws))
    by_hand = [0.0] * 8
    if std > 0:
        for i in range(8):
            own = [r for r, draw in zip(rewards, draws, strict=True) if i in draw]
            by_hand[i] = (sum(own) / len(own) - mean) / std
    got = pass_at_k_advantages([float(p) for p in passed], k=k, threshold=1.0)
    assert got == pytest.approx(by_hand, abs=1e-12)


def test_pass_at_k_passes_at_the_threshold():
    at_half = pass_at_k_advantages([0.9, 0.5, 0.0, 0.49, 0.1], k=3, threshold=0.5)
    assert at_half == pass_at_k_advantages([1.0, 1.0, 0.0, 0.0, 0.0], k=3, threshold=1.0)
