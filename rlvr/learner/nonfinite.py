"""Non-finite gradients: which micro-batch caused it, where it is saved, when the run stops."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from rlvr.batch import Batch
from rlvr.errors import LearnerError, StorageError
from rlvr.learner.metrics import Outcome
from rlvr.learner.peers import Peers

logger = logging.getLogger(__name__)

_KEPT = ("token_ids", "attention_mask", "loss_mask", "behavior_logprobs", "advantages", "group_index")


def find_offender(
    micro_batches: Sequence[Batch], *, peers: Peers, norm_of: Callable[[Batch | None], float]
) -> Batch | None:
    """The first micro-batch whose own gradient is not finite, if it is this process's; else None.

    All processes call it together: each round runs one micro-batch of every process, and where that is not finite,
    one process's after the other's. Where each alone is finite, the sum overflowed, and the last of rank 0 is named.

    Args: norm_of: the norm of the gradient of this process's micro-batch (None: of nothing) and its peers'.
    """
    for index in range(peers.most(len(micro_batches))):
        own = micro_batches[index] if index < len(micro_batches) else None
        if not math.isfinite(norm_of(own)):
            rank = _offending_rank(own, peers=peers, norm_of=norm_of)
            if rank is not None:
                return own if rank == peers.rank else None
    return micro_batches[-1] if peers.rank == 0 and micro_batches else None


def _offending_rank(own: Batch | None, *, peers: Peers, norm_of: Callable[[Batch | None], float]) -> int | None:
    """The first process whose micro-batch alone has a gradient that is not finite; None if only their sum has one."""
    if peers.size == 1:
        return 0
    norms = (norm_of(own if rank == peers.rank else None) for rank in range(peers.size))
    return next((rank for rank, norm in enumerate(norms) if not math.isfinite(norm)), None)


def keep_micro_batch(batch: Batch, folder: Path, *, number: int) -> Path:
    """Writes the data needed to debug the gradient; returns the file. Raises StorageError."""
    path = folder / f"nonfinite_{number:03d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: getattr(batch, name).cpu().contiguous() for name in _KEPT}, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the micro-batch with a non-finite gradient could not be saved in {path}: {error}"
        ) from error
    return path


def judge_nonfinite(outcome: Outcome, *, limit: int) -> None:
    """Warns of a skipped step.

    Raises: LearnerError when it exceeds the limit.
    """
    if not outcome.is_skipped:
        return
    message = (
        f"the gradient of optimiser step {outcome.num_steps + 1} is not finite (norm {outcome.grad_norm}); the step "
        f"was skipped, the weights are unchanged, and the offending micro-batch is in {outcome.fault}"
    )
    if outcome.num_nonfinite > limit:
        raise LearnerError(
            f"{message}. This was number {outcome.num_nonfinite}, and learner.max_nonfinite_steps is {limit}: lower "
            "learner.lr, or inspect the saved micro-batch"
        )
    logger.warning(message)
