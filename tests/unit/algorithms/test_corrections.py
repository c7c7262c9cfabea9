"""Importance weights and masks by hand on 2 x 3 tokens, and the ladder of stricter corrections."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvr.algorithms.corrections import Correction, TokenWeights, stricter, token_weights
from rlvr.importance_weights import WeightBound, WeightLevel

# own / behavior: 1, 1.8, 0.4 and 1, 0.4, 1.2; the products are 0.72 and 0.48
OWN = torch.tensor([[0.5, 0.9, 0.2], [0.5, 0.2, 0.6]], dtype=torch.float64).log()
BEHAVIOR = torch.full((2, 3), 0.5, dtype=torch.float64).log()
ADVANTAGES = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 3)
ALL = torch.ones(2, 3, dtype=torch.bool)


def apply(correction: Correction, **changes: object) -> TokenWeights:
    inputs: dict[str, object] = {
        "own_logprobs": OWN,
        "policy_logprobs": OWN,
        "behavior_logprobs": BEHAVIOR,
        "advantages": ADVANTAGES,
        "loss_mask": ALL,
        "is_ratio_over_behavior": False,
    }
    return token_weights(correction, **(inputs | changes))  # type: ignore[arg-type] # a test builder


def assert_weights(out: TokenWeights, expected: list[list[float]]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(out.weights, wanted, atol=1e-12, rtol=1e-12)


def test_without_a_correction_every_loss_token_weighs_one():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    out = apply(Correction(), loss_mask=mask)
    assert_weights(out, [[1, 1, 0], [1, 1, 1]])
    assert not bool((out.masked | out.truncated).any())


def test_token_weights_are_truncated_on_both_sides():
    out = apply(Correction(level=WeightLevel.TOKEN, weight_min=0.5, weight_max=1.5))
    assert_weights(out, [[1.0, 1.5, 0.5], [1.0, 0.5, 1.2]])
    assert out.truncated.tolist() == [[False, True, True], [False, True, False]]
    assert not bool(out.masked.any())


def test_icepop_keeps_the_weight_inside_the_band_and_is_zero_outside():
    out = apply(Correction(level=WeightLevel.TOKEN, bound=WeightBound.MASK, weight_min=0.5, weight_max=1.5))
    assert_weights(out, [[1.0, 0.0, 0.0], [1.0, 0.0, 1.2]])
    assert out.masked.tolist() == [[False, True, True], [False, True, False]]
    assert not bool(out.truncated.any())
    assert not bool(out.masked_rows.any())


def test_a_sequences_weight_is_the_product_over_its_tokens():
    assert_weights(apply(Correction(level=WeightLevel.SEQUENCE, weight_min=0.5)), [[0.72] * 3, [0.5] * 3])


def test_a_masked_sequence_leaves_with_all_its_tokens():
    out = apply(Correction(level=WeightLevel.SEQUENCE, bound=WeightBound.MASK, weight_min=0.5))
    assert_weights(out, [[0.72] * 3, [0.0] * 3])
    assert out.masked_rows.tolist() == [False, True]
    assert out.masked.tolist() == [[False] * 3, [True] * 3]


def test_sums_and_means_run_over_loss_tokens_only():
    mask = torch.tensor([[True, True, False], [True, False, True]])
    poisoned = OWN.clone()
    poisoned[~mask] = 7.0
    product = apply(Correction(level=WeightLevel.SEQUENCE), own_logprobs=poisoned, loss_mask=mask)
    assert_weights(product, [[1.8, 1.8, 0.0], [1.2, 0.0, 1.2]])
    # geometric means sqrt(1.8) = 1.34 and sqrt(1.2) = 1.095
    mean = apply(Correction(geometric_max=1.2), own_logprobs=poisoned, loss_mask=mask)
    assert mean.masked_rows.tolist() == [True, False]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.85, 1.01, [False, True]),  # geometric means 0.8963 and 0.783
        (0.90, 1.01, [True, True]),
        (0.78, 1.01, [False, False]),
    ],
)
def test_the_geometric_mask_tests_the_mean_log_ratio(low: float, high: float, expected: list[bool]):
    out = apply(Correction(geometric_min=low, geometric_max=high))
    assert out.masked_rows.tolist() == expected
    assert out.weights[:, 0].tolist() == [0.0 if masked else 1.0 for masked in expected]


def test_the_off_policy_mask_takes_negative_rows_that_the_policy_has_left():
    # mean(behavior - policy) is -ln(0.72) / 3 = 0.110 and -ln(0.48) / 3 = 0.245
    strict = Correction(off_policy_threshold=0.1)
    assert apply(strict).masked_rows.tolist() == [False, True]
    assert apply(replace(strict, off_policy_threshold=0.25)).masked_rows.tolist() == [False, False]
    both = apply(strict, advantages=-ADVANTAGES.abs())
    assert both.masked_rows.tolist() == [True, True]
    current = apply(strict, policy_logprobs=BEHAVIOR)
    assert current.masked_rows.tolist() == [False, False]


def test_a_ratio_over_behavior_is_masked_and_never_weighted_again():
    token = Correction(level=WeightLevel.TOKEN, weight_min=0.5, weight_max=1.5)
    out = apply(token, is_ratio_over_behavior=True)
    assert_weights(out, [[1.0] * 3, [1.0] * 3])
    assert not bool(out.truncated.any())
    masked = apply(replace(token, bound=WeightBound.MASK), is_ratio_over_behavior=True)
    assert_weights(masked, [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])


@pytest.mark.parametrize("level", [WeightLevel.TOKEN, WeightLevel.SEQUENCE])
def test_log_weights_are_clamped_at_twenty(level: WeightLevel):
    out = apply(Correction(level=level, weight_max=1e30), own_logprobs=BEHAVIOR + 50.0)
    assert_weights(out, [[math.exp(20)] * 3] * 2)


def test_a_row_without_loss_tokens_is_not_a_masked_row():
    mask = torch.tensor([[False] * 3, [True] * 3])
    out = apply(Correction(geometric_min=0.99, geometric_max=1.01), loss_mask=mask)
    assert out.masked_rows.tolist() == [False, True]


def _corrections() -> st.SearchStrategy[Correction]:
    return st.builds(
        Correction,
        level=st.sampled_from(list(WeightLevel)),
        bound=st.sampled_from(list(WeightBound)),
        weight_min=st.floats(0.0, 1.0),
        weight_max=st.floats(1.0, 8.0),
        geometric_min=st.floats(0.0, 1.0),
        geometric_max=st.sampled_from([0.0, 1.0, 1.01, 2.0]),
        off_policy_threshold=st.sampled_from([0.0, 0.01, 1.0]),
    )


@given(_corrections(), st.lists(st.floats(-3, 0), min_size=6, max_size=6), st.booleans())
def test_equal_policies_are_never_weighted_nor_masked(
    correction: Correction, logprobs: list[float], is_ratio_over_behavior: bool
):
    lp = torch.tensor(logprobs, dtype=torch.float64).reshape(2, 3)
    out = apply(
        correction,
        own_logprobs=lp,
        policy_logprobs=lp,
        behavior_logprobs=lp,
        is_ratio_over_behavior=is_ratio_over_behavior,
    )
    assert_weights(out, [[1.0] * 3] * 2)


@given(_corrections(), st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_weights_stay_within_their_bounds_and_masks_are_zero(correction: Correction, differences: list[float]):
    own = BEHAVIOR + torch.tensor(differences, dtype=torch.float64).reshape(2, 3)
    out = apply(correction, own_logprobs=own)
    kept: Tensor = out.weights[~out.masked]
    assert bool((out.weights[out.masked] == 0).all())
    if correction.level is not WeightLevel.NONE and kept.numel():
        assert correction.weight_min - 1e-12 <= float(kept.min())
        assert float(kept.max()) <= correction.weight_max + 1e-12


@given(_corrections())
def test_the_ladder_ends_and_each_rung_masks_at_least_what_the_one_before_did(start: Correction):
    rungs = [start]
    while (nxt := stricter(rungs[-1])) is not None:
        rungs.append(nxt)
        assert len(rungs) <= 4
    assert rungs[-1].bound is WeightBound.MASK
    assert rungs[-1].geometric_max > 0
    for before, after in pairwise(rungs):
        if before.bound is after.bound:
            lost = apply(before).masked & ~apply(after).masked
            assert not bool(lost.any())
    assert all(rung.off_policy_threshold == start.off_policy_threshold for rung in rungs)


def test_the_ladder_from_no_correction():
    first = stricter(Correction())
    assert first is not None
    assert first == Correction(level=WeightLevel.TOKEN, bound=WeightBound.TRUNCATE, weight_max=2.0)
    second = stricter(first)
    assert second is not None
    assert (second.bound, second.weight_min, second.weight_max) == (WeightBound.MASK, 0.5, 2.0)
    third = stricter(second)
    assert third is not None
    assert (third.geometric_min, third.geometric_max) == (0.99, 1.01)
    assert stricter(third) is None


def test_a_wide_truncation_becomes_the_band_of_the_same_width():
    rung = stricter(Correction(level=WeightLevel.SEQUENCE, weight_max=5.0))
    assert rung == Correction(level=WeightLevel.SEQUENCE, bound=WeightBound.MASK, weight_min=0.2, weight_max=5.0)
