"""The policy loss as a whole, by hand on 2 x 3 loss tokens, and what it does not depend on."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.algorithms.aggregation import TokenMean
from rlvr.algorithms.build import build_loss
from rlvr.algorithms.corrections import stricter
from rlvr.algorithms.losses import PolicyLoss, SupervisedLoss
from rlvr.batch import Batch, LossOutput
from rlvr.config.sections.algorithm import (
    Aggregation,
    AlgorithmConfig,
    CispoLoss,
    ClippedLoss,
    CorrectionConfig,
    DppoLoss,
    GspoLoss,
    KlEstimator,
    KlPlacement,
    LossConfig,
    PolicyGradientLoss,
    SapoLoss,
)
from rlvr.importance_weights import WeightBound, WeightLevel

T, F = True, False
ZERO = torch.zeros(2, 4)
CLIPPED = ClippedLoss(clip_low=0.2, clip_high=0.28)
LOSSES: list[LossConfig] = [
    CLIPPED,
    ClippedLoss(dual_clip=3.0),
    GspoLoss(clip_low=0.3, clip_high=0.4),
    CispoLoss(),
    SapoLoss(),
    DppoLoss(),
    PolicyGradientLoss(),
]


def make_batch(**changes: object) -> Batch:
    """2 rows x 4 columns: column 0 is the prompt; the second row's last token is padding."""
    fields: dict[str, object] = {
        "token_ids": torch.tensor([[1, 2, 3, 4], [1, 2, 3, 0]]),
        "attention_mask": torch.tensor([[T, T, T, T], [T, T, T, F]]),
        "loss_mask": torch.tensor([[F, T, T, T], [F, T, T, F]]),
        "behavior_logprobs": torch.log(torch.tensor([[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 1.0]])),
        "advantages": torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, -1.0, -1.0, 0.0]]),
        "group_index": torch.tensor([0, 0]),
        "group_num_tokens": torch.tensor([5, 5]),
        "num_loss_tokens": 5,
        "num_sequences": 2,
        "num_prompts": 1,
    }
    return Batch(**(fields | changes))  # type: ignore[arg-type] # a test builder


# ratios to the behavior policy: 1, 1.8, 0.4 (A = 1) and 1, 0.4 (A = -1)
LOGPROBS = torch.log(torch.tensor([[1.0, 0.5, 0.9, 0.2], [1.0, 0.5, 0.2, 1.0]]))
MASK = make_batch().loss_mask


def loss_of(*, uses_proximal: bool = False, **changes: object) -> PolicyLoss:
    config = AlgorithmConfig.model_validate({"loss": CLIPPED} | changes)
    return build_loss(config, max_completion_tokens=10, uses_proximal=uses_proximal)


def run(loss: PolicyLoss, logprobs: Tensor = LOGPROBS, **changes: object) -> LossOutput:
    """The loss of the example; its metrics as numbers."""
    found = loss(logprobs, entropy=ZERO, batch=make_batch(**changes))
    return replace(
        found, metrics={name: (float(total), float(count)) for name, (total, count) in found.metrics.items()}
    )


def gradient(loss: PolicyLoss, logprobs: Tensor, batch: Batch, entropy: Tensor = ZERO) -> Tensor:
    lp = logprobs.clone().requires_grad_(True)
    return torch.autograd.grad(loss(lp, entropy=entropy, batch=batch).loss_sum, lp)[0]


def test_worked_example_over_the_behavior_policy():
    out = run(loss_of())
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
        (Aggregation.PROMPT_MEAN, (-2.68 / 5 + 1.8 / 5) / 1),
    ],
)
def test_worked_examples_of_the_aggregations(aggregation: Aggregation, expected: float):
    loss = loss_of(aggregation=aggregation)
    denominator = loss.aggregator.denominator(make_batch().denominators)
    assert float(run(loss).loss_sum) / denominator == pytest.approx(expected, abs=1e-6)


def test_the_ratio_starts_from_the_proximal_policy_when_it_is_the_base():
    proximal = torch.log(torch.tensor([[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 1.0]]))
    far = torch.full((2, 4), -9.0)
    out = run(loss_of(uses_proximal=True), proximal_logprobs=proximal, behavior_logprobs=far)
    assert float(out.loss_sum) == pytest.approx(-1 - 1.28 - 0.4 + 1 + 0.8, abs=1e-6)


def test_without_proximal_logprobs_the_proximal_policy_is_this_forward_pass():
    out = run(loss_of(uses_proximal=True))
    assert float(out.loss_sum) == pytest.approx(-3 + 2, abs=1e-6)
    assert out.metrics["policy/clip_rate"] == (0.0, 5.0)
    expected = -make_batch().advantages
    torch.testing.assert_close(gradient(loss_of(uses_proximal=True), LOGPROBS, make_batch()), expected)


def test_a_ratio_over_behavior_ignores_proximal_logprobs_in_its_loss():
    with_proximal = run(loss_of(), proximal_logprobs=torch.full((2, 4), -3.0))
    assert float(with_proximal.loss_sum) == float(run(loss_of()).loss_sum)


def test_decoupled_ppo_is_the_clipped_ratio_times_the_truncated_weight():
    # proximal / behavior: 1, 3 (cut to 2), 0.5 and 1, 1; policy / proximal: 1, 0.6, 0.8 and 1, 0.4
    proximal = torch.log(torch.tensor([[1.0, 0.5, 1.5, 0.25], [1.0, 0.5, 0.5, 1.0]]))
    loss = loss_of(uses_proximal=True, correction=CorrectionConfig(weight=WeightLevel.TOKEN))
    out = run(loss, proximal_logprobs=proximal)
    assert float(out.loss_sum) == pytest.approx(-1 - 2 * 0.6 - 0.5 * 0.8 + 1 + 0.8, abs=1e-6)
    assert out.metrics["mismatch/truncated_weight_rate"] == (1.0, 5.0)
    assert out.metrics["mismatch/weight_mean"] == pytest.approx((1 + 2 + 0.5 + 1 + 1, 5.0), abs=1e-6)


def test_a_masked_token_leaves_the_numerator_and_no_denominator():
    correction = CorrectionConfig(weight=WeightLevel.TOKEN, bound=WeightBound.MASK, weight_min=0.5, weight_max=1.5)
    loss = loss_of(uses_proximal=True, correction=correction, aggregation=Aggregation.SEQUENCE_MEAN)
    out = run(loss)  # ratio 1; of weights 1, 1.8, 0.4, 1, 0.4 the two ones stay
    assert float(out.loss_sum) == pytest.approx(-1 / 3 + 1 / 2, abs=1e-6)
    assert out.metrics["mismatch/masked_token_rate"] == (3.0, 5.0)
    assert out.metrics["mismatch/masked_sequence_rate"] == (0.0, 2.0)
    assert gradient(loss, LOGPROBS, make_batch())[0, 2:].tolist() == [0.0, 0.0]


def test_a_masked_sequence_is_counted_once_and_by_its_tokens():
    out = run(loss_of(correction=CorrectionConfig(off_policy_threshold=0.4)))
    # mean(behavior - policy) of the second row is ln(2.5) / 2 = 0.458, and its advantage is negative
    assert float(out.loss_sum) == pytest.approx(-2.68, abs=1e-6)
    assert out.metrics["mismatch/masked_sequence_rate"] == (1.0, 2.0)
    assert out.metrics["mismatch/masked_token_rate"] == (2.0, 5.0)


def test_the_correction_can_be_made_stricter_while_a_run_goes_on():
    loss = loss_of(uses_proximal=True)
    assert run(loss).metrics["mismatch/truncated_weight_rate"] == (0.0, 5.0)
    before = float(run(loss).loss_sum)
    loss.correction = stricter(loss.correction) or loss.correction
    assert float(run(loss).loss_sum) == pytest.approx(-1 - 1.8 - 0.4 + 1 + 0.4, abs=1e-6)
    loss.correction = stricter(loss.correction) or loss.correction
    assert run(loss).metrics["mismatch/masked_token_rate"] == (2.0, 5.0)  # two weights of 0.4
    assert before == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("uses_proximal", [True, False])
def test_a_missing_behavior_logprob_counts_as_the_learners_own(missing: float, uses_proximal: bool):
    behavior = make_batch().behavior_logprobs.clone()
    behavior[0, 2] = missing
    correction = CorrectionConfig(weight=WeightLevel.TOKEN, weight_max=9.0)
    out = run(loss_of(uses_proximal=uses_proximal, correction=correction), behavior_logprobs=behavior)
    # proximal: ratio 1, weights 1, 1, 0.4 and 1, 0.4; behavior: ratios 1, 1, 0.4 and 1, 0.4 (cut at 0.8)
    expected = (-1 - 1 - 0.4 + 1 + 0.4) if uses_proximal else (-1 - 1 - 0.4 + 1 + 0.8)
    assert float(out.loss_sum) == pytest.approx(expected, abs=1e-6)
    assert out.metrics["mismatch/missing_logprobs"] == (1.0, 1.0)
    assert out.metrics["mismatch/max_abs_logprob_diff"][0] == pytest.approx(math.log(2.5), abs=1e-6)


def test_mismatch_metrics_compare_engine_and_learner_for_every_base():
    weights = [1.0, 1.8, 0.4, 1.0, 0.4]
    for uses_proximal in (True, False):
        metrics = run(loss_of(uses_proximal=uses_proximal)).metrics
        kl = sum(w - math.log(w) - 1 for w in weights)
        assert metrics["mismatch/kl_k3"] == pytest.approx((kl, 5.0), abs=1e-6)
        mean_abs = sum(abs(math.log(w)) for w in weights)
        assert metrics["mismatch/mean_abs_logprob_diff"] == pytest.approx((mean_abs, 5.0), abs=1e-6)
        assert metrics["mismatch/max_abs_logprob_diff"] == pytest.approx((math.log(2.5), 0.0), abs=1e-6)
        assert metrics["mismatch/weight_sum"] == pytest.approx((sum(weights), 1.0), abs=1e-6)
        squares = sum(w * w for w in weights)
        assert metrics["mismatch/weight_square_sum"] == pytest.approx((squares, 1.0), abs=1e-6)
        assert metrics["mismatch/weight_mean"] == (5.0, 5.0)


def test_the_mismatch_of_equal_policies_is_exactly_zero():
    metrics = run(loss_of(), make_batch().behavior_logprobs).metrics
    assert metrics["mismatch/kl_k3"] == (0.0, 5.0)
    assert metrics["mismatch/max_abs_logprob_diff"] == (0.0, 0.0)


def test_a_mismatch_of_a_millionth_is_measured_and_not_rounded_away():
    behavior = make_batch().behavior_logprobs.double()
    out = run(loss_of(), behavior + 1e-6, behavior_logprobs=behavior)
    assert out.metrics["mismatch/kl_k3"][0] == pytest.approx(5 * 0.5e-12, rel=1e-3)


REF = torch.log(torch.tensor([[1.0, 0.25, 0.9, 0.2], [1.0, 0.5, 0.2, 1.0]]))


@pytest.mark.parametrize("estimator", list(KlEstimator))
def test_kl_is_added_after_the_weights_with_its_coefficient(estimator: KlEstimator):
    correction = CorrectionConfig(geometric_min=0.95, geometric_max=1.05)  # masks both rows
    out = run(loss_of(kl_coef=0.5, kl_estimator=estimator, correction=correction), ref_logprobs=REF)
    x = math.log(0.5)
    by_hand = {KlEstimator.K1: -x, KlEstimator.K2: x * x / 2, KlEstimator.K3: 0.5 - x - 1}
    assert out.metrics["mismatch/masked_sequence_rate"] == (2.0, 2.0)
    assert float(out.loss_sum) == pytest.approx(0.5 * by_hand[estimator], abs=1e-6)
    assert out.metrics["policy/kl_k3"] == pytest.approx((0.5 - x - 1, 5.0), abs=1e-6)


def test_kl_placed_in_the_reward_leaves_the_loss_and_is_still_measured():
    out = run(loss_of(kl_coef=0.5, kl_placement=KlPlacement.REWARD), ref_logprobs=REF)
    assert float(out.loss_sum) == float(run(loss_of()).loss_sum)
    assert out.metrics["policy/kl_k3"][0] > 0


def test_kl_without_reference_logprobs_is_refused():
    with pytest.raises(ValueError, match=r"kl_coef=0\.5 needs batch\.ref_logprobs"):
        run(loss_of(kl_coef=0.5))


def test_entropy_is_rewarded_with_its_coefficient_and_its_gradient():
    entropy = torch.tensor([[9.0, 1.0, 2.0, 3.0], [9.0, 4.0, 5.0, math.nan]], requires_grad=True)
    loss = loss_of(entropy_coef=0.1)
    total = loss(LOGPROBS, entropy=entropy, batch=make_batch()).loss_sum
    plain = float(run(loss_of()).loss_sum)
    assert total.item() == pytest.approx(plain - 0.1 * (1 + 2 + 3 + 4 + 5), abs=1e-6)
    (got,) = torch.autograd.grad(total, entropy)
    torch.testing.assert_close(got, -0.1 * MASK.float())
    assert loss.needs_entropy_gradient
    assert not loss_of().needs_entropy_gradient


@pytest.mark.parametrize("config", LOSSES, ids=lambda c: c.kind)
@pytest.mark.parametrize("uses_proximal", [True, False])
def test_gradient_is_exactly_zero_outside_the_mask_for_any_content(config: LossConfig, uses_proximal: bool):
    def poisoned(values: Tensor) -> Tensor:
        return torch.where(MASK, values, math.nan)

    correction = CorrectionConfig(geometric_max=5.0, off_policy_threshold=9.0)
    loss = loss_of(loss=config, uses_proximal=uses_proximal, correction=correction, kl_coef=0.1, entropy_coef=0.1)
    clean = make_batch(ref_logprobs=REF, proximal_logprobs=LOGPROBS - 0.1)
    dirty = make_batch(
        ref_logprobs=poisoned(REF),
        proximal_logprobs=poisoned(LOGPROBS - 0.1),
        behavior_logprobs=poisoned(clean.behavior_logprobs),
        advantages=poisoned(clean.advantages),
    )
    expected = gradient(loss, LOGPROBS, clean)
    got = gradient(loss, poisoned(LOGPROBS), dirty, entropy=poisoned(ZERO))
    assert got[~MASK].tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(got, expected)
    out = loss(poisoned(LOGPROBS), entropy=poisoned(ZERO), batch=dirty)
    assert all(math.isfinite(value) for value, _ in out.metrics.values())


def random_batch(seed: int, *, dtype: torch.dtype) -> tuple[Tensor, Batch]:
    """4 rows of 0 to 5 loss tokens after one prompt token, with log-probs of three policies."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 6, (4, 1), generator=generator)
    mask = (torch.arange(6) > 0) & (torch.arange(6) <= lengths)

    def logprobs() -> Tensor:
        return -2 * torch.rand(4, 6, generator=generator, dtype=torch.float64).to(dtype) - 0.05

    groups = torch.tensor([0, 0, 1, 1])
    per_group = mask.sum(1)[:2].sum(), mask.sum(1)[2:].sum()
    batch = Batch(
        token_ids=torch.zeros(4, 6, dtype=torch.long),
        attention_mask=torch.arange(6) <= lengths,
        loss_mask=mask,
        behavior_logprobs=logprobs(),
        proximal_logprobs=logprobs(),
        ref_logprobs=logprobs(),
        advantages=torch.randn(4, 1, generator=generator).to(dtype).expand(4, 6).contiguous(),
        group_index=groups,
        group_num_tokens=torch.stack([*per_group])[groups],
        num_loss_tokens=int(mask.sum()),
        num_sequences=4,
        num_prompts=2,
    )
    return logprobs(), batch


@pytest.mark.parametrize("config", LOSSES, ids=lambda c: c.kind)
@pytest.mark.parametrize("aggregation", list(Aggregation))
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)), columns=st.integers(0, 3))
def test_loss_and_metrics_do_not_depend_on_row_order_padding_or_split(
    config: LossConfig, aggregation: Aggregation, seed: int, order: list[int], columns: int
):
    correction = CorrectionConfig(weight=WeightLevel.SEQUENCE, geometric_min=0.5, geometric_max=2.0)
    loss = loss_of(loss=config, aggregation=aggregation, correction=correction, kl_coef=0.1, uses_proximal=True)
    lp, batch = random_batch(seed, dtype=torch.float64)
    whole = loss(lp, entropy=torch.zeros_like(lp), batch=batch)
    total, sums = 0.0, dict.fromkeys(whole.metrics, 0.0)
    for part in (order[:1], order[1:]):
        rows = torch.tensor(part)
        micro = pad(batch.rows(rows), columns)
        width = micro.token_ids.shape[1]
        wide = torch.nn.functional.pad(lp[rows], (0, 9), value=math.nan)[:, :width]
        out = loss(wide, entropy=torch.zeros_like(wide), batch=micro)
        total += float(out.loss_sum)
        for name, value in ((name, float(value)) for name, (value, _) in out.metrics.items()):
            is_max = name.startswith("mismatch/max_")
            sums[name] = max(sums[name], value) if is_max else sums[name] + value
    assert total == pytest.approx(float(whole.loss_sum), rel=1e-9, abs=1e-9)
    for name, value in ((name, float(value)) for name, (value, _) in whole.metrics.items()):
        assert sums[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def pad(batch: Batch, columns: int) -> Batch:
    wide = {}
    for name in (
        "token_ids",
        "attention_mask",
        "loss_mask",
        "behavior_logprobs",
        "proximal_logprobs",
        "ref_logprobs",
        "advantages",
    ):
        tensor = getattr(batch, name)
        wide[name] = torch.nn.functional.pad(tensor, (0, columns), value=0)
    return replace(batch, **wide)


@pytest.mark.parametrize("config", [c for c in LOSSES if c.kind != "cispo"], ids=lambda c: c.kind)
@pytest.mark.parametrize("uses_proximal", [True, False])
def test_gradcheck_in_float64(config: LossConfig, uses_proximal: bool):
    correction = CorrectionConfig(weight=WeightLevel.TOKEN, geometric_max=4.0)
    loss = loss_of(
        loss=config,
        correction=correction,
        uses_proximal=uses_proximal,
        kl_coef=0.3,
        entropy_coef=0.1,
        aggregation=Aggregation.SEQUENCE_MEAN,
    )
    lp, batch = random_batch(11, dtype=torch.float64)
    entropy = torch.rand(4, 6, dtype=torch.float64).requires_grad_(True)
    lp = lp.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x, h: loss(x, entropy=h, batch=batch).loss_sum, (lp, entropy))


def test_half_precision_logprobs_are_computed_in_float32():
    out = run(loss_of(), LOGPROBS.bfloat16())
    assert out.loss_sum.dtype is torch.float32


def test_extreme_log_ratios_are_clamped_and_counted():
    out = run(loss_of(), torch.full((2, 4), -60.0))
    assert bool(torch.isfinite(out.loss_sum))
    assert out.metrics["policy/clamped_log_ratios"] == (5.0, 1.0)
    assert out.metrics["mismatch/max_abs_logprob_diff"][0] > 59


def test_supervised_loss_is_the_negative_log_likelihood():
    out = SupervisedLoss(aggregator=TokenMean())(LOGPROBS, entropy=ZERO, batch=make_batch())
    expected = -sum(math.log(x) for x in (0.5, 0.9, 0.2, 0.5, 0.2))
    assert float(out.loss_sum) == pytest.approx(expected, abs=1e-6)
