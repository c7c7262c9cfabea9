"""Ways in which vLLM's worker receives weights: from a file that was checked, a broadcast, or memory of the same GPU.

Every way loads through vLLM's layerwise reload, and any engine can also load a file: one that restarts alone does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo
from vllm.distributed.weight_transfer.packed_tensor import (
    DEFAULT_PACKED_NUM_BUFFERS,
    PackedBufferImporter,
    packed_ipc_consumer,
    packed_nccl_broadcast_consumer,
)

from rlvr.errors import TransferError
from rlvr.models.checksum import checksum_on_device, read_checksums
from rlvr.rollout.vllm import adapter
from rlvr.rollout.vllm.inspection import MappedFile
from rlvr.transfer.chunks import chunk_from_json, rebuild_arguments
from rlvr.transfer.communicator import Communicator, join
from rlvr.transfer.deadline import aborted_after
from rlvr.transfer.rendezvous import Rendezvous


@dataclass
class Init(WeightTransferInitInfo):
    """rendezvous: the fields of a Rendezvous, empty without one. first_rank: of this engine's first worker."""

    rendezvous: dict[str, Any] = field(default_factory=dict[str, Any])
    first_rank: int = 0


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """path: of the file that `rlvr_map` has mapped."""

    path: str


class FileTransfer(WeightTransferEngine[Init, FileUpdate]):
    """vLLM's weight transfer, from a safetensors file on this node."""

    init_info_cls = Init
    update_info_cls = FileUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mapped: MappedFile | None = None
        self.sums_bytes = False  # of a file, as they arrive on the device
        self.packed: dict[str, tuple[object, ...]] = {}  # copies from before the load
        self.problem = ""
        self._sums: dict[str, Tensor] = {}

    def init_transfer_engine(self, init_info: Init) -> None:
        """A file needs no rendezvous."""

    def start_weight_update(self) -> None:
        """Layers give up their weights."""
        self.problem = ""
        self._sums = {}
        self.packed = adapter.packed_copies(self.model)
        adapter.begin_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Loads every tensor of the file."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Loads from the mapping that was checked, never from a file that has replaced it since."""
        if self.mapped is None or self.mapped.path != update_info.path:
            raise RuntimeError(f"{update_info.path!r} was not mapped before its load")
        self._load(self._on_device(self.mapped) if self.sums_bytes else self.mapped.tensors())

    def finish_weight_update(self) -> None:
        """Layers process the loaded tensors; the mapping is released."""
        adapter.end_reload(self.model, self.model_config)
        self.mapped = None

    def shutdown(self) -> None:
        """Releases the mapping."""
        self.mapped = None

    def received(self) -> dict[str, int]:
        """The checksums of the tensors that the latest update brought, by name."""
        sums, self._sums = self._sums, {}
        return dict(zip(sums, read_checksums(list(sums.values())), strict=True))

    def _on_device(self, mapped: MappedFile) -> Iterator[tuple[str, Tensor]]:
        """The tensors on the worker's device, one at a time; their checksums are those of what arrived there."""
        for name, tensor in mapped.tensors():
            there = tensor.to(self.device)
            self._sums[name] = checksum_on_device(there)
            yield name, there

    def _load(self, tensors: Any) -> None:
        # Every model of vLLM has load_weights; torch's Module does not declare it.
        load: Any = self.model.load_weights
        load(tensors)


class SentTransfer(FileTransfer):
    """Weights that the learner sends: a checksum of every tensor that arrives.

    A failure is kept in `problem` and not raised: vLLM's executor does not collect the answers of the other workers
    once one has raised, and would take them for those of the next call. After a failed update the layers hold anything,
    but they are complete again, so that the next update can load all of them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rendezvous: Rendezvous | None = None

    def init_transfer_engine(self, init_info: Init) -> None:
        """Leaves the group before, and joins that of the rendezvous if there is one."""
        self.shutdown()
        self.problem = ""
        values = init_info.rendezvous
        if not values:
            return
        rendezvous = Rendezvous(**{**values, "names": tuple(values["names"])})
        try:
            self.join(rendezvous, rank=init_info.first_rank + self.parallel_config.rank)
            self.rendezvous = rendezvous
        except Exception as error:  # noqa: BLE001 - see the class
            self.problem = _described(error)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receives all tensors or some, or loads a file."""
        if "path" in update_info:
            super().update_weights(update_info)
            return
        try:
            with adapter.partial_checkpoints():
                self.receive(update_info)
        except Exception as error:  # noqa: BLE001 - see the class
            self.problem = self.problem or _described(error)
            self.shutdown()

    def join(self, rendezvous: Rendezvous, *, rank: int) -> None:
        """Joins a group as this rank. Raises TransferError."""

    def receive(self, update_info: dict[str, Any]) -> None:
        """Receives what `update_info` announces, and loads it."""
        raise NotImplementedError

    def take(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """Sums and loads tensors that have arrived."""
        for name, tensor in tensors:
            self._sums[name] = checksum_on_device(tensor)
        self._load(tensors)


class BroadcastTransfer(SentTransfer):
    """vLLM's packed broadcast, with our communicator and a deadline."""

    _communicator: Communicator | None = None

    def join(self, rendezvous: Rendezvous, *, rank: int) -> None:
        """See `SentTransfer`."""
        self._communicator = join(rendezvous, rank=rank, device=self.device)

    def receive(self, update_info: dict[str, Any]) -> None:
        """See `SentTransfer`."""
        info = NCCLWeightTransferUpdateInfo(**update_info)
        communicator, rendezvous = self._communicator, self.rendezvous
        if communicator is None or rendezvous is None:
            raise TransferError("this worker has not joined a group, or has left it after a failure")
        shapes = (
            (name, (shape, getattr(torch, dtype)))
            for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True)
        )
        with aborted_after(rendezvous.deadline_s, communicator.destroy, what="the arrival of the weights"):
            packed_nccl_broadcast_consumer(
                iterator=shapes,
                group=communicator,
                src=0,
                post_unpack_func=self.take,
                buffer_size_bytes=rendezvous.buffer_bytes,
                num_buffers=DEFAULT_PACKED_NUM_BUFFERS,
                device=self.device,
            )
            if self.device.type != "cpu":
                torch.accelerator.synchronize()

    def shutdown(self) -> None:
        """Destroys the communicator."""
        super().shutdown()
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.destroy()


class SharedTransfer(SentTransfer):
    """Chunks in a buffer of the learner on the same GPU, which vLLM's consumer copies before it returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._importer = PackedBufferImporter()

    def receive(self, update_info: dict[str, Any]) -> None:
        """See `SentTransfer`."""
        chunk = chunk_from_json(update_info)
        index = self.device.index or 0
        arguments = {uuid: rebuild_arguments(h, device_index=index) for uuid, h in chunk.handles.items()}
        tensors = packed_ipc_consumer(
            ipc_handle=arguments,
            names=list(chunk.names),
            shapes=[list(shape) for shape in chunk.shapes],
            dtype_names=[chunk.dtype] * len(chunk.names),
            tensor_sizes=list(chunk.sizes),
            device_index=index,
            importer=self._importer,
        )
        self.take(tensors)
        if self.device.type != "cpu":
            torch.accelerator.synchronize()  # the learner writes the next chunk into the same buffer

    def finish_weight_update(self) -> None:
        """Layers process the tensors; the learner's buffer is released."""
        super().finish_weight_update()
        self._importer.close()


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, TransferError) else f"{type(error).__name__}: {error}"
