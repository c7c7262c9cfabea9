"""Estimators of KL(policy || reference) from the log-probs of sampled tokens.

Schulman, "Approximating KL divergence" (2020). With x = ref_logprobs - logprobs, per token, in nats:
    k1 = -x            unbiased, may be negative
    k2 = x^2 / 2       biased, its gradient is the true KL's on-policy
    k3 = e^x - x - 1   unbiased, never negative
x is clamped to +-20 before exp (as in verl; TRL does not clamp). The result is not clamped (verl clamps to +-10).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

MAX_LOG_RATIO = 20.0


@runtime_checkable
class KlFunction(Protocol):
    """Policy and reference log-probs in, the estimate at each token out."""

    def __call__(
        self, logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq"]: ...


def k1(
    logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """k1 at each token: logprobs - ref_logprobs.

    >>> k1(torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-1.5]])).tolist()
    [[0.5]]
    """
    return logprobs - ref_logprobs


def k2(
    logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """k2 at each token: half the squared difference.

    >>> k2(torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-1.5]])).tolist()
    [[0.125]]
    """
    return (logprobs - ref_logprobs).square() / 2


def k3(
    logprobs: Float[Tensor, "batch seq"], *, ref_logprobs: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """k3 at each token: e^x - x - 1.

    >>> round(k3(torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-1.5]])).item(), 4)
    0.1065
    """
    x = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.exp(x) - x - 1
