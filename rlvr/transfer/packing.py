"""The packed broadcast of named tensors, in the chunks that vLLM's consumer expects.

A chunk is the bytes of whole tensors, one after another; it ends with the tensor that takes it over `buffer_bytes`.
Both sides derive the borders from the same list of names and shapes, so nothing else is sent.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from rlvr.errors import LearnerError
from rlvr.models.checksum import checksum_on_device, read_checksums
from rlvr.records import TensorEntry
from rlvr.transfer.communicator import Communicator, synchronize
from rlvr.transfer.deadline import aborted_after


def send_packed(
    tensors: Iterable[tuple[str, Tensor]],
    *,
    entries: Sequence[TensorEntry],
    dtype: torch.dtype,
    communicator: Communicator,
    buffer_bytes: int,
    deadline_s: float,
) -> tuple[TensorEntry, ...]:
    """Broadcasts all tensors from rank 0; returns `entries` with the checksums of the bytes that were sent.

    After a failure the rest of `tensors` is still read: other ranks of a sharded model take part in making it.

    Raises: TransferError when the broadcast failed or missed its deadline, LearnerError when the tensors are not those
        of `entries`.
    """
    source = iter(tensors)
    sums: list[Tensor] = []
    device: torch.device | None = None
    try:
        with aborted_after(deadline_s, communicator.destroy, what="the broadcast of the weights"):
            for chunk in _chunks(checked(source, entries, dtype=dtype, sums=sums), buffer_bytes):
                communicator.broadcast(chunk, src=0)
                device = chunk.device
            if device is not None:
                synchronize(device)
    except BaseException:  # also when interrupted: the other ranks gather as long as this one
        for _ in source:
            pass
        raise
    checksums = read_checksums(sums)
    return tuple(
        TensorEntry(name=entry.name, shape=entry.shape, checksum=checksum)
        for entry, checksum in zip(entries, checksums, strict=True)
    )


def checked(
    tensors: Iterator[tuple[str, Tensor]], entries: Sequence[TensorEntry], *, dtype: torch.dtype, sums: list[Tensor]
) -> Iterator[Tensor]:
    """The bytes of each tensor; adds its checksum to `sums`."""
    for entry in entries:
        name, tensor = next(tensors, ("nothing", None))
        if tensor is None or (name, tuple(tensor.shape), tensor.dtype) != (entry.name, entry.shape, dtype):
            found = "" if tensor is None else f" of shape {tuple(tensor.shape)} in {tensor.dtype}"
            raise LearnerError(
                f"the learner would send {name!r}{found}, and has announced {entry.name!r} of shape {entry.shape} in "
                f"{dtype}"
            )
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        sums.append(checksum_on_device(flat))
        yield flat
    extra = next(tensors, None)
    if extra is not None:
        raise LearnerError(f"the learner would send {extra[0]!r}, which it has not announced")


def _chunks(tensors: Iterator[Tensor], buffer_bytes: int) -> Iterator[Tensor]:
    held: list[Tensor] = []
    for flat in tensors:
        held.append(flat)
        if sum(part.numel() for part in held) > buffer_bytes:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)
