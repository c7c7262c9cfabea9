"""Advantages over a whole step by hand, and what holds for all rewards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.batch_advantages import batch_norm_advantages, gdpo_advantages


def group(
    rewards: Sequence[float | None],
    *,
    tokens: Sequence[int] | None = None,
    parts: Sequence[Mapping[str, float]] | None = None,
    weights: Mapping[str, float] | None = None,
) -> GroupRewards:
    return GroupRewards(
        rewards_G=rewards,
        parts_G=parts or [{} if r is None else {"right": r} for r in rewards],
        weights=weights or {"right": 1.0},
        num_tokens_G=tokens or [1] * len(rewards),
    )


ONE, TWO = group([1.0, 0.0, 0.0], tokens=[2, 1, 1]), group([1.0, 1.0, 1.0], tokens=[1, 1, 4])


@pytest.mark.parametrize(
    ("has_baseline", "by_token", "mean", "variance"),
    [
        (True, False, 0.0, (4 / 9 + 1 / 9 + 1 / 9) / 5),
        (False, False, 4 / 6, (4 / 9 + 4 / 9 + 4 / 9) / 5),
        # counts 2, 1, 1 and 1, 1, 4: x = 2/3, -1/3, -1/3 and 0; mean (4/3 - 2/3) / 10
        (True, True, 1 / 15, (2 * 0.6**2 + 2 * 0.4**2 + 6 / 225) / 9),
        (False, True, 0.8, (8 * 0.04 + 2 * 0.64) / 9),
    ],
)
def test_worked_example_of_two_groups_of_three(has_baseline: bool, by_token: bool, mean: float, variance: float):
    got = batch_norm_advantages([ONE, TWO], has_group_baseline=has_baseline, is_token_weighted=by_token, eps=1e-8)
    x = [[2 / 3, -1 / 3, -1 / 3], [0, 0, 0]] if has_baseline else [[1, 0, 0], [1, 1, 1]]
    for row, wanted in zip(got, x, strict=True):
        by_hand = [(value - mean) / math.sqrt(variance + 1e-8) for value in wanted]
        assert row == pytest.approx(by_hand, abs=1e-12)


def test_token_weighting_is_a_masked_whitening_over_tokens():
    got = batch_norm_advantages([ONE, TWO], has_group_baseline=False, is_token_weighted=True, eps=1e-8)
    tokens = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
    whitened = (tokens - tokens.mean()) * torch.rsqrt(tokens.var(correction=1) + 1e-8)
    assert got[0][0] == pytest.approx(whitened[0].item(), abs=1e-12)
    assert got[0][1] == pytest.approx(whitened[2].item(), abs=1e-12)


def test_a_group_of_equal_rewards_among_other_groups():
    def of_second(**how: bool) -> list[float | None]:
        return batch_norm_advantages([ONE, TWO], eps=1e-8, **how)[1]

    assert of_second(has_group_baseline=True, is_token_weighted=False) == [0.0, 0.0, 0.0]
    by_token = of_second(has_group_baseline=True, is_token_weighted=True)
    assert by_token == pytest.approx([-0.193649] * 3, abs=1e-6)
    no_baseline = of_second(has_group_baseline=False, is_token_weighted=False)
    assert no_baseline == pytest.approx([0.645497] * 3, abs=1e-6)


def test_a_single_judged_rollout_is_compared_with_the_batch_only_without_a_baseline():
    lonely = group([None, 0.0, None])
    how = {"is_token_weighted": False, "eps": 1e-8}
    with_baseline = batch_norm_advantages([ONE, lonely], has_group_baseline=True, **how)  # type: ignore[arg-type]
    assert with_baseline[1] == [None, None, None]
    assert with_baseline[0] == batch_norm_advantages([ONE], has_group_baseline=True, **how)[0]  # type: ignore[arg-type]
    without = batch_norm_advantages([ONE, lonely], has_group_baseline=False, **how)  # type: ignore[arg-type]
    # rewards 1, 0, 0, 0: mean 1/4, var 1/4
    assert without[1] == [None, pytest.approx(-0.5, abs=1e-6), None]
    alone = batch_norm_advantages([lonely], has_group_baseline=False, **how)  # type: ignore[arg-type]
    assert alone == [[None, 0.0, None]]


groups_strategy = st.lists(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 1)), st.integers(1, 50)), min_size=2, max_size=6),
    min_size=1,
    max_size=5,
)


@given(groups_strategy, st.booleans(), st.booleans())
def test_batch_norm_advantages_sum_to_zero_as_counted(
    drawn: list[list[tuple[float | None, int]]], has_baseline: bool, by_token: bool
):
    groups = [group([r for r, _ in rows], tokens=[n for _, n in rows]) for rows in drawn]
    got = batch_norm_advantages(groups, has_group_baseline=has_baseline, is_token_weighted=by_token, eps=1e-8)
    terms = [
        advantage * (tokens if by_token else 1)
        for row, of_group in zip(got, groups, strict=True)
        for advantage, tokens in zip(row, of_group.num_tokens_G, strict=True)
        if advantage is not None
    ]
    scale = math.fsum(abs(term) for term in terms)
    assert abs(math.fsum(terms)) <= 1e-6 * max(1.0, scale)


RIGHT = [{"right": 2.0, "format": 0.5}, {"right": 2.0, "format": 0.0}, {"right": 0.0, "format": 0.5}]
WEIGHTS = {"right": 2.0, "format": 0.5, "never": 0.0}


def test_worked_example_of_gdpo():
    # scores: right 1, 1, 0 and format 1, 0, 1; each has std 1/sqrt(3): z = 1/3 or -2/3 over it
    first = group([2.5, 2.0, 0.5], parts=RIGHT, weights=WEIGHTS)
    second = group([2.5, 2.5, 2.5], parts=[RIGHT[0]] * 3, weights=WEIGHTS)
    up, down = (1 / 3) / (3**-0.5 + 1e-4), (-2 / 3) / (3**-0.5 + 1e-4)
    sums = [2 * up + 0.5 * up, 2 * up + 0.5 * down, 2 * down + 0.5 * up]
    std = math.sqrt(sum(s * s for s in sums) / 5)
    got = gdpo_advantages([first, second], eps=1e-4)
    assert got[0] == pytest.approx([s / (std + 1e-4) for s in sums], abs=1e-12)
    assert got[1] == [0.0, 0.0, 0.0]


def test_gdpo_does_not_care_for_the_spread_of_a_check():
    def of(scale: float) -> list[float | None]:
        parts = [{"a": scale * a, "b": b} for a, b in [(1.0, 0.0), (0.5, 1.0), (0.0, 0.0)]]
        rewards = [part["a"] + part["b"] for part in parts]
        return gdpo_advantages([group(rewards, parts=parts, weights={"a": 1.0, "b": 1.0})], eps=1e-9)[0]

    assert of(0.01) == pytest.approx(of(1.0), abs=1e-6)


def test_gdpo_charges_penalties_at_their_size():
    parts = [{"right": 1.0}, {"right": 1.0}, {"right": 0.0}]
    free = group([1.0, 1.0, 0.0], parts=parts)
    charged = replace(free, rewards_G=[1.0, 0.7, 0.0])  # the second paid 0.3
    up, down = (1 / 3) / (3**-0.5 + 1e-4), (-2 / 3) / (3**-0.5 + 1e-4)
    sums = [up + 0.1, up - 0.2, down + 0.1]
    std = math.sqrt(sum(s * s for s in sums) / 2)
    got = gdpo_advantages([charged], eps=1e-4)[0]
    assert got == pytest.approx([s / (std + 1e-4) for s in sums], abs=1e-9)
    assert gdpo_advantages([free], eps=1e-4)[0] != got


def test_gdpo_leaves_unjudged_rollouts_and_thin_groups_out():
    parts: list[dict[str, float]] = [{"right": 1.0}, {}, {"right": 0.0}]
    holed = group([1.0, None, 0.0], parts=parts)
    thin = group([1.0, None], parts=[{"right": 1.0}, {}])
    got = gdpo_advantages([holed, thin], eps=1e-4)
    whole = gdpo_advantages([group([1.0, 0.0])], eps=1e-4)
    assert got == [[whole[0][0], None, whole[0][1]], [None, None]]


@given(st.lists(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6), min_size=1, max_size=4))
def test_gdpo_sums_to_zero_over_each_group(drawn: list[list[tuple[float, float]]]):
    groups = [
        group([2 * a + b for a, b in rows], parts=[{"a": 2 * a, "b": b} for a, b in rows], weights={"a": 2.0, "b": 1.0})
        for rows in drawn
    ]
    for row in gdpo_advantages(groups, eps=1e-4):
        assert abs(math.fsum(a for a in row if a is not None)) < 1e-9
