"""Where trainers that say the same word compute different numbers: one trap a test, by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rlvr.algorithms.advantages import GroupRewards
from rlvr.config.recipe import RolloutConfig
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.data.collate import collate_rows, select_rows
from rlvr.records import Completion, FinishReason
from tests.parity import areal, nemo_rl, prime_rl, skyrl, trl, verl
from tests.parity.case import ADVANTAGE
from tests.parity.number import Number, Scalar, gradient, still
from tests.parity.ours import MAX_COMPLETION_TOKENS, our_advantages, our_loss
from tests.parity.rows import Row

BASE = math.log(0.2)


def row(
    *ratios: float,
    advantage: float,
    sampler: Sequence[float] | None = None,
    ref: float = BASE,
    group: int = 0,
    truncated: bool = False,
) -> Row:
    """One row with these ratios policy / proximal; sampler: proximal / behavior at each token, 1 by default."""
    return Row(
        group=group,
        advantage=advantage,
        logprobs_T=[Number(BASE + math.log(r)) for r in ratios],
        entropy_T=[Number(1.0) for _ in ratios],
        proximal_T=[BASE] * len(ratios),
        behavior_T=[BASE - math.log(w) for w in sampler or [1.0] * len(ratios)],
        ref_T=[ref] * len(ratios),
        is_truncated=truncated,
    )


def ours(rows: Sequence[Row], **settings: Any) -> float:
    return our_loss(AlgorithmConfig.model_validate(settings), rows).value


def our_first_slope(rows: Sequence[Row], **settings: Any) -> float:
    return our_loss(AlgorithmConfig.model_validate(settings), rows).logprob_slopes_B_T[0][0]


def first_slope(loss: Scalar, rows: Sequence[Row]) -> float:
    return gradient(loss, [rows[0].logprobs_T[0]])[0]


def of_group(*rewards: float | None) -> list[GroupRewards]:
    count = len(rewards)
    return [GroupRewards(rewards_G=rewards, parts_G=[{}] * count, weights={}, num_tokens_G=[1] * count)]


def our_group(groups: list[GroupRewards], **settings: Any) -> list[float | None]:
    return our_advantages(ADVANTAGE.validate_python(settings), groups)[0]


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def test_trap_01_the_groups_deviation_has_five_forms() -> None:
    groups = of_group(1.0, 0.0, 0.0)  # mean 1/3; deviation sqrt(1/3) with n - 1, sqrt(2/9) with n
    bessel, population = math.sqrt(1 / 3), math.sqrt(2 / 9)
    assert trl.advantages(groups, scale_rewards="group")[0][0] == near(2 / 3 / (bessel + 1e-4))
    assert verl.grpo_advantages(groups)[0][0] == near(2 / 3 / (bessel + 1e-6))
    assert trl.async_advantages(groups)[0][0] == near(2 / 3 / (population + 1e-8))
    # NeMo RL: the others of the first are equal (not divided); those of the second are 1 and 0
    assert nemo_rl.grpo_advantages(groups)[0][:2] == [1.0, near(-0.5 / (math.sqrt(0.5) + 1e-6))]
    assert prime_rl.grpo_advantages(groups)[0][0] == near(2 / 3)
    assert our_group(groups, kind="grpo", eps=1e-4)[0] == near(2 / 3 / (bessel + 1e-4))
    assert our_group(groups, kind="grpo", eps=1e-6)[0] == near(2 / 3 / (bessel + 1e-6))
    assert our_group(groups, kind="dr_grpo")[0] == near(2 / 3)


def test_trap_02_verl_clips_twice_and_trl_does_not() -> None:
    rows = [row(5.0, advantage=-1.0)]
    assert still(trl.loss(rows, trl.Settings())) == near(5.0)
    assert still(verl.loss(rows, verl.Settings())) == near(3.0)
    assert first_slope(trl.loss(rows, trl.Settings()), rows) == near(5.0)
    assert first_slope(verl.loss(rows, verl.Settings()), rows) == 0.0
    assert ours(rows) == near(5.0)
    assert ours(rows, loss={"dual_clip": 3.0}) == near(3.0)
    assert our_first_slope(rows, loss={"dual_clip": 3.0}) == 0.0


def test_trap_03_cispos_bound_is_absolute_in_trl_and_relative_in_verl() -> None:
    rows = [row(7.0, advantage=1.0)]
    in_trl = trl.loss(rows, trl.Settings(loss_type="cispo", epsilon_high=5.0))
    verl_5 = verl.loss(rows, verl.Settings(loss_mode="cispo", clip_ratio_low=1, clip_ratio_high=5))
    verl_4 = verl.loss(rows, verl.Settings(loss_mode="cispo", clip_ratio_low=1, clip_ratio_high=4))
    slopes = [first_slope(loss, rows) for loss in (in_trl, verl_5, verl_4)]
    assert slopes == [-5.0, -6.0, -5.0]
    assert first_slope(skyrl.loss(rows, skyrl.Settings(policy_loss_type="cispo")), rows) == -5.0
    # TRL's default epsilon, meant for a clip, caps every weight at 0.2
    assert first_slope(trl.loss(rows, trl.Settings(loss_type="cispo")), rows) == -0.2
    assert our_first_slope(rows, loss={"kind": "cispo", "ratio_max": 5.0}) == near(-5.0)


def test_trap_04_a_sequence_weight_is_a_product_or_a_geometric_mean() -> None:
    rows = [row(1.0, 1.0, advantage=1.0, sampler=[1.5, 1.2])]
    product, geometric = 1.5 * 1.2, math.sqrt(1.5 * 1.2)
    in_trl = trl.Settings(vllm_importance_sampling_mode="sequence_truncate", vllm_importance_sampling_clip_max=9.0)
    in_verl = verl.Settings(rollout_is="sequence", rollout_is_threshold=(9.0,))
    in_skyrl = skyrl.Settings(tis_ratio_type="sequence", tis_ratio_clip_high=9.0)
    in_areal = areal.Settings(rejection_upper=9.0, rejection_level="sequence")
    assert still(trl.loss(rows, in_trl)) == near(-product)
    assert still(verl.loss(rows, in_verl)) == near(-product)
    assert still(skyrl.loss(rows, in_skyrl)) == near(-product)
    assert still(areal.loss(rows, in_areal)) == near(-geometric)
    assert ours(rows, correction={"weight": "sequence", "weight_max": 9.0}) == near(-product)


@pytest.mark.parametrize(
    ("x", "in_trl", "in_verl", "in_ours"),
    [
        (2.0, math.e**2 - 3, math.e**2 - 3, math.e**2 - 3),
        (4.0, math.e**4 - 5, 10.0, math.e**4 - 5),
        (22.0, math.e**22 - 23, 10.0, math.e**20 - 21),
        (-30.0, math.e**-30 + 29, 10.0, math.e**-20 + 19),
    ],
)
def test_trap_05_k3_is_clamped_in_three_ways(x: float, in_trl: float, in_verl: float, in_ours: float) -> None:
    rows = [row(1.0, advantage=0.0, ref=BASE + x)]
    by_trl = trl.loss(rows, trl.Settings(beta=1.0, use_bias_correction_kl=False))
    by_verl = verl.loss(rows, verl.Settings(kl_loss_coef=1.0))
    assert still(by_trl) == near(in_trl)
    assert still(by_verl) == near(in_verl)
    assert first_slope(by_verl, rows) == (near(1 - math.e**x) if in_verl != 10.0 else 0.0)
    assert ours(rows, kl_coef=1.0) == near(in_ours)
    assert our_first_slope(rows, kl_coef=1.0) == (near(1 - math.e**x) if abs(x) <= 20 else 0.0)


def test_trap_06_kl_comes_after_the_weight_and_stays_where_it_is_zero() -> None:
    x = math.log(2.0)
    kl = 2.0 - x - 1.0
    rows = [row(1.0, advantage=1.0, sampler=[4.0], ref=BASE + x)]  # weight 4: outside every bound
    masked = trl.Settings(beta=0.1, use_bias_correction_kl=False, vllm_importance_sampling_mode="token_mask")
    icepop = verl.Settings(kl_loss_coef=0.1, rollout_is="token", rollout_is_threshold=(0.5, 2.0))
    rejected = verl.Settings(kl_loss_coef=0.1, rollout_rs="token_k1", rollout_rs_threshold=(0.5, 2))
    assert still(trl.loss(rows, masked)) == near(0.1 * kl)
    assert still(verl.loss(rows, icepop)) == near(0.1 * kl)
    assert still(verl.loss(rows, rejected)) == 0.0  # the rejection edits the mask that KL is summed over
    mask = {"weight": "token", "bound": "mask", "weight_max": 2.0}
    assert ours(rows, kl_coef=0.1, correction=mask) == near(0.1 * kl)
    weighted = {"weight": "token", "weight_max": 2.0}
    assert ours(rows, kl_coef=0.1, correction=weighted) == near(-2.0 + 0.1 * kl)


def test_trap_06b_trl_weights_its_kl_by_the_ratio_by_default() -> None:
    kl = 2.0 - math.log(2.0) - 1.0
    rows = [row(1.0, advantage=0.0, ref=BASE + math.log(2.0))]
    plain = trl.loss(rows, trl.Settings(beta=1.0, use_bias_correction_kl=False))
    default = trl.loss(rows, trl.Settings(beta=1.0))
    in_nemo = nemo_rl.loss(rows, nemo_rl.Settings(reference_policy_kl_penalty=1.0))
    assert still(plain) == near(kl)
    assert still(default) == near(kl)  # the ratio is 1: the same value
    assert first_slope(plain, rows) == near(1 - 2.0)
    assert first_slope(default, rows) == near(1 - 2.0 + kl)  # = -x: k2's gradient, the true KL's
    assert first_slope(in_nemo, rows) == pytest.approx(1 - 2.0 + kl, abs=1e-7)
    assert our_first_slope(rows, kl_coef=1.0) == near(1 - 2.0)
    assert our_first_slope(rows, kl_coef=1.0, kl_estimator="k2") == near(1 - 2.0 + kl)


def test_trap_07_a_group_of_one_keeps_its_raw_reward_in_verl() -> None:
    lone = of_group(0.7)
    assert verl.grpo_advantages(lone) == [[near(0.7 / (1.0 + 1e-6))]]
    assert trl.advantages(lone, scale_rewards="group") == [[0.0]]
    assert our_group(lone, kind="grpo") == [None]
    assert our_group(of_group(0.7, None), kind="grpo") == [None, None]
    assert our_group(lone, kind="rloo") == [None]


def test_trap_08_dr_grpos_constant_is_the_limit_or_the_padded_width() -> None:
    rows = [row(1.0, 1.0, advantage=1.0), row(1.0, 1.0, 1.0, advantage=1.0)]
    mode = {"loss_agg_mode": "seq-mean-token-sum-norm"}
    limit = float(MAX_COMPLETION_TOKENS)
    padded = verl.loss(rows, verl.Settings(**mode))
    configured = verl.loss(rows, verl.Settings(**mode, loss_scale_factor=limit))
    in_trl = trl.loss(rows, trl.Settings(loss_type="dr_grpo", max_completion_length=int(limit)))
    assert still(padded) == near(-5 / (2 * 3))
    assert still(configured) == near(-5 / (2 * limit))
    assert still(in_trl) == near(-5 / (2 * limit))
    assert ours(rows, aggregation="constant_length") == near(-5 / (2 * limit))


def test_trap_09_tokens_are_counted_before_a_rejection_or_after_it() -> None:
    kept = row(1.0, 1.0, advantage=1.0)
    rejected = row(1.0, advantage=1.0, sampler=[4.0])
    rows = [kept, rejected]
    bounds = {"rollout_rs": "seq_mean_k1", "rollout_rs_threshold": (0.5, 2.0)}
    default = verl.loss(rows, verl.Settings(**bounds))
    older = verl.loss(rows, verl.Settings(**bounds, counts_after_rejection=True))
    in_areal = areal.loss(rows, areal.Settings(rejection_upper=2.0))
    assert still(default) == near(-2 / 3)
    assert still(older) == near(-2 / 2)
    assert still(in_areal) == near(-2 / 3)
    assert ours(rows, correction={"geometric_min": 0.5, "geometric_max": 2.0}) == near(-2 / 3)


def test_trap_09b_a_truncated_row_that_is_masked_leaves_the_denominators() -> None:
    ended, cut = row(1.0, 1.0, advantage=1.0), row(1.0, advantage=1.0, truncated=True)
    masked = {"mask_truncated_completions": True}
    tokens = trl.loss([ended, cut], trl.Settings(**masked))
    per_row = trl.loss([ended, cut], trl.Settings(**masked, loss_type="grpo"))
    assert still(tokens) == near(-2 / 2)
    assert still(per_row) == near(-1 / 2)  # TRL's mean over rows counts the masked one as 0
    both = collate_rows([(0, completion(2), 0.0), (0, completion(1), 0.0)], pad_token_id=0)
    left = select_rows(both, [0], advantages=[1.0])
    assert (left.num_loss_tokens, left.num_sequences) == (2, 1)
    assert ours([ended]) == near(-2 / 2)
    assert ours([ended], aggregation="sequence_mean") == near(-1 / 1)


def completion(count: int) -> Completion:
    return Completion(
        completion_id=f"c{count}",
        prompt_id="p",
        sample_index=count,
        prompt_token_ids=(1,),
        token_ids=(2,) * count,
        logprobs=(-1.0,) * count,
        sampled_mask=(True,) * count,
        text="",
        finish_reason=FinishReason.STOP,
        policy_versions=(0,) * count,
    )


def test_trap_10_a_sampler_that_cuts_the_distribution_is_not_the_learners_policy() -> None:
    # probabilities 0.5, 0.3, 0.2 under top_p=0.8: the sampler reports 0.5 / 0.8, the learner has 0.5
    mass = 0.8
    rows = [row(1.0, 1.0, 1.0, advantage=1.0, sampler=[mass] * 3)]
    sequence = {"weight": "sequence", "weight_max": 9.0}
    assert ours(rows, correction=sequence) == near(-(mass**3))  # every row loses weight with its length
    with pytest.raises(ValidationError, match="top_p"):
        RolloutConfig.model_validate({"top_p": mass})


def test_trap_11_verl_aggregates_gspo_by_rows_whatever_is_configured() -> None:
    rows = [row(1.0, 1.0, 1.0, advantage=1.0), row(1.0, advantage=-1.0)]
    configured = verl.Settings(loss_mode="gspo", loss_agg_mode="token-mean")
    in_trl = trl.Settings(loss_type="dapo", importance_sampling_level="sequence")
    assert still(verl.loss(rows, configured)) == pytest.approx(0.0, abs=1e-8)  # (1 - 1) / 2
    assert still(trl.loss(rows, in_trl)) == near(-(3 - 1) / 4)
    assert ours(rows, loss="gspo") == near(-(3 - 1) / 4)
    assert ours(rows, loss="gspo", aggregation="sequence_mean") == near(0.0)


def test_trap_12_dppos_mask_at_advantage_zero_changes_a_metric_and_no_gradient() -> None:
    fell = math.log(0.05 / 0.2)
    settings = prime_rl.Settings(dppo_mask_low=0.1)
    assert not prime_rl.is_kept(BASE + fell, BASE, 0.0, settings)  # prime-rl: A = 0 takes the low test
    rows = [row(0.25, advantage=0.0)]
    for with_mask in (settings, prime_rl.Settings(dppo_mask_low=1.0)):
        loss = prime_rl.loss(rows, with_mask)
        assert still(loss) == near(1e-3 * fell**2)
        assert first_slope(loss, rows) == near(2e-3 * fell)
    dppo = {"kind": "dppo", "max_decrease": 0.1}
    behavior = {"ratio_base": "behavior"}
    assert ours(rows, loss=dppo, correction=behavior) == near(1e-3 * fell**2)
    assert our_first_slope(rows, loss=dppo, correction=behavior) == near(2e-3 * fell)


def test_a_row_of_nothing_but_equal_policies_is_minus_the_advantage() -> None:
    rows = [row(1.0, 1.0, advantage=0.5)]
    assert ours(rows) == near(-0.5)
    assert torch.get_default_dtype() is torch.float32
