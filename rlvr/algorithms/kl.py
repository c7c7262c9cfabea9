"""Estimators of KL(policy || reference) from the log-probs of sampled tokens.

Schulman, "Approximating KL divergence" (2020). With x = ref_logprobs - logprobs, per token, in nats:
    k1 = -x            unbiased, may be negative
    k2 = x^2 / 2       biased, its gradient is the true KL's on-policy
    k3 = e^x - x - 1   unbiased, never negative
x is clamped to +-20 before exp (as in verl; TRL does not clamp). The result is not clamped (verl clamps to +-10).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOG_RATIO = 20.0


@runtime_checkable
class KlFunction(Protocol):
    """Policy and reference log-probs in, the estimate at each token out."""

    def __call__(
        self, logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq"]: ...


def k1(logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """k1 at each token: logprobs - ref_logprobs.

    >>> k1(torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-1.5]])).tolist()
    [[0.5]]
    """
    return logprobs - ref_logprobs


def k2(logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """k2 at each token: half the squared difference.

    >>> k2(torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-1.5]])).tolist()
    [[0.125]]
    """
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """k3 at each token: e^x - x - 1.

    >>> round(k3(torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-1.5]])).item(), 4)
    0.1065
    """
    x = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.exp(x) - x - 1


@torch.no_grad()
def kl_penalties(
    behavior_logprobs: Float[Tensor, "batch seq"],
    *,
    ref_logprobs: Float[Tensor, "batch seq"],
    loss_mask: Bool[Tensor, "batch seq"],
    coef: float,
    estimator: KlFunction,
) -> Float[Tensor, " batch"]:
    """The KL penalty to subtract from each row's reward: coef * (sum over its loss tokens).

    The KL in the reward (arXiv:1909.08593, eq. 2) is that of the policy that sampled, as a constant: no gradient
    flows. With k1 it may be negative, a bonus. A token whose behavior log-prob is not finite was not measured and adds
    nothing. verl (`use_kl_in_reward`) charges each token in place, with the learner's log-probs before the step: the
    same sum for advantages that take one score a completion, up to its clamp of k3 to +-10.

    >>> kl_penalties(torch.tensor([[-1.0, -1.0], [-1.0, 9.0]]), ref_logprobs=torch.tensor([[-1.5, -2.0], [-0.5, 9.0]]),
    ...              loss_mask=torch.tensor([[True, True], [True, False]]), coef=0.5, estimator=k1).tolist()
    [0.75, -0.25]
    """
    measured = loss_mask & torch.isfinite(behavior_logprobs)
    behavior = torch.where(measured, behavior_logprobs, 0.0)
    ref = torch.where(measured, ref_logprobs, 0.0).to(behavior.dtype)
    return coef * estimator(behavior, ref_logprobs=ref).sum(1)
