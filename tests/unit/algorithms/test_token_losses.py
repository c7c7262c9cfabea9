"""Each token loss by hand on 2 x 3 tokens, its gradient, and where the six coincide."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlvr.algorithms.token_losses import (
    TokenInputs,
    TokenLoss,
    cispo,
    clipped,
    dppo,
    gspo,
    policy_gradient,
    sapo,
    worked_example,
)

CLIPPED = partial(clipped, clip_low=0.2, clip_high=0.28, dual_clip=0.0)
DUAL = partial(clipped, clip_low=0.2, clip_high=0.28, dual_clip=1.5)
GSPO = partial(gspo, clip_low=0.05, clip_high=0.05)
CISPO = partial(cispo, ratio_min=0.5, ratio_max=1.5)
SAPO = partial(sapo, tau_positive=1.0, tau_negative=1.05)
DPPO = partial(dppo, max_decrease=0.2, max_increase=0.2, log_ratio_coef=1e-3)
ALL: dict[str, Callable[[TokenInputs], TokenLoss]] = {
    "clipped": CLIPPED,
    "dual_clip": DUAL,
    "gspo": GSPO,
    "cispo": CISPO,
    "sapo": SAPO,
    "dppo": DPPO,
    "policy_gradient": policy_gradient,
}


def on_policy() -> TokenInputs:
    """Log-probs equal to base and behavior, A = 2 in the first row and -1 in the second."""
    lp = torch.tensor([[0.5, 0.9, 0.2], [0.3, 0.2, 0.9]], dtype=torch.float64).log()
    advantages = torch.tensor([[2.0], [-1.0]], dtype=torch.float64).expand(2, 3)
    return TokenInputs(
        logprobs=lp,
        base_logprobs=lp,
        behavior_logprobs=lp,
        advantages=advantages,
        loss_mask=torch.ones(2, 3, dtype=torch.bool),
    )


def gradient(loss: Callable[[TokenInputs], TokenLoss], inputs: TokenInputs, *, weights: Tensor | float = 1.0) -> Tensor:
    lp = inputs.logprobs.clone().requires_grad_(True)
    total = (loss(replace(inputs, logprobs=lp)).loss * weights).sum()
    return torch.autograd.grad(total, lp)[0]


def assert_loss(out: TokenLoss, expected: list[list[float]]) -> None:
    torch.testing.assert_close(out.loss, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-12)


def assert_cuts(out: TokenLoss, *, low: list[tuple[int, int]], high: list[tuple[int, int]]) -> None:
    assert [tuple(x) for x in out.cut_low.nonzero().tolist()] == low
    assert [tuple(x) for x in out.cut_high.nonzero().tolist()] == high


def test_worked_example_of_the_clipped_surrogate():
    out = CLIPPED(worked_example())
    assert_loss(out, [[-1.0, -1.28, -0.4], [1.0, 0.8, 1.8]])
    assert_cuts(out, low=[(1, 1)], high=[(0, 1)])


def test_dual_clip_bounds_the_loss_of_negative_advantages_only():
    out = DUAL(worked_example())
    assert_loss(out, [[-1.0, -1.28, -0.4], [1.0, 0.8, 1.5]])
    assert_cuts(out, low=[(1, 1)], high=[(0, 1), (1, 2)])


def test_worked_example_of_gspo():
    s = (1.0 * 1.8 * 0.4) ** (1 / 3)
    out = GSPO(worked_example())
    assert_loss(out, [[-s, -s, -s], [0.95, 0.95, 0.95]])
    assert_cuts(out, low=[(1, 0), (1, 1), (1, 2)], high=[])


def test_gspo_takes_the_mean_over_loss_tokens_only():
    mask = torch.tensor([[True, True, False], [True, False, True]])
    out = GSPO(replace(worked_example(), loss_mask=mask))
    assert out.loss[0, 0].item() == pytest.approx(-1.05)  # sqrt(1.8) = 1.34, cut at 1.05
    assert out.loss[1, 0].item() == pytest.approx(math.sqrt(1.8))


def test_every_token_of_a_row_shares_the_gradient_of_gspos_ratio():
    weights = torch.full((2, 3), 1 / 3, dtype=torch.float64)  # sequence_mean
    s = (1.8 * 0.4) ** (1 / 3)
    unclipped = partial(gspo, clip_low=0.9, clip_high=9.0)
    expected = torch.tensor([[-s / 3] * 3, [s / 3] * 3], dtype=torch.float64)  # d(-s A) / d lp = -s A / 3
    torch.testing.assert_close(gradient(unclipped, worked_example(), weights=weights), expected)


def test_worked_example_of_cispo():
    ln = math.log
    out = CISPO(worked_example())
    assert_loss(out, [[-ln(0.5), -1.5 * ln(0.9), -0.5 * ln(0.2)], [ln(0.5), 0.5 * ln(0.2), 1.5 * ln(0.9)]])
    assert_cuts(out, low=[(0, 2), (1, 1)], high=[(0, 1), (1, 2)])


def test_cispo_keeps_the_gradient_of_every_token_at_its_bounded_weight():
    expected = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 0.5, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(gradient(CISPO, worked_example()), expected)


def test_worked_example_of_sapo():
    def gate(ratio: float, tau: float) -> float:
        return 4 / tau / (1 + math.exp(-tau * (ratio - 1)))

    out = SAPO(worked_example())
    assert_loss(
        out, [[-gate(1.0, 1.0), -gate(1.8, 1.0), -gate(0.4, 1.0)], [gate(1.0, 1.05), gate(0.4, 1.05), gate(1.8, 1.05)]]
    )
    assert_cuts(out, low=[], high=[])


def test_worked_example_of_dppo():
    up, down = 1e-3 * math.log(1.8) ** 2, 1e-3 * math.log(0.4) ** 2
    out = DPPO(worked_example())
    assert_loss(out, [[-1.0, up, -0.4 + down], [1.0, down, 1.8 + up]])
    assert_cuts(out, low=[(1, 1)], high=[(0, 1)])


def test_dppo_measures_movement_from_the_behavior_policy_and_the_ratio_from_its_base():
    inputs = worked_example()
    own = replace(inputs, base_logprobs=inputs.logprobs)  # ratio 1, probabilities moved as before
    up, down = 1e-3 * math.log(1.8) ** 2, 1e-3 * math.log(0.4) ** 2
    assert_loss(DPPO(own), [[-1.0, up, -1.0 + down], [1.0, down, 1.0 + up]])


def test_dppo_keeps_a_token_whose_advantage_is_zero():
    inputs = replace(worked_example(), advantages=torch.zeros(2, 3).double())
    assert_cuts(DPPO(inputs), low=[], high=[])


def test_worked_example_of_the_policy_gradient():
    ln = math.log
    out = policy_gradient(worked_example())
    assert_loss(out, [[-ln(0.5), -ln(0.9), -ln(0.2)], [ln(0.5), ln(0.2), ln(0.9)]])


@pytest.mark.parametrize("name", ALL)
def test_at_ratio_one_every_loss_has_the_policy_gradient(name: str):
    inputs = on_policy()
    weights = torch.full((2, 3), 1 / 3, dtype=torch.float64)  # sequence_mean, as gspo wants
    torch.testing.assert_close(
        gradient(ALL[name], inputs, weights=weights), -inputs.advantages / 3, atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("name", ALL)
def test_at_ratio_one_the_values_differ_as_documented(name: str):
    inputs = on_policy()
    a, lp = inputs.advantages, inputs.logprobs
    tau = torch.tensor([[1.0], [1.05]], dtype=torch.float64)
    expected = {"sapo": -2 * a / tau, "cispo": -a * lp, "policy_gradient": -a * lp}.get(name, -a)
    torch.testing.assert_close(ALL[name](inputs).loss, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["clipped", "dual_clip", "gspo", "sapo", "dppo", "policy_gradient"])
def test_gradcheck_in_float64(name: str):
    inputs = worked_example()
    lp = inputs.logprobs.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: ALL[name](replace(inputs, logprobs=x)).loss, (lp,))


@pytest.mark.parametrize("name", ["clipped", "dual_clip", "dppo"])
@given(
    ratios=st.lists(st.floats(0.05, 1.9), min_size=6, max_size=6),
    signs=st.lists(st.sampled_from([-1.0, 1.0]), min_size=6, max_size=6),
)
def test_a_token_is_cut_exactly_where_it_has_no_surrogate_gradient(name: str, ratios: list[float], signs: list[float]):
    loss = DPPO if name == "dppo" else ALL[name]
    if name == "dppo":
        loss = partial(dppo, max_decrease=0.2, max_increase=0.2, log_ratio_coef=0.0)
    inputs = replace(
        worked_example(),
        logprobs=(torch.tensor(ratios, dtype=torch.float64).reshape(2, 3) * 0.5).log(),
        advantages=torch.tensor(signs).double().reshape(2, 3),
    )
    out = loss(inputs)
    assert torch.equal(gradient(loss, inputs) == 0.0, out.cut_low | out.cut_high)


@pytest.mark.parametrize("name", ["clipped", "dual_clip", "gspo", "cispo", "sapo", "dppo"])
@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_extreme_log_ratios_stay_finite(name: str, shift: float):
    inputs = worked_example()
    far = replace(
        inputs,
        base_logprobs=inputs.logprobs.float() - shift,
        logprobs=inputs.logprobs.float(),
        behavior_logprobs=inputs.logprobs.float() - shift,
        advantages=inputs.advantages.float(),
    )
    # a behavior log-prob above 0 is no probability, but it must not turn the loss into nan either
    assert bool(torch.isfinite(ALL[name](far).loss).all())
    assert bool(torch.isfinite(gradient(ALL[name], far)).all())


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(Exception, match="advantages"):
        replace(worked_example(), advantages=torch.zeros(1, 3))
