"""The token losses: the loss of one sampled token, before corrections, KL and aggregation.

With ratio r = exp(clamp(logprobs - base_logprobs, +-20)) and advantage A, at each token:

    clipped           -min(r A, clip(r, 1 - low, 1 + high) A), for A < 0 at most -c A     PPO, DAPO, dual clip
    gspo              the same with one ratio per sequence, exp(mean log r), and no c      GSPO
    cispo             -stop_gradient(clamp(r, min, max)) A logprob                         MiniMax-M1
    sapo              -(4 / tau) sigmoid(tau (r - 1)) A                                    SAPO
    dppo              -keep r A + coef log(r_behavior)^2                                   DPPO, prime-rl
    policy_gradient   -A logprob                                                           REINFORCE

Where every ratio is 1, all six have the same gradient, -A at each token's log-prob (gspo: summed over a row of equal
advantages). Their values differ: clipped, gspo and dppo are -A, sapo is -2 A / tau, cispo and policy_gradient are
-A logprob. So the reported loss of one cannot be compared with that of another.

No gradient flows into base, behavior or advantages. Values outside the loss mask must be finite and are ignored.
The numbers in the examples are those of `worked_example`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithms.kl import MAX_LOG_RATIO


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInputs:
    """The inputs of a token loss; log-probs in nats.

    base_logprobs: of the policy in the ratio's denominator, behavior or proximal. behavior_logprobs: of the policy
    that sampled.
    """

    logprobs: Float[Tensor, "batch seq"]
    base_logprobs: Float[Tensor, "batch seq"]
    behavior_logprobs: Float[Tensor, "batch seq"]
    advantages: Float[Tensor, "batch seq"]
    loss_mask: Bool[Tensor, "batch seq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """The loss of each token, and where its bound took effect.

    cut_low, cut_high: tokens whose ratio fell below, or rose above, a bound that removed their gradient (cispo: that
    bounded it).
    """

    loss: Float[Tensor, "batch seq"]
    cut_low: Bool[Tensor, "batch seq"]
    cut_high: Bool[Tensor, "batch seq"]


@runtime_checkable
class TokenLossFunction(Protocol):
    """A token loss with its settings bound."""

    def __call__(self, inputs: TokenInputs) -> TokenLoss: ...


def clipped(inputs: TokenInputs, *, clip_low: float, clip_high: float, dual_clip: float) -> TokenLoss:
    """The clipped surrogate (PPO, arXiv:1707.06347, eq. 7; two bounds: DAPO, arXiv:2503.14476, eq. 10).

    L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), and min(L, -dual_clip A) where A < 0 (dual-clip PPO,
    arXiv:1912.09729). TRL's `delta` is the same bound; verl always applies it, with 3.

    Args:
        dual_clip: above 1 + clip_high; 0 = off.

    >>> out = clipped(worked_example(), clip_low=0.2, clip_high=0.28, dual_clip=1.5)
    >>> [[round(x, 4) for x in row] for row in out.loss.tolist()]
    [[-1.0, -1.28, -0.4], [1.0, 0.8, 1.5]]
    """
    ratio = torch.exp(_log_ratio(inputs))
    out = _surrogate(ratio, inputs.advantages, clip_low=clip_low, clip_high=clip_high)
    if dual_clip == 0.0:
        return out
    is_negative = inputs.advantages < 0
    bounded = torch.minimum(out.loss, -inputs.advantages * dual_clip)
    return TokenLoss(
        loss=torch.where(is_negative, bounded, out.loss),
        cut_low=out.cut_low,
        cut_high=out.cut_high | (is_negative & (ratio > dual_clip)),
    )


def gspo(inputs: TokenInputs, *, clip_low: float, clip_high: float) -> TokenLoss:
    """The clipped surrogate with one ratio per sequence (GSPO, arXiv:2507.18071, eq. 5 and 7).

    s_i = exp(clamp(sum of log r over the loss tokens of row i / max(1, their number), +-20)), differentiable through
    all of them; each token's loss is -min(s_i A, clip(s_i, 1 - clip_low, 1 + clip_high) A). With the aggregation
    sequence_mean this is GSPO, and value and gradient are those of TRL's `importance_sampling_level="sequence"`
    (which does not clamp). verl lets each token's gradient pass through that token alone; for advantages that are
    equal over a row the gradient is the same. verl clamps log s at 10 and aggregates by sequence_mean whatever is
    configured.

    >>> out = gspo(worked_example(), clip_low=0.05, clip_high=0.05)  # s = (1 * 1.8 * 0.4) ** (1 / 3) in both rows
    >>> [[round(x, 4) for x in row] for row in out.loss.tolist()]
    [[-0.8963, -0.8963, -0.8963], [0.95, 0.95, 0.95]]
    """
    mask = inputs.loss_mask
    log_ratio = torch.where(mask, inputs.logprobs - inputs.base_logprobs.detach(), 0.0)
    mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    ratio = torch.exp(mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)).expand_as(log_ratio)
    return _surrogate(ratio, inputs.advantages, clip_low=clip_low, clip_high=clip_high)


def cispo(inputs: TokenInputs, *, ratio_min: float, ratio_max: float) -> TokenLoss:
    """REINFORCE with a bounded ratio as its weight (CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5).

    L = -stop_gradient(clamp(r, ratio_min, ratio_max)) A logprob. The bounds are absolute, like TRL's `epsilon_high`
    (which has no lower one); verl and SkyRL state them relative to 1, so their 4 is ratio_max 5. No token loses its
    gradient: cut_low and cut_high are those whose weight is at a bound.

    >>> out = cispo(worked_example(), ratio_min=0.5, ratio_max=1.5)  # weights 1, 1.5, 0.5 and 1, 0.5, 1.5
    >>> [[round(x, 4) for x in row] for row in out.loss.tolist()]
    [[0.6931, 0.158, 0.8047], [-0.6931, -0.8047, -0.158]]
    """
    ratio = torch.exp(_log_ratio(inputs)).detach()
    weight = ratio.clamp(ratio_min, ratio_max)
    return TokenLoss(
        loss=-weight * inputs.advantages * inputs.logprobs, cut_low=ratio < ratio_min, cut_high=ratio > ratio_max
    )


def sapo(inputs: TokenInputs, *, tau_positive: float, tau_negative: float) -> TokenLoss:
    """A soft gate on the ratio in place of a clip (SAPO, arXiv:2511.20347).

    L = -(4 / tau) sigmoid(tau (r - 1)) A, tau = tau_positive where A > 0, else tau_negative. As in TRL and verl
    (verl aggregates by sequence_mean whatever is configured). No token loses its gradient: it fades as r leaves 1,
    by the factor 4 s (1 - s) with s the sigmoid.

    >>> out = sapo(worked_example(), tau_positive=1.0, tau_negative=1.05)
    >>> [[round(x, 4) for x in row] for row in out.loss.tolist()]
    [[-2.0, -2.7599, -1.4174], [1.9048, 1.3238, 2.6608]]
    """
    ratio = torch.exp(_log_ratio(inputs))
    positive, negative = ratio.new_full((), tau_positive), ratio.new_full((), tau_negative)
    tau = torch.where(inputs.advantages > 0, positive, negative)
    loss = -4.0 / tau * torch.sigmoid(tau * (ratio - 1.0)) * inputs.advantages
    nowhere = torch.zeros_like(inputs.loss_mask)
    return TokenLoss(loss=loss, cut_low=nowhere, cut_high=nowhere)


def dppo(inputs: TokenInputs, *, max_decrease: float, max_increase: float, log_ratio_coef: float) -> TokenLoss:
    """The unclipped ratio, without tokens whose probability moved too far (DPPO, arXiv:2602.04879, binary TV).

    With d = exp(logprobs) - exp(behavior_logprobs) and x = clamp(logprobs - behavior_logprobs, +-20):
    L = -keep r A + log_ratio_coef x^2, keep = not ((A > 0 and d > max_increase) or (A < 0 and d < -max_decrease)).

    d and x are always relative to the behavior policy, whose samples limit what can be learned from them.
    r is relative to the base as in every other loss, so that corrections compose. With the base behavior (ratio_base:
    behavior) this is prime-rl's default loss, which clamps neither r nor x and tests A <= 0 for a decrease (the same
    value and gradient: only its count of dropped tokens differs, at A = 0). prime-rl's coefficients are 0.2, 0.2
    and 1e-3; the paper has no x^2 term.

    >>> out = dppo(worked_example(), max_decrease=0.2, max_increase=0.2, log_ratio_coef=0.001)
    >>> [[round(x, 4) for x in row] for row in out.loss.tolist()]  # d = 0, 0.4, -0.3 and 0, -0.3, 0.4
    [[-1.0, 0.0003, -0.3992], [1.0, 0.0008, 1.8003]]
    """
    behavior = inputs.behavior_logprobs.detach()
    moved = torch.exp(inputs.logprobs.detach()) - torch.exp(behavior)
    cut_low = (inputs.advantages < 0) & (moved < -max_decrease)
    cut_high = (inputs.advantages > 0) & (moved > max_increase)
    surrogate = -torch.exp(_log_ratio(inputs)) * inputs.advantages
    distance = (inputs.logprobs - behavior).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).square()
    loss = torch.where(cut_low | cut_high, 0.0, surrogate) + log_ratio_coef * distance
    return TokenLoss(loss=loss, cut_low=cut_low, cut_high=cut_high)


def policy_gradient(inputs: TokenInputs) -> TokenLoss:
    """REINFORCE: L = -A logprob, without any ratio (Williams 1992).

    >>> [[round(x, 4) for x in row] for row in policy_gradient(worked_example()).loss.tolist()]
    [[0.6931, 0.1054, 1.6094], [-0.6931, -1.6094, -0.1054]]
    """
    nowhere = torch.zeros_like(inputs.loss_mask)
    return TokenLoss(loss=-inputs.advantages * inputs.logprobs, cut_low=nowhere, cut_high=nowhere)


def worked_example() -> TokenInputs:
    """2 x 3 tokens of base and behavior probability 0.5, with ratios 1, 1.8, 0.4 (A = 1) and 1, 0.4, 1.8 (A = -1)."""
    probs = torch.tensor([[0.5, 0.9, 0.2], [0.5, 0.2, 0.9]], dtype=torch.float64)
    base = torch.full_like(probs, 0.5).log()
    return TokenInputs(
        logprobs=probs.log(),
        base_logprobs=base,
        behavior_logprobs=base,
        advantages=torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 3),
        loss_mask=torch.ones(2, 3, dtype=torch.bool),
    )


def _log_ratio(inputs: TokenInputs) -> Float[Tensor, "batch seq"]:
    difference = inputs.logprobs - inputs.base_logprobs.detach()
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _surrogate(
    ratio: Float[Tensor, "batch seq"], advantages: Float[Tensor, "batch seq"], *, clip_low: float, clip_high: float
) -> TokenLoss:
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return TokenLoss(
        loss=-torch.minimum(ratio * advantages, bounded * advantages),
        cut_low=(ratio < 1.0 - clip_low) & (advantages < 0),
        cut_high=(ratio > 1.0 + clip_high) & (advantages > 0),
    )
