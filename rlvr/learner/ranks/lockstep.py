"""Keeps the ranks of a sharded model in lockstep, however many passes each one's rows need.

A pass of a model sharded by FSDP2 gathers each layer from all ranks, so every rank must make the same passes. How many
it takes depends on its rows (micro-batches, shared prompts, layouts). So before each pass, and when a rank has no more
to make, the ranks exchange one bit:

    rank 0:  pass      pass            done            rank 1 has 1 pass to make, rank 0 has 2: at the second one
    rank 1:  pass      done -> empty   done            rank 1 runs two padding tokens, whose loss is 0

Empty passes join the backward pass with gradient 0, so those agree as well. The exchange is one number over gloo.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

_EMPTY_TOKENS = 2


class Lockstep:
    """Implements `rlvr.learner.peers.Peers` over a process group that works on the CPU."""

    def __init__(self, *, alive: Callable[[], None]) -> None:
        """Args: alive: called at each exchange, as a sign of life."""
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._alive = alive
        self._is_empty_pass = False

    def watch(self, model: PreTrainedModel) -> None:
        """Announces every pass of `model` before its first layer is gathered."""
        model.register_forward_pre_hook(self._before_pass, prepend=True)

    def most(self, count: int) -> int:
        """The largest of the ranks' counts."""
        self._alive()
        number = torch.tensor(count)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def even_out(self, model: PreTrainedModel) -> Tensor | None:
        """Runs empty passes while another rank makes real ones; see `Peers`."""
        total: Tensor | None = None
        while self.most(0):
            zero = self._empty_pass(model)
            total = zero if total is None else total + zero
        return total

    def _before_pass(self, _module: torch.nn.Module, _inputs: object) -> None:
        if not self._is_empty_pass:
            self.most(1)

    def _empty_pass(self, model: PreTrainedModel) -> Tensor:
        device = next(model.parameters()).device
        ids = torch.zeros(1, _EMPTY_TOKENS, dtype=torch.long, device=device)
        self._is_empty_pass = True
        try:
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        finally:
            self._is_empty_pass = False
        return logits[:0].sum()  # over no elements: exactly 0, with a gradient of exactly 0
