"""Corrections for tokens that another policy sampled: importance weights and masks, all without gradient.

With d = own - behavior log-probs at each loss token (own: the learner's, before the step) the weight is

    token       exp(clamp(d, +-20))                        TIS with TRUNCATE, IcePop (arXiv:2510.18855) with MASK
    sequence    exp(clamp(sum of d over the row, +-20))    the product over the row's tokens, on each of them

and outside [weight_min, weight_max] it is clamped to the bound (TRUNCATE) or 0 (MASK: inside, the weight itself
stays). Two more masks take whole sequences out:

    geometric     exp(mean of d over the row) outside [geometric_min, geometric_max]            (geo-RS, MIS)
    off-policy    mean advantage of the row < 0 and mean of (behavior - policy) > threshold     (OPSM, DeepSeek-V3.2,
                  arXiv:2512.02556), policy = this forward pass

Sums and means run over loss tokens only. A mask makes the weight 0 and changes no denominator. Decoupled PPO
(arXiv:2110.00641; AReaL, arXiv:2505.24298) is a ratio over the proximal policy times such a weight.

Peers: TRL's sequence modes are the product too; verl clamps the log weight at +-20, TRL does not; SkyRL's and verl's
geometric masks test the same mean; OpenRLHF and NeMo RL leave the token weights under that mask unbounded, which is
weight_max large enough here. AReaL's token mask has no lower bound (weight_min 0).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithms.kl import MAX_LOG_RATIO
from rlvr.importance_weights import WeightBound, WeightLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The settings of a correction; `PolicyLoss.correction` may be replaced by a stricter one during a run.

    geometric_max 0: no geometric mask. off_policy_threshold: nats per token; 0: no off-policy mask.
    """

    level: WeightLevel = WeightLevel.NONE
    bound: WeightBound = WeightBound.TRUNCATE
    weight_min: float = 0.0
    weight_max: float = 2.0
    geometric_min: float = 0.0
    geometric_max: float = 0.0
    off_policy_threshold: float = 0.0

    @property
    def weight_bounds(self) -> tuple[float, float]:
        """The bounds of the weight: [weight_min, weight_max], or none where no weight is applied."""
        return (0.0, math.inf) if self.level is WeightLevel.NONE else (self.weight_min, self.weight_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeights:
    """The factor of each token's loss, and its cause.

    weights: 0 on masked tokens and outside the loss mask. truncated, masked: loss tokens whose weight was clamped to
    a bound, or set to 0. masked_rows: rows that a sequence-level mask took out.
    """

    weights: Float[Tensor, "batch seq"]
    truncated: Bool[Tensor, "batch seq"]
    masked: Bool[Tensor, "batch seq"]
    masked_rows: Bool[Tensor, " batch"]


@torch.no_grad()
def token_weights(
    correction: Correction,
    *,
    own_logprobs: Float[Tensor, "batch seq"],
    policy_logprobs: Float[Tensor, "batch seq"],
    behavior_logprobs: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, "batch seq"],
    loss_mask: Bool[Tensor, "batch seq"],
    is_ratio_over_behavior: bool,
) -> TokenWeights:
    """The weight of every token under a correction; see the module for the formulas.

    Args:
        own_logprobs: the learner's before the step, nats. policy_logprobs: of this forward pass; they may be the same.
        behavior_logprobs: finite; where the engine returned none, the learner's own (weight 1).
        is_ratio_over_behavior: the loss's ratio already contains own / behavior. Then no weight is applied (it would
            correct twice): truncation has no effect, and masks work as usual.

    >>> own = torch.tensor([[0.5, 0.9, 0.2], [0.5, 0.2, 0.6]]).log()
    >>> seen = dict(own_logprobs=own, policy_logprobs=own, behavior_logprobs=torch.full((2, 3), 0.5).log(),
    ...             advantages=torch.ones(2, 3), loss_mask=torch.ones(2, 3, dtype=torch.bool),
    ...             is_ratio_over_behavior=False)
    >>> tis = Correction(level=WeightLevel.TOKEN, weight_max=1.5)
    >>> [[round(x, 4) for x in row] for row in token_weights(tis, **seen).weights.tolist()]
    [[1.0, 1.5, 0.4], [1.0, 0.4, 1.2]]
    >>> icepop = Correction(level=WeightLevel.TOKEN, bound=WeightBound.MASK, weight_min=0.5, weight_max=1.5)
    >>> [[round(x, 4) for x in row] for row in token_weights(icepop, **seen).weights.tolist()]
    [[1.0, 0.0, 0.0], [1.0, 0.0, 1.2]]
    >>> product = Correction(level=WeightLevel.SEQUENCE, weight_max=2.0)  # 1 * 1.8 * 0.4 and 1 * 0.4 * 1.2
    >>> [[round(x, 4) for x in row] for row in token_weights(product, **seen).weights.tolist()]
    [[0.72, 0.72, 0.72], [0.48, 0.48, 0.48]]
    """
    count = loss_mask.sum(1).clamp(min=1)
    log_weight = torch.where(loss_mask, own_logprobs - behavior_logprobs, 0.0)
    weight = _raw_weight(correction.level, log_weight)
    lower, upper = correction.weight_bounds
    is_outside = ((weight < lower) | (weight > upper)) & loss_mask
    masked_rows = torch.zeros_like(loss_mask[:, 0])
    if correction.geometric_max > 0.0:
        mean = torch.exp(log_weight.sum(1) / count)
        masked_rows |= (mean < correction.geometric_min) | (mean > correction.geometric_max)
    if correction.off_policy_threshold > 0.0:
        gap = torch.where(loss_mask, behavior_logprobs - policy_logprobs, 0.0).sum(1) / count
        is_negative = torch.where(loss_mask, advantages, 0.0).sum(1) < 0
        masked_rows |= is_negative & (gap > correction.off_policy_threshold)
    nowhere = torch.zeros_like(loss_mask)
    if correction.bound is WeightBound.MASK:
        if correction.level is WeightLevel.SEQUENCE:
            masked_rows |= is_outside.any(1)
        masked, truncated = is_outside | (masked_rows[:, None] & loss_mask), nowhere
    else:
        masked = masked_rows[:, None] & loss_mask
        truncated = is_outside & ~masked
        weight = weight.clamp(lower, upper)
    if is_ratio_over_behavior:
        weight, truncated = torch.ones_like(weight), nowhere
    return TokenWeights(
        weights=torch.where(loss_mask & ~masked, weight, 0.0),
        truncated=truncated,
        masked=masked,
        masked_rows=masked_rows,
    )


def stricter(correction: Correction) -> Correction | None:
    """The next correction for a run whose mismatch has left its band; None when there is none left.

    Four rungs, each a setting in common use, each keeping settings that are already as strict:

        no weight                          -> token weights truncated at 2 (TIS; the default of verl and SkyRL)
        truncated at m                     -> masked outside [1 / m, m], m = weight_max but 2 at the least (IcePop)
        no geometric mask                  -> sequences outside [0.99, 1.01] masked (SkyRL's bounds)
        masked, with a geometric mask      -> None

    >>> rung = stricter(Correction())
    >>> rung == Correction(level=WeightLevel.TOKEN, bound=WeightBound.TRUNCATE, weight_max=2.0)
    True
    >>> rung = stricter(rung)
    >>> rung.bound, rung.weight_min, rung.weight_max
    (<WeightBound.MASK: 'mask'>, 0.5, 2.0)
    >>> rung = stricter(rung)
    >>> rung.geometric_min, rung.geometric_max, stricter(rung)
    (0.99, 1.01, None)
    """
    if correction.level is WeightLevel.NONE:
        return replace(correction, level=WeightLevel.TOKEN, bound=WeightBound.TRUNCATE, weight_min=0.0, weight_max=2.0)
    if correction.bound is WeightBound.TRUNCATE:
        upper = max(2.0, correction.weight_max)
        lower = max(correction.weight_min, 1.0 / upper)
        return replace(correction, bound=WeightBound.MASK, weight_min=lower, weight_max=upper)
    if correction.geometric_max == 0.0:
        return replace(correction, geometric_min=0.99, geometric_max=1.01)
    return None


def _raw_weight(level: WeightLevel, log_weight: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    if level is WeightLevel.NONE:
        return torch.ones_like(log_weight)
    if level is WeightLevel.SEQUENCE:
        log_weight = log_weight.sum(1, keepdim=True).expand_as(log_weight)
    return torch.exp(log_weight.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
