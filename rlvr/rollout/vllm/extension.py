"""rlvr's extension of vLLM's worker: checksums of loaded tensors, repacked copies, and its ways to receive weights.

vLLM imports this module by name in each worker process. One load, step by step:

    rlvr_inspect   maps the file, compares names and shapes, computes the checksum of every tensor; changes nothing
    start, update, finish     vLLM's own weight transfer, from the mapping that was checked (`transfers`)
    rlvr_repack    packs again what the reload left stale

What the learner sends needs no inspection; `rlvr_received` returns the checksums of what arrived.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlvr.models.checksum import tensor_checksum
from rlvr.processes.lifeline import end_with_parent
from rlvr.records import Transport
from rlvr.rollout.vllm import adapter
from rlvr.rollout.vllm.settings import BACKENDS
from rlvr.rollout.vllm.transfers import BroadcastTransfer, FileTransfer, MappedFile, SentTransfer, SharedTransfer

# vLLM's core does not notice that the engine's process was killed. Started by a fork server it would not be a child.
if (_engine := multiprocessing.parent_process()) is not None:
    _pid = _engine.pid or 0
    if os.getppid() == _pid or not _engine.is_alive():
        end_with_parent(_pid)


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
        return checksums, problems

    def rlvr_repack(self) -> list[str]:
        """Repacks modules that still hold the bytes from before the load; returns their names."""
        transfer = self._rlvr_transfer()
        return adapter.repack_stale(transfer.model, transfer.packed)

    def rlvr_received(self) -> tuple[dict[str, int], str]:
        """Checksums of the tensors that the latest update brought, by name; and why it, or the join, failed."""
        transfer = self._rlvr_transfer()
        assert isinstance(transfer, SentTransfer)
        return ({}, transfer.problem) if transfer.problem else (transfer.received(), "")

    def rlvr_used_bytes(self) -> int:
        """Bytes in use on this worker's accelerator, by any process; 0 on a CPU."""
        if not torch.accelerator.is_available():
            return 0
        free, total = torch.accelerator.get_memory_info()
        return total - free

    def _rlvr_transfer(self) -> FileTransfer:
        transfer = getattr(self, "weight_transfer_engine", None)
        if not isinstance(transfer, FileTransfer):
            raise RuntimeError(f"vLLM's weight transfer is {transfer!r}; expected one of {list(BACKENDS.values())}")
        return transfer


for _transport, _transfer in (
    (Transport.FILE, FileTransfer),
    (Transport.NCCL, BroadcastTransfer),
    (Transport.IPC, SharedTransfer),
):
    if BACKENDS[_transport] not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKENDS[_transport], _transfer)
