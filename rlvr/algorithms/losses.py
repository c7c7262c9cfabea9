"""The losses: log-probs and a batch in, a numerator and metrics out. No division happens here (see aggregation)."""

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithms.aggregation import Aggregator
from rlvr.algorithms.kl import MAX_LOG_RATIO, KlFunction, k3
from rlvr.batch import Batch, LossOutput


def clipped_surrogate(
    logprobs: Float[Tensor, "batch seq"],
    *,
    base_logprobs: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, "batch seq"],
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "batch seq"]:
    """The token loss of PPO with two bounds (arXiv:1707.06347, eq. 7; clip-higher: DAPO, arXiv:2503.14476, eq. 10).

    L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),  r = exp(clamp(logprobs - base_logprobs, +-20)).
    TRL and verl agree; verl's extra dual clip (c = 3 for A < 0) is not applied here.

    Args:
        base_logprobs: of the behavior policy, or of the proximal one; no gradient flows into them.

    >>> lp, base = torch.log(torch.tensor([[0.5, 0.9, 0.5]])), torch.log(torch.tensor([[0.5, 0.5, 0.9]]))
    >>> adv = torch.tensor([[1.0, 1.0, -1.0]])
    >>> loss = clipped_surrogate(lp, base_logprobs=base, advantages=adv, clip_low=0.2, clip_high=0.28)
    >>> [round(x, 4) for x in loss[0].tolist()]
    [-1.0, -1.28, 0.8]
    """
    ratio = torch.exp((logprobs - base_logprobs.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


class PolicyLoss:
    """The clipped surrogate plus an optional KL to the reference, aggregated; state is only its settings."""

    def __init__(
        self,
        *,
        clip_low: float,
        clip_high: float,
        aggregator: Aggregator,
        kl_coef: float,
        kl: KlFunction,
    ) -> None:
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.aggregator = aggregator
        self.kl_coef = kl_coef
        self.kl = kl

    def __call__(self, logprobs: Float[Tensor, "batch seq"], *, batch: Batch) -> LossOutput:
        """The numerator over these rows, with clip and mismatch metrics as (sum, count).

        The ratio's base is `batch.proximal_logprobs` where present, else `batch.behavior_logprobs`.

        Args:
            logprobs: nats, in float32 or wider; entries outside `batch.loss_mask` are ignored.
        """
        base = (
            batch.behavior_logprobs if batch.proximal_logprobs is None else batch.proximal_logprobs
        )
        # What lies outside the mask may be anything, even nan: it is replaced before any arithmetic.
        mask = batch.loss_mask
        logprobs = torch.where(mask, logprobs, 0.0)
        base = torch.where(mask, base, 0.0).to(logprobs.dtype)
        behavior = torch.where(mask, batch.behavior_logprobs, 0.0).to(logprobs.dtype)
        weights = self.aggregator.weights(mask).to(logprobs.dtype)
        token_loss = clipped_surrogate(
            logprobs,
            base_logprobs=base,
            advantages=batch.advantages.to(logprobs.dtype),
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
        metrics = self._metrics(logprobs.detach(), base=base, behavior=behavior, batch=batch)
        if batch.ref_logprobs is not None:
            ref = torch.where(mask, batch.ref_logprobs, 0.0).to(logprobs.dtype)
            token_loss = token_loss + self.kl_coef * self.kl(logprobs, ref_logprobs=ref)
            estimate = k3(logprobs.detach(), ref_logprobs=ref)
            metrics["policy/kl_k3"] = (float(estimate[mask].sum()), float(mask.sum()))
        loss_sum = (token_loss * weights).sum()
        return LossOutput(loss_sum=loss_sum, metrics=metrics)

    def _metrics(
        self,
        logprobs: Float[Tensor, "batch seq"],
        *,
        base: Float[Tensor, "batch seq"],
        behavior: Float[Tensor, "batch seq"],
        batch: Batch,
    ) -> dict[str, tuple[float, float]]:
        """Shares and mismatch over loss tokens; `max_` entries are maxima and not sums (count 0 says so)."""
        mask = batch.loss_mask
        count = float(mask.sum())
        ratio = torch.exp((logprobs - base).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        low = (ratio < 1 - self.clip_low) & (batch.advantages < 0) & mask
        high = (ratio > 1 + self.clip_high) & (batch.advantages > 0) & mask
        # The learner's own log-probs of the same weights: the proximal ones, or those of this very forward pass.
        own = logprobs if batch.proximal_logprobs is None else base
        log_weight = (own - behavior)[mask].double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        weight = torch.exp(log_weight)
        clamped = ((logprobs - base).abs() > MAX_LOG_RATIO) & mask
        return {
            "policy/clip_rate": (float((low | high).sum()), count),
            "policy/clip_low_rate": (float(low.sum()), count),
            "policy/clip_high_rate": (float(high.sum()), count),
            "policy/clamped_log_ratios": (float(clamped.sum()), 1.0),
            "mismatch/kl_k3": (float((weight - log_weight - 1).sum()), count),
            "mismatch/mean_abs_logprob_diff": (float(log_weight.abs().sum()), count),
            "mismatch/max_abs_logprob_diff": (float(log_weight.abs().max()) if count else 0.0, 0.0),
            "mismatch/weight_sum": (float(weight.sum()), 1.0),
            "mismatch/weight_square_sum": (float(weight.square().sum()), 1.0),
        }


class SupervisedLoss:
    """Cross-entropy on loss tokens (the cold start): minus the sum of log-probs, averaged over tokens at the end."""

    def __init__(self, *, aggregator: Aggregator) -> None:
        self.aggregator = aggregator

    def __call__(self, logprobs: Float[Tensor, "batch seq"], *, batch: Batch) -> LossOutput:
        """The numerator of the mean negative log-likelihood, nats."""
        masked = torch.where(batch.loss_mask, logprobs, 0.0)
        weights = self.aggregator.weights(batch.loss_mask).to(logprobs.dtype)
        return LossOutput(loss_sum=-(masked * weights).sum(), metrics={})
