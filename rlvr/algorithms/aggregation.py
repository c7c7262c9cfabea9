"""From token losses to the numerator of one number, and its denominator.

The numerator is summed over micro-batches, calls and ranks; the denominator is global and divides once. So the
gradient does not depend on how rows are laid out. Each function returns per-token weights w, with
loss = sum(w * token_loss) / denominator:

    token_mean       w = 1               denominator = loss tokens       (DAPO, arXiv:2503.14476, eq. 8)
    sequence_mean    w = 1 / |o_i|       denominator = completions       (GRPO, arXiv:2402.03300, eq. 3)
    constant_length  w = 1 / L           denominator = completions       (Dr. GRPO, arXiv:2503.20783, L = the limit)

|o_i| is the number of loss tokens of row i.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.batch import Denominators


@runtime_checkable
class Aggregator(Protocol):
    """Weights of tokens, and which global count divides."""

    def weights(self, loss_mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
        """0 where the mask is False."""
        ...

    def denominator(self, counts: Denominators) -> int:
        """At least 1."""
        ...


class TokenMean:
    """Every loss token counts the same."""

    def weights(self, loss_mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
        """1 on loss tokens."""
        return loss_mask.float()

    def denominator(self, counts: Denominators) -> int:
        """All loss tokens of the optimiser step."""
        return counts.num_loss_tokens


class SequenceMean:
    """Every completion counts the same, whatever its length."""

    def weights(self, loss_mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
        """1 / (loss tokens of the row)."""
        return loss_mask.float() / loss_mask.sum(1, keepdim=True).clamp(min=1)

    def denominator(self, counts: Denominators) -> int:
        """All completions of the optimiser step."""
        return counts.num_sequences


class ConstantLength:
    """Every token counts the same and no length is divided out: the sum over a constant."""

    def __init__(self, max_completion_tokens: int) -> None:
        self.max_completion_tokens = max_completion_tokens

    def weights(self, loss_mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
        """1 / max_completion_tokens."""
        return loss_mask.float() / self.max_completion_tokens

    def denominator(self, counts: Denominators) -> int:
        """All completions of the optimiser step."""
        return counts.num_sequences
