"""TRL 1.16."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tests.parity import trl
from tests.parity.case import AdvantageCase, Case, Claim, LossCase, OverlongCase
from tests.parity.ours import MAX_COMPLETION_TOKENS
from tests.parity.rows import Row, Spread

PEER = "TRL"
CLIP = {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.28}


def _grpo(algorithm: str, settings: str, ours: dict[str, Any], **theirs: Any) -> LossCase:
    """A case of `GRPOTrainer`; unset fields have TRL's defaults, with epsilon_high 0.28."""
    known = {"claim", "reason", "spread", "rows", "our_rows"}
    about = {key: theirs.pop(key) for key in known & set(theirs)}
    chosen: dict[str, Any] = {"epsilon_high": 0.28, **theirs}
    return LossCase(
        peer=PEER,
        algorithm=algorithm,
        settings=settings,
        reference=partial(trl.loss, settings=trl.Settings(**chosen)),
        ours={"loss": CLIP, **ours},
        **about,
    )


def without_truncated(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that ended by themselves; the others stay in the baseline and leave our loss."""
    return [row for row in rows if not row.is_truncated]


def with_unjudged(rows: Sequence[Row]) -> Sequence[Row]:
    """Every seventh row could not be judged: TRL gives it the advantage 0."""
    return [replace(row, advantage=0.0) if i % 7 == 0 else row for i, row in enumerate(rows)]


def without_unjudged(rows: Sequence[Row]) -> Sequence[Row]:
    """The others."""
    return [row for i, row in enumerate(rows) if i % 7]


def with_missing_logprobs(rows: Sequence[Row]) -> Sequence[Row]:
    """Every row's first token has no log-prob from the engine."""
    return [replace(row, behavior_T=[math.nan, *row.behavior_T[1:]]) for row in rows]


LOSSES = [
    _grpo("DAPO", "dapo, GA 2", {}, gradient_accumulation_steps=2),
    _grpo("GRPO", "grpo, GA 2", {"aggregation": "sequence_mean"}, loss_type="grpo", gradient_accumulation_steps=2),
    _grpo(
        "Dr. GRPO",
        "dr_grpo, GA 2",
        {"aggregation": "constant_length"},
        loss_type="dr_grpo",
        max_completion_length=MAX_COMPLETION_TOKENS,
        gradient_accumulation_steps=2,
    ),
    _grpo(
        "BNPO",
        "bnpo, GA 2",
        {},
        loss_type="bnpo",
        gradient_accumulation_steps=2,
        claim=Claim.DIFFERS,
        reason="bnpo divides by each micro-batch's own tokens; ours by the step's",
    ),
    _grpo(
        "GSPO",
        "level sequence, grpo, eps 3e-4 4e-4",
        {"loss": {"kind": "gspo"}, "aggregation": "sequence_mean"},
        loss_type="grpo",
        importance_sampling_level="sequence",
        epsilon=3e-4,
        epsilon_high=4e-4,
    ),
    _grpo(
        "GSPO",
        "level sequence, dapo, eps 0.1 0.15",
        {"loss": {"kind": "gspo", "clip_low": 0.1, "clip_high": 0.15}},
        importance_sampling_level="sequence",
        epsilon=0.1,
        epsilon_high=0.15,
    ),
    _grpo(
        "CISPO",
        "cispo, epsilon_high 1.5",
        {"loss": {"kind": "cispo", "ratio_max": 1.5}},
        loss_type="cispo",
        epsilon_high=1.5,
    ),
    _grpo("SAPO", "sapo, tau 1.0 1.05", {"loss": {"kind": "sapo"}, "aggregation": "sequence_mean"}, loss_type="sapo"),
    _grpo("dual clip", "dapo, delta 1.6", {"loss": CLIP | {"dual_clip": 1.6}}, delta=1.6),
    _grpo(
        "KL k3", "beta 0.04, use_bias_correction_kl False", {"kl_coef": 0.04}, beta=0.04, use_bias_correction_kl=False
    ),
    _grpo(
        "KL k3",
        "beta 0.04 (use_bias_correction_kl True)",
        {"kl_coef": 0.04},
        beta=0.04,
        claim=Claim.DIFFERS,
        reason="TRL's default multiplies KL by the ratio, with its gradient; ours is plain k3, never weighted",
    ),
    _grpo(
        "KL, ours k2",
        "the same on-policy",
        {"loss": "clipped", "kl_coef": 0.04, "kl_estimator": "k2"},
        beta=0.04,
        epsilon_high=0.2,
        spread=Spread(step=0.0),
        claim=Claim.SAME_GRADIENT,
        reason="k3 times the ratio has the gradient of k2 where the ratio is 1",
    ),
    _grpo(
        "KL k3, far",
        "beta 0.04, uncorrected, |x| > 20",
        {"kl_coef": 0.04},
        beta=0.04,
        use_bias_correction_kl=False,
        spread=Spread(reference=9.0),
        claim=Claim.DIFFERS,
        reason="beyond |x| = 20 ours is held, without gradient; TRL's grows on",
    ),
    _grpo("entropy", "dapo, entropy_coef 0.01", {"entropy_coef": 0.01}, entropy_coef=0.01),
    _grpo(
        "entropy",
        "grpo, entropy_coef 0.01",
        {"entropy_coef": 0.01, "aggregation": "sequence_mean"},
        loss_type="grpo",
        entropy_coef=0.01,
        claim=Claim.DIFFERS,
        reason="TRL's bonus is a token mean under every loss_type; ours is aggregated as the loss is",
    ),
    _grpo(
        "truncated", "dapo, mask_truncated_completions", {}, mask_truncated_completions=True, our_rows=without_truncated
    ),
    _grpo(
        "truncated",
        "grpo, mask_truncated_completions",
        {"aggregation": "sequence_mean"},
        loss_type="grpo",
        mask_truncated_completions=True,
        our_rows=without_truncated,
        claim=Claim.DIFFERS,
        reason="TRL's mean over rows counts the masked ones as 0; ours is over rows that carry loss",
    ),
    _grpo(
        "unjudged",
        "dapo, reward None",
        {},
        rows=with_unjudged,
        our_rows=without_unjudged,
        claim=Claim.DIFFERS,
        reason="TRL keeps an unscored row with A = 0 in the denominator; ours leaves it out",
    ),
]

CORRECTIONS = [
    _grpo(
        "TIS token",
        "token_truncate 0.8 1.5",
        {"correction": {"weight": "token", "weight_min": 0.8, "weight_max": 1.5}},
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_min=0.8,
        vllm_importance_sampling_clip_max=1.5,
    ),
    _grpo(
        "IcePop",
        "token_mask 0.5 1.5",
        {"correction": {"weight": "token", "bound": "mask", "weight_min": 0.5, "weight_max": 1.5}},
        vllm_importance_sampling_mode="token_mask",
        vllm_importance_sampling_clip_min=0.5,
        vllm_importance_sampling_clip_max=1.5,
    ),
    _grpo(
        "TIS sequence",
        "sequence_truncate 0.5 2",
        {"correction": {"weight": "sequence", "weight_min": 0.5, "weight_max": 2.0}},
        vllm_importance_sampling_mode="sequence_truncate",
        vllm_importance_sampling_clip_min=0.5,
        vllm_importance_sampling_clip_max=2.0,
    ),
    _grpo(
        "MIS sequence",
        "sequence_mask 3 (TRL's default)",
        {"correction": {"weight": "sequence", "bound": "mask", "weight_max": 3.0}},
        vllm_importance_sampling_mode="sequence_mask",
    ),
    _grpo(
        "MIS, then KL",
        "sequence_mask 3, beta 0.04, uncorrected",
        {"correction": {"weight": "sequence", "bound": "mask", "weight_max": 3.0}, "kl_coef": 0.04},
        vllm_importance_sampling_mode="sequence_mask",
        beta=0.04,
        use_bias_correction_kl=False,
    ),
    _grpo(
        "no log-prob",
        "token_truncate 1.5, sampler gave nan",
        {"correction": {"weight": "token", "weight_max": 1.5}},
        rows=with_missing_logprobs,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=1.5,
    ),
    _grpo(
        "OPSM",
        "off_policy_mask_threshold 0.1",
        {"correction": {"off_policy_threshold": 0.1}},
        off_policy_mask_threshold=0.1,
    ),
    _grpo(
        "OPSM",
        "the same, sampler gave nan",
        {"correction": {"off_policy_threshold": 0.1}},
        rows=with_missing_logprobs,
        off_policy_mask_threshold=0.1,
        claim=Claim.DIFFERS,
        reason="a token without log-prob: no difference in TRL, the learner's own before the step in ours",
    ),
    LossCase(
        peer=PEER,
        algorithm="async",
        settings="AsyncGRPO, GA 1",
        reference=partial(trl.async_loss, settings=trl.Settings()),
        ours={"loss": {"kind": "clipped"}, "correction": {"ratio_base": "behavior"}},
    ),
    LossCase(
        peer=PEER,
        algorithm="async",
        settings="AsyncGRPO, GA 2",
        reference=partial(trl.async_loss, settings=trl.Settings(gradient_accumulation_steps=2)),
        ours={"loss": {"kind": "clipped"}, "correction": {"ratio_base": "behavior"}},
        claim=Claim.DIFFERS,
        reason="AsyncGRPO averages token means of micro-batches; ours is one mean over the step",
    ),
]

ADVANTAGES = [
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="scale_rewards group, some unscored",
        reference=partial(trl.advantages, scale_rewards="group"),
        ours={"kind": "grpo"},
        has_unjudged=True,
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="scale_rewards none, some unscored",
        reference=partial(trl.advantages, scale_rewards="none"),
        ours={"kind": "dr_grpo"},
        has_unjudged=True,
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="scale_rewards batch",
        reference=partial(trl.advantages, scale_rewards="batch"),
        ours={"kind": "batch_norm", "eps": 1e-8},
        claim=Claim.DIFFERS,
        reason="TRL divides by the deviation of raw rewards; ours of rewards minus their group's mean (ScaleRL)",
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="GDPO",
        settings="normalize_then_sum",
        reference=trl.decoupled_advantages,
        ours={"kind": "gdpo"},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="GDPO",
        settings="normalize_then_sum, one scored in a group",
        reference=trl.decoupled_advantages,
        ours={"kind": "gdpo"},
        has_unjudged=True,
        claim=Claim.DIFFERS,
        reason="TRL counts a lone scored row as 0 in the batch's mean and deviation; ours leaves it out",
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="AsyncGRPO, some unscored",
        reference=trl.async_advantages,
        ours={"kind": "grpo", "eps": 1e-8},
        has_unjudged=True,
        claim=Claim.DIFFERS,
        reason="AsyncGRPO takes the deviation with n, GRPOTrainer and ours with n - 1",
    ),
    OverlongCase(
        peer=PEER,
        algorithm="overlong",
        settings="soft overlong, cache 4",
        reference=partial(trl.soft_overlong, max_completion_len=MAX_COMPLETION_TOKENS, soft_punish_cache=4),
        buffer_tokens=4,
        penalty=1.0,
    ),
]

CASES: tuple[Case, ...] = (*LOSSES, *CORRECTIONS, *ADVANTAGES)
