"""From the rewards of a group to advantages.

A reward is None where a rollout could not be judged: it leaves the baseline, and its advantage is None, so that it
leaves the loss too. Each function states how many judged rollouts it needs (`MIN_JUDGED`).
"""

import math
from collections.abc import Sequence

GRPO_MIN_JUDGED = 2


def grpo_advantages(rewards_G: Sequence[float | None], *, eps: float) -> list[float | None]:
    """Rewards minus the group's mean, over its standard deviation (GRPO, arXiv:2402.03300, section 4.1.2).

    A_i = (r_i - mean(r)) / (std(r) + eps), mean and std over the judged rollouts; std with Bessel's correction
    (n - 1), as in TRL, verl and SkyRL; eps is added to std (TRL 1e-4, verl 1e-6). A group of equal rewards gets
    exactly 0 everywhere. Sums to 0 over the judged rollouts.

    Args:
        rewards_G: one reward a rollout, None where unjudged.
        eps: > 0, same unit as the reward.

    Returns: one advantage a rollout, None where unjudged; all None when fewer than 2 rollouts were judged.

    >>> [round(a, 4) for a in grpo_advantages([1.0, 0.0, 0.0], eps=1e-4)]
    [1.1545, -0.5773, -0.5773]
    >>> grpo_advantages([1.0, None, 1.0], eps=1e-4)
    [0.0, None, 0.0]
    """
    judged = [reward for reward in rewards_G if reward is not None]
    if len(judged) < GRPO_MIN_JUDGED:
        return [None] * len(rewards_G)
    mean = math.fsum(judged) / len(judged)
    if max(judged) == min(judged):  # rounding in the mean must not become a gradient
        return [None if reward is None else 0.0 for reward in rewards_G]
    std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in judged) / (len(judged) - 1))
    return [None if reward is None else (reward - mean) / (std + eps) for reward in rewards_G]
