"""Aggregates token losses into a numerator and a denominator.

The numerator is summed over micro-batches, calls and ranks; the denominator is global and divides once. So the
gradient does not depend on how rows are laid out. Each aggregator returns per-token weights w, with
loss = sum(w * token_loss) / denominator:

    token_mean       w = 1            denominator = loss tokens       (DAPO, arXiv:2503.14476, eq. 8)
    sequence_mean    w = 1 / |o_i|    denominator = completions       (GRPO, arXiv:2402.03300, eq. 3)
    constant_length  w = 1 / L        denominator = completions       (Dr. GRPO, arXiv:2503.20783, L = the limit)
    prompt_mean      w = 1 / |q_i|    denominator = prompts           (ScaleRL, arXiv:2510.13786, prompt averaging)

|o_i| is the number of loss tokens of row i, |q_i| that of all rows of its group. The denominators count the collated
tokens: a mask that a correction sets later changes neither them nor w.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rlvr.batch import Batch, Denominators


@runtime_checkable
class Aggregator(Protocol):
    """Weights of tokens, and the global count that divides their sum."""

    def weights(self, batch: Batch) -> Float[Tensor, "batch seq"]:
        """0 where the loss mask is False."""
        ...

    def denominator(self, counts: Denominators) -> int:
        """At least 1."""
        ...


class TokenMean:
    """Every loss token counts the same."""

    def weights(self, batch: Batch) -> Float[Tensor, "batch seq"]:
        """1 on loss tokens."""
        return batch.loss_mask.float()

    def denominator(self, counts: Denominators) -> int:
        """All loss tokens of the optimiser step."""
        return counts.num_loss_tokens


class SequenceMean:
    """Every completion counts the same, whatever its length."""

    def weights(self, batch: Batch) -> Float[Tensor, "batch seq"]:
        """1 / (loss tokens of the row)."""
        mask = batch.loss_mask
        return mask.double() / mask.sum(1, keepdim=True).clamp(min=1)

    def denominator(self, counts: Denominators) -> int:
        """All completions of the optimiser step."""
        return counts.num_sequences


class ConstantLength:
    """Every token counts the same, with no length normalisation: the sum over a constant."""

    def __init__(self, max_completion_tokens: int) -> None:
        self.max_completion_tokens = max_completion_tokens

    def weights(self, batch: Batch) -> Float[Tensor, "batch seq"]:
        """1 / max_completion_tokens."""
        return batch.loss_mask.double() / self.max_completion_tokens

    def denominator(self, counts: Denominators) -> int:
        """All completions of the optimiser step."""
        return counts.num_sequences


class PromptMean:
    """Every prompt counts the same, and within a prompt every token."""

    def weights(self, batch: Batch) -> Float[Tensor, "batch seq"]:
        """1 / (loss tokens of the row's group, on whichever micro-batch or rank they are)."""
        return batch.loss_mask.double() / batch.group_num_tokens.clamp(min=1)[:, None]

    def denominator(self, counts: Denominators) -> int:
        """All prompts of the optimiser step."""
        return counts.num_prompts
