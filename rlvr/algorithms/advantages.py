"""From the rewards of one group to advantages; those that need the whole batch are in `batch_advantages`.

A reward is None where a rollout could not be judged: it leaves the baseline, and its advantage is None, so that it
leaves the loss too. A group with fewer judged rollouts than an advantage needs gets None everywhere. A group of equal
rewards gets exactly 0.0 on every judged rollout: sums are exact (`math.fsum`), and rounding never becomes a gradient.

With n judged rewards r of mean m:

    grpo        (r - m) / (std + eps), std with n - 1
    dr_grpo     r - m
    rloo        r - mean of the others = n / (n - 1) (r - m)
    maxrl       (r - m) / (m + eps)
    pass_at_k   of the event that one of k drawn rollouts passes

All of them sum to 0 over the judged rollouts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GRPO_MIN_JUDGED = 2
DR_GRPO_MIN_JUDGED = 2
RLOO_MIN_JUDGED = 2
MAXRL_MIN_JUDGED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRewards:
    """The inputs of advantages, for one group of G rollouts.

    rewards_G: None where unjudged. parts_G: weight * score by check name (they sum to the reward, before length and KL
    penalties). weights: of each check. num_tokens_G: loss tokens of each rollout.
    """

    rewards_G: Sequence[float | None]
    parts_G: Sequence[Mapping[str, float]]
    weights: Mapping[str, float]
    num_tokens_G: Sequence[int]


def grpo_advantages(rewards_G: Sequence[float | None], *, eps: float) -> list[float | None]:
    """Rewards minus the group's mean, over its standard deviation (GRPO, arXiv:2402.03300, section 4.1.2).

    A_i = (r_i - mean(r)) / (std(r) + eps), mean and std over the judged rollouts; std with Bessel's correction
    (n - 1), as in TRL, verl and SkyRL; eps is added to std (TRL 1e-4, verl 1e-6). A group of equal rewards gets
    exactly 0 everywhere. Sums to 0 over the judged rollouts. If only one rollout was judged, verl uses its raw reward;
    here it has no advantage.

    Args:
        rewards_G: one reward per rollout, None where unjudged.
        eps: > 0, same unit as the reward.

    Returns: one advantage per rollout, None where unjudged; all None when fewer than 2 rollouts were judged.

    >>> [round(a, 4) for a in grpo_advantages([1.0, 0.0, 0.0], eps=1e-4)]
    [1.1545, -0.5773, -0.5773]
    >>> grpo_advantages([1.0, None, 1.0], eps=1e-4)
    [0.0, None, 0.0]
    """
    centred_G = centred(rewards_G, min_judged=GRPO_MIN_JUDGED)
    of_judged = [c for c in centred_G if c is not None]
    if not any(of_judged):
        return centred_G
    std = math.sqrt(math.fsum(c * c for c in of_judged) / (len(of_judged) - 1))
    return [None if c is None else c / (std + eps) for c in centred_G]


def dr_grpo_advantages(rewards_G: Sequence[float | None]) -> list[float | None]:
    """Rewards minus the group's mean, not scaled (Dr. GRPO, arXiv:2503.20783, section 3.2; prime-rl's default).

    Returns: one advantage per rollout, None where unjudged; all None when fewer than 2 rollouts were judged.

    >>> [round(a, 4) for a in dr_grpo_advantages([1.0, 0.0, 0.0])]
    [0.6667, -0.3333, -0.3333]
    """
    return centred(rewards_G, min_judged=DR_GRPO_MIN_JUDGED)


def rloo_advantages(rewards_G: Sequence[float | None]) -> list[float | None]:
    """Rewards minus the mean of the group's other judged rewards (RLOO, arXiv:2402.14740).

    A_i = r_i - (sum(r) - r_i) / (n - 1) = n / (n - 1) (r_i - mean(r)), as in verl and SkyRL. If only one rollout was
    judged, verl uses its raw reward, SkyRL 0; here it has no advantage.

    Returns: one advantage per rollout, None where unjudged; all None when fewer than 2 rollouts were judged.

    >>> rloo_advantages([1.0, 0.0, 0.5])
    [0.75, -0.75, 0.0]
    """
    centred_G = centred(rewards_G, min_judged=RLOO_MIN_JUDGED)
    n = sum(c is not None for c in centred_G)
    return [None if c is None else n / (n - 1) * c for c in centred_G]


def maxrl_advantages(rewards_G: Sequence[float | None], *, eps: float) -> list[float | None]:
    """Rewards minus the group's mean, over that mean (MaxRL, arXiv:2602.02710).

    A_i = (r_i - mean(r)) / (mean(r) + eps), so that a rarely solved prompt weighs about 1 / solve rate. For
    rewards >= 0. A mean of 0 or less carries no such weight: exactly 0 everywhere (prime-rl too, which has no eps;
    SkyRL has eps 1e-6 and divides by a negative mean as well). Rewards >= 0 keep |A| <= n - 1; where a penalty made
    some negative, the mean may come close to 0 from above, and A is cut to +-(n - 1): then it need not sum to 0.

    Args:
        eps: > 0, same unit as the reward.

    Returns: one advantage per rollout, None where unjudged; all None when fewer than 2 rollouts were judged.

    >>> [round(a, 4) for a in maxrl_advantages([1.0, 0.0, 0.0], eps=1e-6)]
    [2.0, -1.0, -1.0]
    >>> maxrl_advantages([0.0, 0.0, 0.0], eps=1e-6)
    [0.0, 0.0, 0.0]
    """
    centred_G = centred(rewards_G, min_judged=MAXRL_MIN_JUDGED)
    judged = [reward for reward in rewards_G if reward is not None]
    mean = math.fsum(judged) / max(1, len(judged))
    if mean <= 0.0:
        return [None if c is None else 0.0 for c in centred_G]
    limit = len(judged) - 1.0
    return [None if c is None else max(-limit, min(limit, c / (mean + eps))) for c in centred_G]


def pass_at_k_advantages(rewards_G: Sequence[float | None], *, k: int, threshold: float) -> list[float | None]:
    """The advantage of pass@k, over all ways to draw k of the group's rollouts (arXiv:2508.10751, section 2.4).

    A rollout passes when its reward >= threshold; otherwise the reward is not used. So with partial rewards,
    weights or penalties set the threshold to the lowest reward that counts as solved. With n judged rollouts, f of them
    failing, and C the binomial coefficient:

        mean = 1 - C(f, k) / C(n, k)      std = sqrt(mean (1 - mean))      no eps: std is 0 or well above it
        A = (1 - mean) / std                                               of a rollout that passes
        A = (1 - mean - C(f - 1, k - 1) / C(n - 1, k - 1)) / std           of one that fails

    Where no k can be drawn without a pass (f < k), or none passes, every advantage is exactly 0. Sums to 0.

    Args:
        k: >= 2.
        threshold: same unit as the reward.

    Returns: one advantage per rollout, None where unjudged; all None when k or fewer rollouts were judged: a single
        pass would then be in every draw of k, and have no baseline.

    >>> [round(a, 4) for a in pass_at_k_advantages([1.0, 0.0, 0.0], k=2, threshold=1.0)]  # pass@2 = 1 - 1/3
    [0.7071, -0.3536, -0.3536]
    >>> pass_at_k_advantages([1.0, 1.0, 0.0], k=2, threshold=1.0)
    [0.0, 0.0, 0.0]
    """
    judged = [reward for reward in rewards_G if reward is not None]
    n = len(judged)
    if n < k + 1:
        return [None] * len(rewards_G)
    num_failed = sum(reward < threshold for reward in judged)
    fail_rate = math.comb(num_failed, k) / math.comb(n, k)
    if fail_rate in (0.0, 1.0):
        return [None if reward is None else 0.0 for reward in rewards_G]
    std = math.sqrt((1.0 - fail_rate) * fail_rate)
    passed = fail_rate / std
    failed = (fail_rate - math.comb(num_failed - 1, k - 1) / math.comb(n - 1, k - 1)) / std
    return [None if reward is None else (passed if reward >= threshold else failed) for reward in rewards_G]


def centred(values_G: Sequence[float | None], *, min_judged: int) -> list[float | None]:
    """Values minus their mean, None for None; all None when there are fewer than `min_judged` values.

    Equal values give exactly 0.0: the rounding of their mean must not become a gradient.

    >>> centred([1.0, None, 0.0], min_judged=2)
    [0.5, None, -0.5]
    """
    given = [value for value in values_G if value is not None]
    if len(given) < min_judged:
        return [None] * len(values_G)
    if max(given) == min(given):
        return [None if value is None else 0.0 for value in values_G]
    mean = math.fsum(given) / len(given)
    return [None if value is None else value - mean for value in values_G]
