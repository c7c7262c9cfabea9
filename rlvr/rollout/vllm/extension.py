"""rlvr's extension of vLLM's worker: weights from a file, checksums of loaded tensors, repacked copies.

vLLM imports this module by name in each worker process. One load, step by step:

    rlvr_map       maps the file that the engine has inspected (`rlvr.rollout.vllm.inspection`); changes nothing
    start, update, finish     vLLM's own weight transfer, from that mapping
    rlvr_repack    packs again what the reload left stale
    rlvr_received  on an accelerator, the checksum of each tensor as it arrived on the device
"""

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlvr.models.checksum import tensor_checksum
from rlvr.processes.lifeline import end_with_parent
from rlvr.rollout.vllm import adapter
from rlvr.rollout.vllm.inspection import FileId, MappedFile, file_id_of
from rlvr.rollout.vllm.settings import BACKEND

# vLLM's core does not notice that the engine's process was killed. Started by a fork server it would not be a child.
if (_engine := multiprocessing.parent_process()) is not None:
    _pid = _engine.pid or 0
    if os.getppid() == _pid or not _engine.is_alive():
        end_with_parent(_pid)


@dataclass
class FileInit(WeightTransferInitInfo):
    """An initialisation without content."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """path: of the file that `rlvr_map` has mapped."""

    path: str


class FileTransfer(WeightTransferEngine[FileInit, FileUpdate]):
    """vLLM's weight transfer, from a safetensors file on this node."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mapped: MappedFile | None = None
        self.sums_bytes = False
        self.checksums: dict[str, int] = {}

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """A file needs no rendezvous."""

    def start_weight_update(self) -> None:
        """Layers give up their weights."""
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
        self.checksums = {}
        # Every model of vLLM has load_weights; torch's Module does not declare it.
        load: Any = self.model.load_weights
        load(self._on_device(self.mapped) if self.sums_bytes else self.mapped.tensors())

    def finish_weight_update(self) -> None:
        """Layers process the loaded tensors; the mapping is released."""
        adapter.end_reload(self.model, self.model_config)
        self.mapped = None

    def shutdown(self) -> None:
        """Releases the mapping."""
        self.mapped = None

    def _on_device(self, mapped: MappedFile) -> Iterator[tuple[str, Tensor]]:
        """The tensors on the worker's device, one at a time; their checksums are those of what arrived there."""
        for name, tensor in mapped.tensors():
            there = tensor.to(self.device)
            self.checksums[name] = tensor_checksum(there)
            yield name, there


class WorkerExtension:
    """Methods that the engine calls in every worker by name."""

    def rlvr_map(self, path: str, file_id: FileId, sums_bytes: bool) -> str:
        """Maps the file for the next load; returns why it cannot be, or "".

        Args:
            file_id: of the file that was inspected.
            sums_bytes: whether the load computes checksums.
        """
        try:
            mapped = MappedFile(path)
            if file_id_of(path) != tuple(file_id):
                return "the file was replaced after it was inspected"
        except (OSError, SafetensorError) as error:
            return f"the file cannot be read: {error}"
        transfer = self._rlvr_transfer()
        transfer.mapped, transfer.sums_bytes = mapped, sums_bytes
        self._rlvr_packed = adapter.packed_copies(transfer.model)
        return ""

    def rlvr_repack(self) -> list[str]:
        """Repacks modules that still hold the bytes from before the load; returns their names."""
        return adapter.repack_stale(self._rlvr_transfer().model, self._rlvr_packed)

    def rlvr_received(self) -> dict[str, int]:
        """Checksums of the tensors as they arrived on the device, by name, if `rlvr_map` asked for them."""
        return self._rlvr_transfer().checksums

    def rlvr_used_bytes(self) -> int:
        """Bytes in use on this worker's accelerator, by any process; 0 on a CPU."""
        if not torch.accelerator.is_available():
            return 0
        free, total = torch.accelerator.get_memory_info()
        return total - free

    def _rlvr_transfer(self) -> FileTransfer:
        transfer = getattr(self, "weight_transfer_engine", None)
        if not isinstance(transfer, FileTransfer):
            raise RuntimeError(f"vLLM's weight transfer is {transfer!r}; expected {BACKEND!r}")
        return transfer


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileTransfer)
