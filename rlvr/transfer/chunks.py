"""Weights for engines on the learner's own GPU: chunk after chunk through a buffer that both processes map (CUDA IPC).

    learner: copies whole tensors into the buffer --(names, sizes, handle)--> driver --> engine: copies them out
             the next chunk is written once every engine has returned

vLLM's trainer pickles the handle, which its engine accepts only with VLLM_ALLOW_INSECURE_SERIALIZATION=1. Here it is
plain values (`Handle`), so that no process has to unpickle what another sends.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from rlvr.models.checksum import read_checksums
from rlvr.records import TensorEntry
from rlvr.transfer.communicator import synchronize
from rlvr.transfer.packing import checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """What another process needs to map the buffer; bytes in base64. The fields are those of torch's reduction."""

    num_bytes: int
    storage: str
    storage_bytes: int
    storage_offset: int
    counter: str
    counter_offset: int
    event: str
    is_event_required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tensors in the buffer, one after another. handles: by the UUID of the GPU, of each of the learner's ranks."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    dtype: str
    handles: dict[str, Handle]

    def to_json(self) -> dict[str, Any]:
        """Plain values, also for vLLM's messages."""
        return asdict(self)


def chunk_from_json(values: dict[str, Any]) -> Chunk:
    """The chunk of `Chunk.to_json`."""
    return Chunk(
        names=tuple(values["names"]),
        shapes=tuple(tuple(shape) for shape in values["shapes"]),
        sizes=tuple(values["sizes"]),
        dtype=values["dtype"],
        handles={uuid: Handle(**handle) for uuid, handle in values["handles"].items()},
    )


class ChunkSource:
    """The chunks of one version, made one at a time."""

    def __init__(
        self,
        tensors: Iterator[tuple[str, Tensor]],
        *,
        entries: Sequence[TensorEntry],
        dtype: torch.dtype,
        device: torch.device,
        buffer_bytes: int,
    ) -> None:
        """Args: buffer_bytes: of the buffer, which holds at least the largest tensor."""
        self._entries = entries
        self._device = device
        self._sums: list[Tensor] = []
        sizes = [torch.Size(entry.shape).numel() * dtype.itemsize for entry in entries]
        self._buffer = torch.empty(max(buffer_bytes, *sizes), dtype=torch.uint8, device=device)
        self._handles = {gpu_uuid(device): _export(self._buffer)}
        self._dtype = str(dtype).removeprefix("torch.")
        self._flat = checked(tensors, entries, dtype=dtype, sums=self._sums)
        self._next: Tensor | None = None
        self._num_done = 0

    def next(self) -> Chunk | None:
        """The next chunk, in place of the previous one; None at the end. Raises LearnerError for other tensors."""
        used, sizes = 0, list[int]()
        while (flat := self._take()) is not None:
            if used + flat.numel() > self._buffer.numel():
                self._next = flat
                break
            self._buffer[used : used + flat.numel()].copy_(flat)
            used += flat.numel()
            sizes.append(flat.numel())
        if not sizes:
            return None
        synchronize(self._device)
        entries = self._entries[self._num_done : self._num_done + len(sizes)]
        self._num_done += len(sizes)
        return Chunk(
            names=tuple(entry.name for entry in entries),
            shapes=tuple(entry.shape for entry in entries),
            sizes=tuple(sizes),
            dtype=self._dtype,
            handles=self._handles,
        )

    def sent(self) -> tuple[TensorEntry, ...]:
        """The manifest with checksums, once `next` has returned None."""
        checksums = read_checksums(self._sums)
        return tuple(
            TensorEntry(name=entry.name, shape=entry.shape, checksum=checksum)
            for entry, checksum in zip(self._entries, checksums, strict=True)
        )

    def _take(self) -> Tensor | None:
        held, self._next = self._next, None
        return held if held is not None else next(self._flat, None)


def free_buffers(device: torch.device) -> None:
    """Returns freed memory to the device, so that a colocated engine can take it for its cache."""
    if device.type == "cuda":
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()


def gpu_uuid(device: torch.device) -> str:
    """The physical GPU, whatever number it has in a process."""
    return str(torch.cuda.get_device_properties(device).uuid)


def rebuild_arguments(handle: Handle, *, device_index: int) -> tuple[Any, ...]:
    """The arguments of torch's `rebuild_cuda_tensor`, in another process."""
    return (
        Tensor,
        (handle.num_bytes,),
        (1,),
        0,
        torch.UntypedStorage,
        torch.uint8,
        device_index,
        base64.b64decode(handle.storage),
        handle.storage_bytes,
        handle.storage_offset,
        False,
        base64.b64decode(handle.counter),
        handle.counter_offset,
        base64.b64decode(handle.event),
        handle.is_event_required,
    )


def _export(buffer: Tensor) -> Handle:
    reduced: Any = reductions.reduce_tensor(buffer)  # typed for every kind of tensor
    _, arguments = reduced
    storage, storage_bytes, storage_offset, _, counter, counter_offset, event, is_event_required = arguments[7:]

    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    return Handle(
        num_bytes=buffer.numel(),
        storage=text(storage),
        storage_bytes=storage_bytes,
        storage_offset=storage_offset,
        counter=text(counter),
        counter_offset=counter_offset,
        event=text(event),
        is_event_required=is_event_required,
    )
