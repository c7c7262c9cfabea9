"""AReaL's formulas (repository inclusionAI/AReaL, commit 4aef98d8, May 2026)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Scalar, clamp, exp, greater, lesser, total
from tests.parity.rows import Row

EPS = 1e-5  # NormConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of `PPOActorConfig` and `RejectionSamplingConfig` that the loss reads, under AReaL's names.

    rejection_upper: None = no rejection sampling. The metric is the ratio proximal / behavior.
    """

    eps_clip: float = 0.4
    eps_clip_higher: float | None = None
    c_clip: float | None = None
    importance_sampling_level: str = "token"
    rejection_upper: float | None = None
    rejection_lower: float | None = None
    rejection_action: str = "mask"
    rejection_level: str = "token"


def loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """areal/utils/functional/functional.py, `ppo_actor_loss_fn`: the decoupled loss.

    The sum over tokens that were kept, over the count of tokens before any was rejected.
    """
    high = settings.eps_clip if settings.eps_clip_higher is None else settings.eps_clip_higher
    tokens: list[Scalar] = []
    for row in rows:
        log_ratios: list[Scalar] = [a - b for a, b in zip(row.logprobs_T, row.proximal_T, strict=True)]
        if settings.importance_sampling_level == "sequence":
            log_ratios = [total(log_ratios) / row.num_tokens] * row.num_tokens
        for log_ratio, weight in zip(log_ratios, behavior_weights(row, settings), strict=True):
            ratio = exp(log_ratio)
            clipped = clamp(ratio, 1.0 - settings.eps_clip, 1.0 + high)
            token = greater(-row.advantage * ratio, -row.advantage * clipped)
            if settings.c_clip is not None:
                token = lesser(token, abs(row.advantage) * settings.c_clip)
            tokens.append(token * weight)
    return total(tokens) / len(tokens)


def behavior_weights(row: Row, settings: Settings) -> list[float]:
    """`apply_rejection_sampling` with the ratio metric; a sequence's weight is the geometric mean of its tokens'."""
    if settings.rejection_upper is None:
        return [1.0] * row.num_tokens
    log_ratios = [p - b for p, b in zip(row.proximal_T, row.behavior_T, strict=True)]
    if settings.rejection_level == "sequence":
        log_ratios = [sum(log_ratios) / row.num_tokens] * row.num_tokens
    weights = [math.exp(x) for x in log_ratios]
    low = -math.inf if settings.rejection_lower is None else settings.rejection_lower
    if settings.rejection_action == "mask":
        return [w if low <= w <= settings.rejection_upper else 0.0 for w in weights]
    return [min(max(w, max(low, 0.0)), settings.rejection_upper) for w in weights]


def gsm8k_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """examples/math/gsm8k_grpo.yaml: (r - 0.5) * 10, normalised in the group, then over the batch's tokens.

    areal/utils/data.py, `Normalization`, twice: std with Bessel's correction plus 1e-5 each time.
    """
    first: list[list[float]] = []
    for group in groups:
        scaled = [(r - 0.5) * 10.0 for r in group.rewards_G if r is not None]
        mean, std = statistics.fmean(scaled), statistics.stdev(scaled)
        first.append([(s - mean) / (std + EPS) for s in scaled])
    pairs = [
        (a, n) for row, group in zip(first, groups, strict=True) for a, n in zip(row, group.num_tokens_G, strict=True)
    ]
    tokens = sum(n for _, n in pairs)
    mean = math.fsum(a * n for a, n in pairs) / tokens
    variance = math.fsum((a - mean) ** 2 * n for a, n in pairs) / (tokens - 1)
    return [[(a - mean) / (math.sqrt(variance) + EPS) for a in row] for row in first]


def group_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """The same with group normalisation alone: std with Bessel's correction plus 1e-5."""
    result: list[list[float]] = []
    for group in groups:
        rewards = [r for r in group.rewards_G if r is not None]
        mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
        result.append([(r - mean) / (std + EPS) for r in rewards])
    return result
