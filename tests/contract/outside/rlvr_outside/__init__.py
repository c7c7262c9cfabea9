"""A package that is not part of rlvr: a loss, an advantage and a rollout engine (`engine`) of its own."""

from collections.abc import Sequence

import torch

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.token_losses import TokenInputs, TokenLoss


def smooth_clip(inputs: TokenInputs, *, width: float = 0.5) -> TokenLoss:
    """The ratio pulled towards 1 by a tanh in place of a clip: L = -(1 + w tanh((r - 1) / w)) A."""
    log_ratio = (inputs.logprobs - inputs.base_logprobs.detach()).clamp(-20.0, 20.0)
    ratio = 1.0 + width * torch.tanh((torch.exp(log_ratio) - 1.0) / width)
    nowhere = torch.zeros_like(inputs.loss_mask)
    return TokenLoss(loss=-ratio * inputs.advantages.detach(), cut_low=nowhere, cut_high=nowhere)


smooth_clip.is_scaled_by_advantage = True  # type: ignore[attr-defined] # rlvr looks it up by name


def best_of_group(groups: Sequence[GroupRewards], *, scale: float = 1.0) -> list[list[float | None]]:
    """The distance to the best judged reward of the group, centred."""
    rows: list[list[float | None]] = []
    for group in groups:
        judged = [reward for reward in group.rewards_G if reward is not None]
        if len(judged) < 2 or max(judged) == min(judged):
            rows.append([None if r is None or len(judged) < 2 else 0.0 for r in group.rewards_G])
            continue
        gaps = [None if r is None else scale * (r - max(judged)) for r in group.rewards_G]
        mean = sum(gap for gap in gaps if gap is not None) / len(judged)
        rows.append([None if gap is None else gap - mean for gap in gaps])
    return rows
