"""The learner's side of a broadcast: joins the group of the driver as rank 0, and sends every tensor to the engines."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage] # its documented place
from transformers import PreTrainedModel

from rlvr.errors import TransferError
from rlvr.learner.weights.wire import wire_tensors
from rlvr.records import TensorEntry, WeightsKind, WeightsRef
from rlvr.transfer.chunks import Chunk, ChunkSource, free_buffers
from rlvr.transfer.communicator import Communicator, host_store, join
from rlvr.transfer.packing import send_packed
from rlvr.transfer.rendezvous import Rendezvous


@runtime_checkable
class SendingLearner(Protocol):
    """A learner that can send its weights; `Transport.is_sent`."""

    def meet(self, address: str) -> int:
        """Leaves the group before, and opens a store where the next one meets; returns its port."""
        ...

    def join(self, rendezvous: Rendezvous) -> None:
        """Joins as rank 0 and waits for all others. Raises TransferError."""
        ...

    def send(self, ref: WeightsRef) -> WeightsRef:
        """Sends the weights of `ref`; returns it with the checksums of what was sent.

        Raises: TransferError when they did not arrive, LearnerError when the learner has other weights by now.
        """
        ...

    def next_chunk(self, ref: WeightsRef, is_first: bool, buffer_bytes: int) -> Chunk | WeightsRef:
        """The next chunk of the weights of `ref`, for engines on the same GPU, once they have read the one before.

        Args: is_first: begins anew.

        Returns: at the end `ref` with the checksums of what was sent; the buffer is free again.

        Raises: LearnerError when the learner has other weights by now.
        """
        ...

    def leave(self) -> None:
        """Destroys the communicator. Safe to call at any time."""
        ...

    def write_file(self, ref: WeightsRef) -> WeightsRef | None:
        """The same weights as a file, for an engine that starts alone; None when the learner has others by now."""
        ...


class Sender:
    """One process of the learner in the broadcasts. Only rank 0 is in the group; the others help to gather tensors."""

    def __init__(
        self, model: PreTrainedModel, *, is_first: bool = True, alive: Callable[[], None] | None = None
    ) -> None:
        """Args: alive: called at every tensor."""
        self._model = model
        self._is_first = is_first
        self._alive = alive or (lambda: None)
        self._store: TCPStore | None = None
        self._rendezvous: Rendezvous | None = None
        self._communicator: Communicator | None = None
        self._chunks: ChunkSource | None = None

    def meet(self, address: str) -> int:
        """See `SendingLearner`; 0 on other ranks."""
        self.leave()
        if not self._is_first:
            return 0
        self._store = host_store(address)
        return self._store.port

    def join(self, rendezvous: Rendezvous) -> None:
        """See `SendingLearner`; does nothing on other ranks."""
        if self._is_first:
            device = next(self._model.parameters()).device
            self._communicator = join(rendezvous, rank=0, device=device, store=self._store)
            self._rendezvous = rendezvous

    def send(self, entries: Sequence[TensorEntry], *, dtype: torch.dtype) -> tuple[TensorEntry, ...]:
        """Broadcasts all tensors; returns `entries` with checksums, and nothing on other ranks.

        Raises: TransferError, after which the group must be made anew; LearnerError for other tensors than announced.
        """
        tensors = self._tensors(dtype)
        if not self._is_first or self._communicator is None or self._rendezvous is None:
            for _ in tensors:  # the gather of every tensor needs all ranks
                pass
            if self._is_first:
                raise TransferError("the learner has not joined a group of engines")
            return ()
        try:
            return send_packed(
                tensors,
                entries=entries,
                dtype=dtype,
                communicator=self._communicator,
                buffer_bytes=self._rendezvous.buffer_bytes,
                deadline_s=self._rendezvous.deadline_s,
            )
        except BaseException:  # also when interrupted: the group is of no more use
            self.leave()
            raise

    def next_chunk(
        self, entries: Sequence[TensorEntry], *, dtype: torch.dtype, is_first: bool, buffer_bytes: int
    ) -> Chunk | tuple[TensorEntry, ...]:
        """The next chunk in this rank's buffer, or `entries` with checksums at the end; see `SendingLearner`."""
        if is_first or self._chunks is None:
            device = next(self._model.parameters()).device
            self._chunks = ChunkSource(
                self._tensors(dtype), entries=entries, dtype=dtype, device=device, buffer_bytes=buffer_bytes
            )
        chunk = self._chunks.next()
        if chunk is not None:
            return chunk
        sent, self._chunks = self._chunks.sent(), None
        free_buffers(next(self._model.parameters()).device)
        return sent

    def leave(self) -> None:
        """See `SendingLearner`."""
        self._chunks = None
        communicator, self._communicator = self._communicator, None
        self._store = self._rendezvous = None
        if communicator is not None:
            communicator.destroy()

    def _tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in wire_tensors(self._model, dtype=dtype, kind=WeightsKind.FULL):
            self._alive()
            yield name, tensor
