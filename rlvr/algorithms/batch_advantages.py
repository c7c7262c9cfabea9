"""Advantages that are normalised over all groups of a step.

Like in `advantages`, they are None where a rollout could not be judged, and for a whole group with too few judged
rollouts; such a group does not enter the statistics of the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards, centred

BATCH_NORM_BASELINE_MIN_JUDGED = 2
GDPO_MIN_JUDGED = 2


@dataclass(frozen=True, slots=True)
class _Moments:
    """Mean and variance with Bessel's correction; None where fewer than two were counted, or all are equal."""

    mean: float
    variance: float


def batch_norm_advantages(
    groups: Sequence[GroupRewards], *, has_group_baseline: bool, is_token_weighted: bool, eps: float
) -> list[list[float | None]]:
    """Rewards, minus their group's mean if wanted, whitened over all judged rollouts of the step (REINFORCE++).

    A = (x - mean(x)) / sqrt(var(x) + eps), x = r or r - mean of its group (arXiv:2501.03262, REINFORCE++ and
    REINFORCE++ with baseline; ScaleRL, arXiv:2510.13786, divides the latter by the batch's std). Rollouts count once
    in mean and var, or once for each of their loss tokens. With N the sum of counts, var has Bessel's correction,
    N / (N - 1): over tokens this is verl's and SkyRL's masked_whiten, eps 1e-8 under the root included (verl adds
    1e-8 to N besides).

    A group of equal rewards: with a group baseline and rollouts counted once, exactly 0, since the mean over groups
    is 0 by construction and is not subtracted. Counted by tokens that mean is not 0 (long rollouts pull it), so such
    a group gets -mean / sqrt(var + eps), as in verl. Without a baseline it gets the value of its reward within the
    batch, as intended. A batch of equal x gets exactly 0 everywhere. A single judged rollout: with a baseline None;
    without, it is whitened with the others, and 0 when it is the only one of the batch.

    Args:
        eps: > 0, squared unit of the reward.

    Returns: for each group one advantage per rollout, None where unjudged or, with a group baseline, where fewer than 2
        rollouts of the group were judged. Sum, weighted as counted, 0 over the batch.

    >>> one = GroupRewards(rewards_G=[1.0, 0.0, 0.0], parts_G=[{}] * 3, weights={}, num_tokens_G=[2, 1, 1])
    >>> two = GroupRewards(rewards_G=[1.0, 1.0, 1.0], parts_G=[{}] * 3, weights={}, num_tokens_G=[1, 1, 4])
    >>> def rounded(**how):
    ...     rows = batch_norm_advantages([one, two], eps=1e-8, **how)
    ...     return [[round(a, 4) for a in row] for row in rows]
    >>> rounded(has_group_baseline=True, is_token_weighted=False)  # var = (4/9 + 1/9 + 1/9) / 5
    [[1.8257, -0.9129, -0.9129], [0.0, 0.0, 0.0]]
    >>> rounded(has_group_baseline=False, is_token_weighted=False)  # mean 4/6, var 4/15
    [[0.6455, -1.291, -1.291], [0.6455, 0.6455, 0.6455]]
    >>> rounded(has_group_baseline=False, is_token_weighted=True)  # mean 8/10, var 16/90
    [[0.4743, -1.8974, -1.8974], [0.4743, 0.4743, 0.4743]]
    >>> rounded(has_group_baseline=True, is_token_weighted=True)  # mean 1/15, var (10/9 - 2/45) / 9 = 16/135
    [[1.7428, -1.1619, -1.1619], [-0.1936, -0.1936, -0.1936]]
    """
    values_by_group = [
        centred(group.rewards_G, min_judged=BATCH_NORM_BASELINE_MIN_JUDGED)
        if has_group_baseline
        else list(group.rewards_G)
        for group in groups
    ]
    counted = [
        (value, tokens if is_token_weighted else 1)
        for group, values_G in zip(groups, values_by_group, strict=True)
        for value, tokens in zip(values_G, group.num_tokens_G, strict=True)
        if value is not None
    ]
    is_centred = has_group_baseline and not is_token_weighted
    moments = _moments(counted, mean=0.0 if is_centred else None)
    if moments is None:
        return _zeros(values_by_group)
    std = math.sqrt(moments.variance + eps)
    return [
        [None if value is None else (value - moments.mean) / std for value in values_G] for values_G in values_by_group
    ]


def gdpo_advantages(groups: Sequence[GroupRewards], *, eps: float) -> list[list[float | None]]:
    """Each check normalised in its group, summed by weight, then over the batch's deviation (GDPO, arXiv:2601.05242).

    With s_k the score of check k (part / weight), mean and std (n - 1) over the group's judged rollouts:

        z_k = (s_k - mean(s_k)) / (std(s_k) + eps)
        S   = sum over k of weight_k z_k + (p - mean(p))      p = reward - sum of its parts
        A   = S / (std(S) + eps)

    std(S) over all judged rollouts of the batch, with Bessel's correction. This is TRL's normalize_then_sum at eps
    1e-4; TRL also subtracts the batch's mean of S, which is 0 by construction. So checks of different spread count by
    their weights, and a check on which a group agrees adds exactly 0.

    p is the remainder of the reward, the length and KL penalties. It is centred and not scaled: scaled, a
    KL penalty of 1e-3 would weigh as much as a check. Without penalties p is 0.

    Args:
        eps: > 0, without unit, small compared with the spread of a score.

    Returns: for each group one advantage per rollout, None where unjudged; all None in a group with fewer than 2 judged
        rollouts. A group of equal scores gets exactly 0. Sums to 0 over each group.

    >>> group = GroupRewards(
    ...     rewards_G=[2.5, 2.0, 0.5], weights={"right": 2.0, "format": 0.5}, num_tokens_G=[1, 1, 1],
    ...     parts_G=[{"right": 2.0, "format": 0.5}, {"right": 2.0, "format": 0.0}, {"right": 0.0, "format": 0.5}])
    >>> same = GroupRewards(
    ...     rewards_G=[2.5] * 3, weights=group.weights, num_tokens_G=[1, 1, 1], parts_G=[group.parts_G[0]] * 3)
    >>> rows = gdpo_advantages([group, same], eps=1e-4)
    >>> [[round(a, 4) for a in row] for row in rows]  # S = 1.443, 0.577, -2.020 before std(S) = 1.140
    [[1.2658, 0.5063, -1.7721], [0.0, 0.0, 0.0]]
    """
    sums_by_group = [_weighted_scores(group, eps=eps) for group in groups]
    counted = [(value, 1) for sums_G in sums_by_group for value in sums_G if value is not None]
    moments = _moments(counted, mean=0.0)
    if moments is None:
        return _zeros(sums_by_group)
    std = math.sqrt(moments.variance)
    return [[None if value is None else value / (std + eps) for value in sums_G] for sums_G in sums_by_group]


def _weighted_scores(group: GroupRewards, *, eps: float) -> list[float | None]:
    """S of each judged rollout of a group; all None when fewer than 2 were judged."""
    judged = [reward is not None for reward in group.rewards_G]
    if sum(judged) < GDPO_MIN_JUDGED:
        return [None] * len(judged)
    terms: list[list[float]] = []
    for name in sorted({name for parts in group.parts_G for name in parts}):
        weight = group.weights[name]
        if weight > 0.0:
            scores_G = [
                parts[name] / weight if is_judged and name in parts else None
                for is_judged, parts in zip(judged, group.parts_G, strict=True)
            ]
            terms.append([weight * z for z in _normalised(scores_G, eps=eps)])
    penalties_G = [
        None if reward is None else reward - math.fsum(parts.values())
        for reward, parts in zip(group.rewards_G, group.parts_G, strict=True)
    ]
    terms.append([penalty or 0.0 for penalty in centred(penalties_G, min_judged=GDPO_MIN_JUDGED)])
    return [math.fsum(term[i] for term in terms) if is_judged else None for i, is_judged in enumerate(judged)]


def _normalised(values_G: Sequence[float | None], *, eps: float) -> list[float]:
    """Values minus their mean over their deviation plus eps; 0 where there is no value, or no spread."""
    centred_G = centred(values_G, min_judged=2)
    moments = _moments([(value, 1) for value in centred_G if value is not None], mean=0.0)
    if moments is None:
        return [0.0] * len(values_G)
    std = math.sqrt(moments.variance)
    return [0.0 if value is None else value / (std + eps) for value in centred_G]


def _moments(counted: Sequence[tuple[float, int]], *, mean: float | None) -> _Moments | None:
    """Moments of (value, count) pairs, about `mean` if it is known; None when there is nothing to compare."""
    num = sum(count for _, count in counted)
    values = {value for value, count in counted if count}
    if num < 2 or len(values) < 2:
        return None
    if mean is None:
        mean = math.fsum(value * count for value, count in counted) / num
    spread = math.fsum(count * (value - mean) ** 2 for value, count in counted)
    return _Moments(mean=mean, variance=spread / (num - 1))


def _zeros(values_by_group: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    return [[None if value is None else 0.0 for value in values_G] for values_G in values_by_group]
