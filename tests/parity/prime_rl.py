"""prime-rl's formulas (repository PrimeIntellect-ai/prime-rl, commit 559b4477, August 2026)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Scalar, exp, still, total
from tests.parity.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`DefaultLossConfig`. ipo_threshold: where set, the symmetric mask of `ipo_loss_fn` in place of the signed one."""

    dppo_mask_low: float = 0.2
    dppo_mask_high: float = 0.2
    adv_tau: float = 1.0
    kl_tau: float = 1e-3
    ipo_threshold: float | None = None


def loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """src/prime_rl/trainer/rl/loss.py, `default_loss_fn`, over `rl_scale`: all loss tokens of the step.

    The ratio is not detached and not clamped; its base is the sampler. A token with A = 0 takes the low test, which
    changes only the reported mask rate.
    """
    tokens: list[Scalar] = []
    for row in rows:
        for a, b in zip(row.logprobs_T, row.behavior_T, strict=True):
            x = a - b
            keep = float(is_kept(still(a), b, row.advantage, settings))
            tokens.append(settings.kl_tau * (x * x) - keep * settings.adv_tau * row.advantage * exp(x))
    return total(tokens) / max(len(tokens), 1)


def is_kept(logprob: float, behavior: float, advantage: float, settings: Settings) -> bool:
    """Whether the token's probability moved no farther than the mask allows in the direction of its advantage."""
    moved = math.exp(logprob) - math.exp(behavior)
    if settings.ipo_threshold is not None:
        return abs(moved) <= settings.ipo_threshold
    return moved <= settings.dppo_mask_high if advantage > 0 else moved >= -settings.dppo_mask_low


def grpo_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """src/prime_rl/orchestrator/algo/grpo.py: reward minus the group's mean, no deviation."""
    return [[r - _mean(group) for r in group.rewards_G if r is not None] for group in groups]


def max_rl_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """src/prime_rl/orchestrator/algo/max_rl.py: (reward - mean) / mean, 0 where the mean is not positive."""
    result: list[list[float]] = []
    for group in groups:
        mean = _mean(group)
        rewards = [r for r in group.rewards_G if r is not None]
        result.append([(r - mean) / mean if mean > 0 else 0.0 for r in rewards])
    return result


def _mean(group: GroupRewards) -> float:
    return statistics.fmean(r for r in group.rewards_G if r is not None)
