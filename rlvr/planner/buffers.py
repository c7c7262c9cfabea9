"""Memory of GPUs that a weight sync needs in addition to the weights, by transport.

With B the size of a chunk and L that of the largest tensor, in the dtype of the wire:

    nccl    learner    3 B + 2 L        the chunk that is sent, the tensors of the next one, and their concatenation
            engine     2 B + L          two chunks, received in turn
    ipc     learner    max(B, L) + L    the buffer that engines map, and the tensor that is copied into it
            engine     max(B, L)        its copy of a chunk
    file    none       beyond one tensor

A chunk ends with the tensor that takes it over B, so L counts where one chunk may hold it. The buffers are freed before
a colocated engine takes memory for its key-value cache.
"""

from dataclasses import dataclass

from rlvr.config.recipe import Placement, Recipe
from rlvr.config.sections.cluster import WeightTransport
from rlvr.planner.memory import Part, Phase
from rlvr.transfer.rendezvous import BUFFER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncBuffers:
    """Bytes on a GPU of each side during a weight sync. how: the multiplication, for display."""

    learner: int
    engine: int
    how: str

    def parts(self, num_bytes: int) -> list[Part]:
        """The buffers of one side as a part of its memory; none for a file."""
        return [Part(name="weight buffers", num_bytes=num_bytes, phase=Phase.SYNC, how=self.how)] if num_bytes else []


def sync_buffers(recipe: Recipe, *, largest: int) -> SyncBuffers:
    """The buffers of the transport that a run on GPUs uses.

    Args: largest: bytes of the largest tensor as it is sent.
    """
    chunk = BUFFER_BYTES
    transport = transport_of(recipe)
    how = f"{transport}: chunks of {chunk >> 20} MiB, largest tensor {largest >> 20:,} MiB"
    match transport:
        case WeightTransport.NCCL:
            return SyncBuffers(learner=3 * chunk + 2 * largest, engine=2 * chunk + largest, how=how)
        case WeightTransport.IPC:
            return SyncBuffers(learner=max(chunk, largest) + largest, engine=max(chunk, largest), how=how)
        case _:
            return SyncBuffers(learner=0, engine=0, how=how)


def transport_of(recipe: Recipe) -> WeightTransport:
    """How weights travel if learners and engines are on GPUs, with `auto` resolved as a run does."""
    cluster = recipe.cluster
    if cluster.weight_transport is not WeightTransport.AUTO:
        return cluster.weight_transport
    is_colocated = cluster.placement is Placement.COLOCATED
    has_beyond = is_colocated and cluster.engines * recipe.rollout.gpus_per_engine > cluster.learners
    if recipe.sends_adapters or not recipe.rollout.engine.traits.takes_broadcasts or has_beyond:
        return WeightTransport.FILE
    return WeightTransport.IPC if is_colocated else WeightTransport.NCCL
