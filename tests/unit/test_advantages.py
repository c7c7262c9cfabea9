"""Advantages by hand, and what holds for all rewards."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.algorithms.advantages import grpo_advantages


def test_worked_example_of_two_groups_of_three():
    # mean 1/3, Bessel std sqrt((4/9 + 1/9 + 1/9) / 2) = 0.57735
    assert grpo_advantages([1.0, 0.0, 0.0], eps=1e-4) == pytest.approx(
        [1.154501, -0.577250, -0.577250], abs=1e-6
    )
    assert grpo_advantages([1.0, 1.0, 0.0], eps=1e-4) == pytest.approx(
        [0.577250, 0.577250, -1.154501], abs=1e-6
    )


def test_zero_variance_group_gets_zero_advantage():
    assert grpo_advantages([0.1, 0.1, 0.1], eps=1e-4) == [0.0, 0.0, 0.0]


def test_unjudged_rollouts_leave_the_baseline():
    with_hole = grpo_advantages([1.0, None, 0.0, 0.0], eps=1e-4)
    assert with_hole[1] is None
    assert [a for a in with_hole if a is not None] == grpo_advantages([1.0, 0.0, 0.0], eps=1e-4)


@pytest.mark.parametrize("rewards", [[1.0], [None, None], [1.0, None]])
def test_group_with_fewer_than_two_judged_rollouts_has_no_advantage(rewards: list[float | None]):
    assert grpo_advantages(rewards, eps=1e-4) == [None] * len(rewards)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16), st.floats(1e-6, 1e-2))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards: list[float], eps: float):
    advantages = [a for a in grpo_advantages(rewards, eps=eps) if a is not None]
    assert abs(math.fsum(advantages)) < 1e-6 * max(1.0, *(abs(a) for a in advantages))
    for (r1, a1), (r2, a2) in zip(
        sorted(zip(rewards, advantages, strict=True)),
        sorted(zip(rewards, advantages, strict=True))[1:],
        strict=False,
    ):
        assert r1 > r2 or a1 <= a2 + 1e-9
