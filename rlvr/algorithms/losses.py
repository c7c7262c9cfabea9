"""The losses: log-probs and a batch in, a numerator and metrics out. No division happens here (see aggregation).

    numerator = sum over loss tokens of w (c L + kl_coef KL - entropy_coef H)

w: the aggregator's weight, L: the token loss (`token_losses`), c: the correction's weight (`corrections`), KL: of the
policy to the reference (`kl`), H: the entropy. KL and entropy are never importance weighted, and stay on tokens that a
correction masks, as in TRL (verl's rejection takes them out too, by editing its mask).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithms.aggregation import Aggregator
from rlvr.algorithms.corrections import Correction, TokenWeights, token_weights
from rlvr.algorithms.kl import MAX_LOG_RATIO, KlFunction, k3
from rlvr.algorithms.token_losses import TokenInputs, TokenLoss, TokenLossFunction
from rlvr.batch import Batch, LossOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The log-probs of a batch, 0 outside the loss mask and finite behavior ones, in one dtype.

    own: the learner's before the step, without gradient. is_missing: loss tokens whose behavior log-prob the engine
    did not return; there behavior is own.
    """

    logprobs: Float[Tensor, "batch seq"]
    own: Float[Tensor, "batch seq"]
    behavior: Float[Tensor, "batch seq"]
    advantages: Float[Tensor, "batch seq"]
    entropy: Float[Tensor, "batch seq"]
    ref: Float[Tensor, "batch seq"] | None
    is_missing: Bool[Tensor, "batch seq"]


class PolicyLoss:
    """A token loss with correction, KL and entropy terms, aggregated. Its settings are its only state.

    `correction` may be replaced between optimiser steps (see `corrections.stricter`).
    """

    def __init__(
        self,
        *,
        token_loss: TokenLossFunction,
        aggregator: Aggregator,
        correction: Correction,
        uses_proximal: bool,
        kl_coef: float,
        kl: KlFunction,
        entropy_coef: float,
        is_scaled_by_advantage: bool = False,
    ) -> None:
        """Args:
        uses_proximal: the ratio's denominator is the learner's log-probs before the step; else the engine's.
        kl_coef: of the KL term in the loss; 0 if it is placed in the reward, or off.
        is_scaled_by_advantage: whether value and gradient of `token_loss` are 0 where the advantage is.
        """
        self.token_loss = token_loss
        self.aggregator = aggregator
        self.correction = correction
        self.uses_proximal = uses_proximal
        self.kl_coef = kl_coef
        self.kl = kl
        self.entropy_coef = entropy_coef
        self._is_scaled_by_advantage = is_scaled_by_advantage

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether `entropy` must carry a gradient."""
        return self.entropy_coef > 0.0

    @property
    def is_zero_without_advantage(self) -> bool:
        """Whether rows whose advantages are all 0 have no gradient; KL and entropy terms would give them one."""
        return self._is_scaled_by_advantage and self.kl_coef == 0.0 and self.entropy_coef == 0.0

    def __call__(
        self, logprobs: Float[Tensor, "batch seq"], *, entropy: Float[Tensor, "batch seq"], batch: Batch
    ) -> LossOutput:
        """The numerator over these rows, with metrics as (sum, count).

        The learner's log-probs before the step are `batch.proximal_logprobs`; if that is None they are the detached
        `logprobs`: this forward pass is the first since the weights changed.

        Args:
            logprobs: nats; computed in float32 or wider. Outside `batch.loss_mask` they and every other tensor may
                be anything, even nan, and their gradient there is exactly 0.
            entropy: nats, with gradient where `needs_entropy_gradient`.

        Raises: ValueError when the KL term has no reference log-probs.
        """
        if self.kl_coef > 0.0 and batch.ref_logprobs is None:
            raise ValueError(
                f"kl_coef={self.kl_coef} needs batch.ref_logprobs, which is None: annotate the batch with a reference"
            )
        mask = batch.loss_mask
        seen = _masked(logprobs, entropy=entropy, batch=batch)
        token = self.token_loss(
            TokenInputs(
                logprobs=seen.logprobs,
                base_logprobs=seen.own if self.uses_proximal else seen.behavior,
                behavior_logprobs=seen.behavior,
                advantages=seen.advantages,
                loss_mask=mask,
            )
        )
        corrected = token_weights(
            self.correction,
            own_logprobs=seen.own,
            policy_logprobs=seen.logprobs.detach(),
            behavior_logprobs=seen.behavior,
            advantages=seen.advantages,
            loss_mask=mask,
            is_ratio_over_behavior=not self.uses_proximal,
        )
        total = token.loss * corrected.weights
        if self.kl_coef > 0.0 and seen.ref is not None:
            total = total + self.kl_coef * self.kl(seen.logprobs, ref_logprobs=seen.ref)
        if self.entropy_coef > 0.0:
            total = total - self.entropy_coef * seen.entropy
        weights = self.aggregator.weights(batch).to(total.dtype)
        metrics = _metrics(seen, token, corrected, mask=mask, uses_proximal=self.uses_proximal)
        return LossOutput(loss_sum=(total * weights).sum(), metrics=metrics)


def _masked(logprobs: Float[Tensor, "batch seq"], *, entropy: Float[Tensor, "batch seq"], batch: Batch) -> _Seen:
    """The values with those outside the mask, which may even be nan, replaced before any arithmetic."""
    mask = batch.loss_mask
    dtype = torch.promote_types(logprobs.dtype, torch.float32)

    def inside(tensor: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
        return torch.where(mask, tensor.to(dtype), 0.0)

    policy = inside(logprobs)
    proximal, ref = batch.proximal_logprobs, batch.ref_logprobs
    own = policy.detach() if proximal is None else inside(proximal).detach()
    behavior = inside(batch.behavior_logprobs).detach()
    is_missing = ~torch.isfinite(behavior)
    return _Seen(
        logprobs=policy,
        own=own,
        behavior=torch.where(is_missing, own, behavior),
        advantages=inside(batch.advantages).detach(),
        entropy=inside(entropy),
        ref=None if ref is None else inside(ref).detach(),
        is_missing=is_missing,
    )


@torch.no_grad()
def _metrics(
    seen: _Seen, token: TokenLoss, corrected: TokenWeights, *, mask: Bool[Tensor, "batch seq"], uses_proximal: bool
) -> Mapping[str, tuple[Tensor | float, Tensor | float]]:
    """Shares and mismatch over loss tokens; `max_` entries are maxima and not sums, marked by count 0.

    Sums are in float64: k3 of nearly equal policies is the difference of nearly equal numbers. They stay on the device.
    """
    policy = seen.logprobs.detach()
    base = seen.own if uses_proximal else seen.behavior
    difference = (seen.own - seen.behavior).double()
    log_weight = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    weight = torch.where(mask, torch.exp(log_weight), 0.0)
    cut_low, cut_high = token.cut_low & mask, token.cut_high & mask
    sums: dict[str, Tensor] = {
        "tokens": mask.sum(),
        "rows": mask.any(1).sum(),
        "policy/clip_rate": (cut_low | cut_high).sum(),
        "policy/clip_low_rate": cut_low.sum(),
        "policy/clip_high_rate": cut_high.sum(),
        "policy/clamped_log_ratios": ((policy - base).abs() > MAX_LOG_RATIO).sum(),
        "mismatch/kl_k3": torch.where(mask, torch.expm1(log_weight) - log_weight, 0.0).sum(),
        "mismatch/mean_abs_logprob_diff": difference.abs().sum(),
        "mismatch/max_abs_logprob_diff": difference.abs().max(),
        "mismatch/weight_sum": weight.sum(),
        "mismatch/weight_square_sum": weight.square().sum(),
        "mismatch/weight_mean": corrected.weights.double().sum(),
        "mismatch/truncated_weight_rate": corrected.truncated.sum(),
        "mismatch/masked_token_rate": corrected.masked.sum(),
        "mismatch/masked_sequence_rate": corrected.masked_rows.sum(),
        "mismatch/missing_logprobs": seen.is_missing.sum(),
    }
    if seen.ref is not None:
        sums["policy/kl_k3"] = k3(policy.double(), ref_logprobs=seen.ref.double()).sum()
    named = dict(zip(sums, torch.stack([value.double() for value in sums.values()]), strict=True))
    tokens, rows = named.pop("tokens"), named.pop("rows")
    return {name: (value, _count(name, tokens=tokens, rows=rows)) for name, value in named.items()}


def _count(name: str, *, tokens: Tensor, rows: Tensor) -> Tensor | float:
    """The divisor of a sum: loss tokens, except for these."""
    counts: dict[str, Tensor | float] = {
        "policy/clamped_log_ratios": 1.0,
        "mismatch/missing_logprobs": 1.0,
        "mismatch/weight_sum": 1.0,
        "mismatch/weight_square_sum": 1.0,
        "mismatch/max_abs_logprob_diff": 0.0,
        "mismatch/masked_sequence_rate": rows,
    }
    return counts.get(name, tokens)


class SupervisedLoss:
    """Cross-entropy on loss tokens (the cold start): minus the sum of log-probs, averaged over tokens at the end."""

    uses_proximal = False

    def __init__(self, *, aggregator: Aggregator) -> None:
        self.aggregator = aggregator

    @property
    def needs_entropy_gradient(self) -> bool:
        """False: the cross-entropy has no entropy term."""
        return False

    @property
    def is_zero_without_advantage(self) -> bool:
        """False: advantages are not read."""
        return False

    def __call__(
        self, logprobs: Float[Tensor, "batch seq"], *, entropy: Float[Tensor, "batch seq"], batch: Batch
    ) -> LossOutput:
        """The numerator of the mean negative log-likelihood, nats."""
        masked = torch.where(batch.loss_mask, logprobs, 0.0)
        weights = self.aggregator.weights(batch).to(logprobs.dtype)
        return LossOutput(loss_sum=-(masked * weights).sum(), metrics={})
