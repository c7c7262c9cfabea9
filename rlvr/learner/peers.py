"""What a learner asks of the other processes that share its optimiser step; with one process, nothing."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


@runtime_checkable
class Peers(Protocol):
    """The processes of one optimiser step, this one included.

    Where they share a model in pieces, each pass of it needs all of them: none may run it more often than another.
    """

    rank: int
    size: int

    def most(self, count: int) -> int:
        """The largest of the counts that the processes give."""
        ...

    def even_out(self, model: PreTrainedModel) -> Tensor | None:
        """Called after the last pass of `model`: makes as many empty passes as another process still makes real ones.

        Returns: 0 with a graph through those passes, to be part of the backward pass; None when there were none.
        """
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def most(self, count: int) -> int:
        """The count itself."""
        return count

    def even_out(self, model: PreTrainedModel) -> Tensor | None:
        """Nothing."""
        return None


def total_norm(gradients: Iterable[Tensor]) -> float:
    """The Euclidean norm over all gradients, and over all their shards."""
    norm = torch.nn.utils.get_total_norm(list(gradients))
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
