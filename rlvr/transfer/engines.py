"""The contract of rollout engines that can be sent weights."""

from typing import Protocol, runtime_checkable

from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous


@runtime_checkable
class JoinsTransfers(Protocol):
    """A rollout engine that can be sent weights, which its `load_weights` receives."""

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None:
        """Joins the group with its workers as ranks `first_rank` and on; leaves the one before.

        Raises: TransferError when the others did not come in time, or no bytes arrive.
        """
        ...

    async def feed(self, chunk: Chunk | None) -> None:
        """Passes a chunk to the running `load_weights`, for engines on the learner's GPU; None ends it.

        Waits until the chunk was read, so that the learner may write the next.
        """
        ...
