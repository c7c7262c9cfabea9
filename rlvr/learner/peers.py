"""The interface to the other processes of an optimiser step; with one process it does nothing."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


@runtime_checkable
class Peers(Protocol):
    """The processes of one optimiser step, this one included.

    If they shard a model, each pass needs all of them, so all must make the same number of passes.
    """

    rank: int
    size: int

    def most(self, count: int) -> int:
        """The largest of the processes' counts."""
        ...

    def even_out(self, model: PreTrainedModel) -> Tensor | None:
        """Called after the last pass of `model`: runs empty passes while another process still makes real ones.

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
    """The Euclidean norm over all gradients, including all their shards."""
    norm = torch.nn.utils.get_total_norm(list(gradients))
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
