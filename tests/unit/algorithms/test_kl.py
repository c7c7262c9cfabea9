"""The estimators of the KL to the reference, in the loss and in the reward."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.algorithms.build import build_kl
from rlvr.algorithms.kl import k1, k2, k3, kl_penalties
from rlvr.config.sections.algorithm import KlEstimator

BEHAVIOR = torch.tensor([[0.0, -1.0, -2.0], [0.0, -1.0, 5.0]], dtype=torch.float64)
REF = torch.tensor([[9.0, -1.5, -1.0], [9.0, -0.5, math.nan]], dtype=torch.float64)
MASK = torch.tensor([[False, True, True], [False, True, False]])


@given(st.floats(-8, 0), st.floats(-8, 0))
def test_k3_is_never_negative_and_zero_only_when_equal(a: float, b: float):
    value = k3(torch.tensor([[a]]).double(), ref_logprobs=torch.tensor([[b]]).double()).item()
    assert value >= 0
    assert (value < 1e-12) == (abs(a - b) < 2e-6)


def test_gradient_of_k2_is_the_log_ratio_and_of_k1_is_one():
    lp = torch.tensor([[-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([[-1.5, -1.0]], dtype=torch.float64)
    assert torch.autograd.grad(k2(lp, ref_logprobs=ref).sum(), lp)[0].tolist() == [[0.5, -1.0]]
    assert torch.autograd.grad(k1(lp, ref_logprobs=ref).sum(), lp)[0].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (KlEstimator.K1, [0.5 - 1.0, -0.5]),
        (KlEstimator.K2, [0.125 + 0.5, 0.125]),
        (KlEstimator.K3, [math.exp(-0.5) + 0.5 - 1 + math.exp(1) - 2, math.exp(0.5) - 1.5]),
    ],
)
def test_the_penalty_of_a_row_is_the_sum_over_its_loss_tokens(estimator: KlEstimator, expected: list[float]):
    got = kl_penalties(BEHAVIOR, ref_logprobs=REF, loss_mask=MASK, coef=0.1, estimator=build_kl(estimator))
    assert got.tolist() == pytest.approx([0.1 * x for x in expected], abs=1e-12)


def test_the_penalty_carries_no_gradient():
    behavior = BEHAVIOR.clone().requires_grad_(True)
    got = kl_penalties(behavior, ref_logprobs=REF, loss_mask=MASK, coef=0.1, estimator=k3)
    assert not got.requires_grad


def test_a_token_without_behavior_logprob_adds_nothing_to_the_penalty():
    behavior = BEHAVIOR.clone()
    behavior[0, 2] = math.nan
    got = kl_penalties(behavior, ref_logprobs=REF, loss_mask=MASK, coef=1.0, estimator=k1)
    assert got.tolist() == pytest.approx([0.5, -0.5])
