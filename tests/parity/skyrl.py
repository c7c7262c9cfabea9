"""SkyRL's formulas (repository NovaSky-AI/SkyRL, commit a9564572, August 2026).

The reduction is divided into the advantages before micro-batching, and the loss is then a plain sum.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Scalar, clamp, exp, lesser, still, total
from tests.parity.rows import Row

MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of `AlgorithmConfig` that the loss reads, under SkyRL's names."""

    policy_loss_type: str = "regular"
    loss_reduction: str = "token_mean"
    eps_clip_low: float = 0.2
    eps_clip_high: float = 0.2
    clip_ratio_c: float = 3.0
    cispo_eps_clip_low: float = 1.0
    cispo_eps_clip_high: float = 4.0
    delta_low: float = 0.2
    delta_high: float = 0.2
    max_seq_len: int = 12
    kl_loss_coef: float = 0.0
    tis_ratio_type: str | None = None
    tis_ratio_clip_high: float = 2.0
    sequence_mask_metric: str | None = None
    sequence_mask_low: float = 0.99
    sequence_mask_high: float = 1.01
    token_mask_low: float | None = None
    token_mask_high: float | None = None


def loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """skyrl/backends/skyrl_train/utils/ppo_utils.py: `ppo_policy_loss`, `gspo_policy_loss`,
    `compute_policy_loss_cispo`, `dppo_policy_loss`, with `apply_off_policy_correction` after them.

    KL (workers/worker.py) is the mean over rows of each row's token mean, whatever `loss_reduction` says.
    """
    tokens: list[Scalar] = []
    for row, scale in zip(rows, reduction_scales(rows, settings), strict=True):
        weights = correction_weights(row, settings)
        mean = sum(still(a) - b for a, b in zip(row.logprobs_T, row.proximal_T, strict=True))
        mean /= row.num_tokens
        for t, weight in enumerate(weights):
            tokens.append(_token_loss(row, t, row.advantage * scale, mean, settings) * weight)
    policy = total(tokens)
    if not settings.kl_loss_coef:
        return policy
    kls = [total(_k3(row, t) for t in range(row.num_tokens)) / row.num_tokens for row in rows]
    return policy + settings.kl_loss_coef * total(kls) / len(kls)


def _token_loss(row: Row, t: int, advantage: float, mean_log_ratio: float, settings: Settings) -> Scalar:
    logprob = row.logprobs_T[t]
    low, high = 1.0 - settings.eps_clip_low, 1.0 + settings.eps_clip_high
    if settings.policy_loss_type == "gspo":
        ratio = exp(logprob - still(logprob) + min(mean_log_ratio, 10.0))
        return -lesser(ratio * advantage, clamp(ratio, low, high) * advantage)
    if settings.policy_loss_type == "dppo":  # the ratio starts from the sampler
        moved = math.exp(still(logprob)) - math.exp(row.behavior_T[t])
        is_far = (advantage > 0 and moved > settings.delta_high) or (advantage < 0 and -moved > settings.delta_low)
        ratio = exp(clamp(logprob - row.behavior_T[t], -MAX_LOG_RATIO, MAX_LOG_RATIO))
        return -(ratio * advantage * float(not is_far))
    ratio = exp(clamp(logprob - row.proximal_T[t], -MAX_LOG_RATIO, MAX_LOG_RATIO))
    if settings.policy_loss_type == "cispo":
        bounds = (1.0 - settings.cispo_eps_clip_low, 1.0 + settings.cispo_eps_clip_high)
        return -advantage * still(clamp(ratio, *bounds)) * logprob
    clipped = -lesser(ratio * advantage, clamp(ratio, low, high) * advantage)
    if settings.policy_loss_type == "dual_clip" and advantage < 0:
        return lesser(clipped, -advantage * settings.clip_ratio_c)
    return clipped


def reduction_scales(rows: Sequence[Row], settings: Settings) -> list[float]:
    """`apply_loss_reduction_to_advantages_minibatch`: what each row's advantage is multiplied by."""
    all_tokens = sum(row.num_tokens for row in rows)
    prompts = {row.group for row in rows}
    prompt_tokens = {p: sum(r.num_tokens for r in rows if r.group == p) for p in prompts}
    by_reduction = {
        "token_mean": lambda row: 1.0 / all_tokens,
        "sequence_mean": lambda row: 1.0 / (len(rows) * row.num_tokens),
        "seq_mean_token_sum_norm": lambda row: 1.0 / (len(rows) * settings.max_seq_len),
        "prompt_mean": lambda row: 1.0 / (len(prompts) * prompt_tokens[row.group]),
    }
    return [by_reduction[settings.loss_reduction](row) for row in rows]


def correction_weights(row: Row, settings: Settings) -> list[float]:
    """utils/off_policy_correction_utils.py: truncated weights times masks; masks alone carry no weight."""
    log_ratios = [p - b for p, b in zip(row.proximal_T, row.behavior_T, strict=True)]
    ratios = [_safe_exp(x) for x in log_ratios]
    weights = [1.0] * row.num_tokens
    if settings.tis_ratio_type == "token":
        weights = [min(r, settings.tis_ratio_clip_high) for r in ratios]
    if settings.tis_ratio_type == "sequence":
        product = min(_safe_exp(sum(log_ratios)), settings.tis_ratio_clip_high)
        weights = [product] * row.num_tokens
    if settings.token_mask_low is not None and settings.token_mask_high is not None:
        low, high = settings.token_mask_low, settings.token_mask_high
        weights = [w * float(low <= r <= high) for w, r in zip(weights, ratios, strict=True)]
    if settings.sequence_mask_metric is not None:
        is_geometric = settings.sequence_mask_metric == "geometric"
        ratio = _safe_exp(sum(log_ratios) / (row.num_tokens if is_geometric else 1))
        is_in = settings.sequence_mask_low <= ratio <= settings.sequence_mask_high
        weights = [w * float(is_in) for w in weights]
    return weights


def _safe_exp(x: float) -> float:
    return math.exp(min(max(x, -MAX_LOG_RATIO), MAX_LOG_RATIO))


def _k3(row: Row, t: int) -> Scalar:
    x = clamp(row.ref_T[t] - row.logprobs_T[t], -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return clamp(exp(x) - x - 1.0, -10.0, 10.0)


def maxrl_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """`compute_maxrl_advantage`: (reward - mean) / (mean + 1e-6) in the group."""
    result: list[list[float]] = []
    for group in groups:
        rewards = [r for r in group.rewards_G if r is not None]
        mean = statistics.fmean(rewards)
        result.append([(r - mean) / (mean + 1e-6) for r in rewards])
    return result
