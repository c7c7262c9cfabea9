"""rlvr's extension of vLLM's worker: weights from a file, checksums of loaded tensors, repacked copies.

vLLM imports this module by name in each worker process. One load, step by step:

    rlvr_inspect   maps the file, compares names and shapes, computes the checksum of every tensor; changes nothing
    start, update, finish     vLLM's own weight transfer, from the mapping that was checked
    rlvr_repack    packs again what the reload left stale
"""

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlvr.models.checksum import tensor_checksum
from rlvr.processes.lifeline import end_with_parent
from rlvr.rollout.vllm import adapter
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
    """path: of the file that `rlvr_inspect` has mapped."""

    path: str


class FileTransfer(WeightTransferEngine[FileInit, FileUpdate]):
    """vLLM's weight transfer, from a safetensors file on this node."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mapped: MappedFile | None = None

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
            raise RuntimeError(f"{update_info.path!r} was not inspected before its load")
        # Every model of vLLM has load_weights; torch's Module does not declare it.
        load: Any = self.model.load_weights
        load(self.mapped.tensors())

    def finish_weight_update(self) -> None:
        """Layers process the loaded tensors; the mapping is released."""
        adapter.end_reload(self.model, self.model_config)
        self.mapped = None

    def shutdown(self) -> None:
        """Releases the mapping."""
        self.mapped = None


class MappedFile:
    """A safetensors file in this process's address space."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = safe_open(path, framework="pt", device="cpu")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor), in the order of the file, as views of the mapping."""
        for name in self._file.keys():  # noqa: SIM118 - not a mapping
            yield name, self._file.get_tensor(name)


class WorkerExtension:
    """Methods that the engine calls in every worker by name."""

    def rlvr_inspect(
        self, path: str, shapes: Mapping[str, Sequence[int]], is_kept: bool
    ) -> tuple[dict[str, int], list[str]]:
        """Checksums of the tensors of `path` by name, and errors in their names and shapes.

        Args: is_kept: whether the following load uses this mapping.
        """
        try:
            mapped = MappedFile(path)
        except (OSError, SafetensorError) as error:
            return {}, [f"the file cannot be read: {error}"]
        checksums: dict[str, int] = {}
        problems: list[str] = []
        for name, tensor in mapped.tensors():
            if name not in shapes:
                problems.append(f"{name!r} is in the file but not in the model")
            elif tuple(tensor.shape) != tuple(shapes[name]):
                problems.append(f"{name!r} has shape {tuple(tensor.shape)}; expected {tuple(shapes[name])}")
            checksums[name] = tensor_checksum(tensor)
        problems += [f"{name!r} is missing from the file" for name in shapes if name not in checksums]
        if is_kept and not problems:
            self._rlvr_transfer().mapped = mapped
            model = self._rlvr_transfer().model
            self._rlvr_packed = adapter.packed_copies(model)
        return checksums, problems

    def rlvr_repack(self) -> list[str]:
        """Repacks modules that still hold the bytes from before the load; returns their names."""
        return adapter.repack_stale(self._rlvr_transfer().model, self._rlvr_packed)

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
