"""The losses by hand on 2x3, and their properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.algorithms.aggregation import ConstantLength, SequenceMean, TokenMean
from rlvr.algorithms.build import build_loss
from rlvr.algorithms.kl import k1, k2, k3
from rlvr.algorithms.losses import PolicyLoss, SupervisedLoss, clipped_surrogate
from rlvr.batch import Batch
from rlvr.config.recipe import Aggregation, AlgorithmConfig, KlEstimator

T, F = True, False


def make_batch(**changes: object) -> Batch:
    """2 rows x 4 columns: column 0 is the prompt; the second row's last token is padding."""
    fields: dict[str, object] = {
        "token_ids": torch.tensor([[1, 2, 3, 4], [1, 2, 3, 0]]),
        "attention_mask": torch.tensor([[T, T, T, T], [T, T, T, F]]),
        "loss_mask": torch.tensor([[F, T, T, T], [F, T, T, F]]),
        "behavior_logprobs": torch.log(torch.tensor([[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 1.0]])),
        "advantages": torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, -1.0, -1.0, 0.0]]),
        "policy_versions": torch.zeros(2, 4, dtype=torch.long),
        "group_index": torch.tensor([0, 0]),
        "num_loss_tokens": 5,
        "num_sequences": 2,
        "num_prompts": 1,
    }
    return Batch(**(fields | changes))  # type: ignore[arg-type] # a test builder


LOGPROBS = torch.log(torch.tensor([[1.0, 0.5, 0.9, 0.2], [1.0, 0.5, 0.2, 1.0]]))


def loss_of(aggregation: Aggregation = Aggregation.TOKEN_MEAN, **changes: object) -> PolicyLoss:
    config = AlgorithmConfig(clip_low=0.2, clip_high=0.28, aggregation=aggregation, **changes)  # type: ignore[arg-type]
    return build_loss(config, max_completion_tokens=10)


def test_worked_example_of_the_clipped_surrogate():
    # ratios 1, 1.8, 0.4 with A=1: -1, -1.28 (clipped), -0.4; ratios 1, 0.4 with A=-1: 1, 0.8 (clipped)
    out = loss_of()(LOGPROBS, batch=make_batch())
    assert float(out.loss_sum) == pytest.approx(-1 - 1.28 - 0.4 + 1 + 0.8, abs=1e-6)
    assert out.metrics["policy/clip_rate"] == (2.0, 5.0)
    assert out.metrics["policy/clip_high_rate"] == (1.0, 5.0)
    assert out.metrics["policy/clip_low_rate"] == (1.0, 5.0)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (Aggregation.TOKEN_MEAN, (-2.68 + 1.8) / 5),
        (Aggregation.SEQUENCE_MEAN, (-2.68 / 3 + 1.8 / 2) / 2),
        (Aggregation.CONSTANT_LENGTH, (-2.68 / 10 + 1.8 / 10) / 2),
    ],
)
def test_worked_examples_of_the_aggregations(aggregation: Aggregation, expected: float):
    loss, batch = loss_of(aggregation), make_batch()
    total = float(loss(LOGPROBS, batch=batch).loss_sum)
    assert total / loss.aggregator.denominator(batch.denominators) == pytest.approx(
        expected, abs=1e-6
    )


def test_proximal_logprobs_replace_the_base_of_the_ratio():
    out = loss_of()(LOGPROBS, batch=make_batch(proximal_logprobs=LOGPROBS))
    assert float(out.loss_sum) == pytest.approx(-3 + 2, abs=1e-6)
    assert out.metrics["policy/clip_rate"] == (0.0, 5.0)


def test_mismatch_metrics_compare_engine_and_proximal():
    out = loss_of()(LOGPROBS, batch=make_batch(proximal_logprobs=LOGPROBS))
    assert out.metrics["mismatch/max_abs_logprob_diff"][0] == pytest.approx(math.log(2.5), abs=1e-6)
    weights = [1.0, 1.8, 0.4, 1.0, 0.4]
    expected = sum(w - math.log(w) - 1 for w in weights)
    assert out.metrics["mismatch/kl_k3"] == pytest.approx((expected, 5.0), abs=1e-6)


def test_without_proximal_logprobs_mismatch_compares_engine_and_this_forward_pass():
    exact = loss_of()(make_batch().behavior_logprobs, batch=make_batch()).metrics
    assert exact["mismatch/max_abs_logprob_diff"][0] == 0.0
    off = loss_of()(LOGPROBS, batch=make_batch()).metrics
    assert off["mismatch/max_abs_logprob_diff"][0] == pytest.approx(math.log(2.5), abs=1e-6)


@pytest.mark.parametrize("estimator", list(KlEstimator))
def test_kl_term_is_added_with_its_coefficient(estimator: KlEstimator):
    ref = torch.log(torch.tensor([[1.0, 0.25, 0.9, 0.2], [1.0, 0.5, 0.2, 1.0]]))
    plain = loss_of()(LOGPROBS, batch=make_batch()).loss_sum
    with_kl = loss_of(kl_coef=0.5, kl_estimator=estimator)(
        LOGPROBS, batch=make_batch(ref_logprobs=ref)
    ).loss_sum
    x = math.log(0.5)
    by_hand = {KlEstimator.K1: -x, KlEstimator.K2: x * x / 2, KlEstimator.K3: 0.5 - x - 1}[
        estimator
    ]
    assert float(with_kl - plain) == pytest.approx(0.5 * by_hand, abs=1e-6)


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


def test_masked_tokens_get_zero_gradient_even_when_they_are_nan():
    poisoned = LOGPROBS.clone()
    poisoned[0, 0] = poisoned[1, 3] = float("nan")
    poisoned.requires_grad_(True)
    out = loss_of(kl_coef=0.1)(
        poisoned,
        batch=make_batch(
            ref_logprobs=torch.full((2, 4), float("nan")).where(
                ~make_batch().loss_mask, torch.tensor(-1.0)
            )
        ),
    )
    (gradient,) = torch.autograd.grad(out.loss_sum, poisoned)
    assert torch.isfinite(out.loss_sum)
    assert gradient[~make_batch().loss_mask].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("aggregator", [TokenMean(), SequenceMean(), ConstantLength(7)])
def test_gradcheck_in_float64(aggregator: TokenMean):
    loss = PolicyLoss(clip_low=0.2, clip_high=0.28, aggregator=aggregator, kl_coef=0.3, kl=k3)
    ref = torch.rand(2, 4, dtype=torch.float64) - 2
    batch = make_batch(ref_logprobs=ref)
    lp = LOGPROBS.double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss(x, batch=batch).loss_sum, (lp,))


def test_ratio_of_one_gives_the_plain_policy_gradient():
    lp = make_batch().behavior_logprobs.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of()(lp, batch=make_batch()).loss_sum, lp)
    assert torch.allclose(gradient, -make_batch().advantages)


def test_extreme_log_ratios_are_clamped_and_counted():
    lp = torch.full((2, 4), -60.0)
    out = loss_of()(lp, batch=make_batch())
    assert torch.isfinite(out.loss_sum)
    assert out.metrics["policy/clamped_log_ratios"] == (5.0, 1.0)


def test_supervised_loss_is_the_negative_log_likelihood():
    out = SupervisedLoss(aggregator=TokenMean())(LOGPROBS, batch=make_batch())
    expected = -sum(math.log(x) for x in (0.5, 0.9, 0.2, 0.5, 0.2))
    assert float(out.loss_sum) == pytest.approx(expected, abs=1e-6)


def test_batch_refuses_loss_on_padding_and_on_the_first_token():
    with pytest.raises(ValueError, match="padding"):
        make_batch(loss_mask=torch.tensor([[F, T, T, T], [F, T, T, T]]))
    with pytest.raises(ValueError, match="first token"):
        make_batch(loss_mask=torch.tensor([[T, T, T, T], [F, T, T, F]]))


def test_clipped_surrogate_refuses_shapes_that_would_broadcast():
    with pytest.raises(Exception, match="advantages"):
        clipped_surrogate(
            torch.zeros(2, 3),
            base_logprobs=torch.zeros(2, 3),
            advantages=torch.zeros(1, 3),
            clip_low=0.2,
            clip_high=0.2,
        )
