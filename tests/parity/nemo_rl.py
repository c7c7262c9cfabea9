"""NeMo RL's formulas (repository NVIDIA-NeMo/RL, commit 7ea279ab, August 2026)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Scalar, clamp, exp, greater, lesser, still, total
from tests.parity.rows import Row

EPS = 1e-8  # masked_mean
STD_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of `ClippedPGLossConfig` that the loss reads, under NeMo RL's names and defaults (KL off)."""

    ratio_clip_min: float = 0.2
    ratio_clip_max: float = 0.2
    ratio_clip_c: float | None = None
    token_level_loss: bool = True
    sequence_level_importance_ratios: bool = False
    use_cispo: bool = False
    disable_ppo_ratio: bool = False
    reference_policy_kl_penalty: float = 0.0
    use_importance_sampling_correction: bool = False
    truncated_importance_sampling_type: str | None = None
    truncated_importance_sampling_ratio: float = 2.0
    truncated_importance_sampling_ratio_min: float = 0.0
    seq_logprob_error_threshold: float | None = None


def loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """nemo_rl/algorithms/loss/loss_functions.py, `ClippedPGLossFn.__call__`.

    Global counts are those of the rows that the log-prob error threshold left (`sample_mask`).
    """
    rows = [row for row in rows if _is_kept(row, settings)]
    policy = [_policy_tokens(row, settings) for row in rows]
    value = _reduce(policy, settings)
    if settings.reference_policy_kl_penalty:
        kls = [[_kl(row, t) for t in range(row.num_tokens)] for row in rows]
        value = value + settings.reference_policy_kl_penalty * _reduce(kls, settings)
    return value


def _reduce(losses: Sequence[Sequence[Scalar]], settings: Settings) -> Scalar:
    if settings.token_level_loss:
        return total(x for row in losses for x in row) / (sum(map(len, losses)) + EPS)
    return total(total(row) / (len(row) + EPS) for row in losses) / (len(losses) + EPS)


def _policy_tokens(row: Row, settings: Settings) -> list[Scalar]:
    log_ratios: list[Scalar] = [a - b for a, b in zip(row.logprobs_T, row.proximal_T, strict=True)]
    if settings.sequence_level_importance_ratios:
        log_ratios = [total(log_ratios) / (row.num_tokens + EPS)] * row.num_tokens
    weights = importance_weights(row, settings)
    tokens: list[Scalar] = []
    for logprob, log_ratio, weight in zip(row.logprobs_T, log_ratios, weights, strict=True):
        ratio = exp(log_ratio)
        clipped = clamp(ratio, 1.0 - settings.ratio_clip_min, 1.0 + settings.ratio_clip_max)
        if settings.disable_ppo_ratio:
            token = -row.advantage * logprob
        elif settings.use_cispo:
            token = -row.advantage * still(clipped) * logprob
        else:
            token = greater(-row.advantage * ratio, -row.advantage * clipped)
        if settings.ratio_clip_c is not None and row.advantage < 0:
            token = lesser(token, -row.advantage * settings.ratio_clip_c)
        tokens.append(token * weight)
    return tokens


def importance_weights(row: Row, settings: Settings) -> list[float]:
    """The same function, actor_importance_weights: tis clamps, icepop zeroes, seq-mask-tis drops whole rows.

    A row kept by seq-mask-tis keeps its raw token weights, without any bound.
    """
    if not settings.use_importance_sampling_correction:
        return [1.0] * row.num_tokens
    log_ratios = [p - b for p, b in zip(row.proximal_T, row.behavior_T, strict=True)]
    geometric_mean = math.exp(sum(log_ratios) / (row.num_tokens + EPS))
    if settings.sequence_level_importance_ratios:
        log_ratios = [sum(log_ratios)] * row.num_tokens
    weights = [math.exp(x) for x in log_ratios]
    low = settings.truncated_importance_sampling_ratio_min
    high = settings.truncated_importance_sampling_ratio
    by_type = {
        None: lambda w: w,
        "tis": lambda w: min(max(w, low), high),
        "icepop": lambda w: w if low <= w <= high else 0.0,
        "seq-mask-tis": lambda w: w if low <= geometric_mean <= high else 0.0,
    }
    return [by_type[settings.truncated_importance_sampling_type](w) for w in weights]


def _kl(row: Row, t: int) -> Scalar:
    """nemo_rl/algorithms/utils.py, `calculate_kl`: k3 times a weight of value 1 with the sampling's gradient."""
    logprob = row.logprobs_T[t]
    x = row.ref_T[t] - logprob
    held = clamp(x, -20.0, 20.0)
    sampling = exp(logprob - still(logprob)) if held is x else 1.0
    return clamp(sampling * (exp(held) - 1.0 - held), -10.0, 10.0)


def _is_kept(row: Row, settings: Settings) -> bool:
    """nemo_rl/algorithms/grpo.py, `compute_and_apply_seq_logprob_error_masking`."""
    if settings.seq_logprob_error_threshold is None:
        return True
    errors = [math.exp(abs(b - p)) for p, b in zip(row.proximal_T, row.behavior_T, strict=True)]
    return sum(errors) / len(errors) <= settings.seq_logprob_error_threshold


def grpo_advantages(
    groups: Sequence[GroupRewards], *, leave_one_out: bool = True, normalize: bool = True
) -> list[list[float]]:
    """nemo_rl/algorithms/advantage_estimator.py, `GRPOAdvantageEstimator`, over
    nemo_rl/algorithms/utils.py, `calculate_baseline_and_std_per_prompt`.

    Leave-one-out takes mean AND deviation of the others, so each rollout is divided by a deviation of its own, and one
    whose others are all equal is not divided at all.
    """
    result: list[list[float]] = []
    for group in groups:
        rewards = [r for r in group.rewards_G if r is not None]
        row: list[float] = []
        for i, reward in enumerate(rewards):
            others = [r for j, r in enumerate(rewards) if j != i or not leave_one_out]
            n = len(others)
            mean = sum(others) / n
            variance = (sum(r * r for r in others) / n - mean * mean) * n / (n - 1)
            std = math.sqrt(variance) if variance > 1e-12 else 0.0
            divisor = std + STD_EPS if normalize and std > 0 else 1.0
            row.append((reward - mean) / divisor)
        result.append(row)
    return result


def reinforce_plus_plus_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """`ReinforcePlusPlusAdvantageEstimator`: minus the group's mean, whitened over tokens, variance with n."""
    centred: list[list[tuple[float, int]]] = []
    for group in groups:
        rewards = [r for r in group.rewards_G if r is not None]
        mean = sum(rewards) / len(rewards)
        centred.append([(r - mean, n) for r, n in zip(rewards, group.num_tokens_G, strict=True)])
    tokens = sum(n for row in centred for _, n in row)
    mean = sum(a * n for row in centred for a, n in row) / tokens
    variance = sum((a - mean) ** 2 * n for row in centred for a, n in row) / tokens
    scale = 1.0 / math.sqrt(max(variance, 1e-8))
    return [[(a - mean) * scale for a, _ in row] for row in centred]
