"""rlvr's extension of vLLM's worker: checksums of loaded tensors, repacked copies, and its ways to receive weights.

vLLM imports this module by name in each worker process. One load, step by step:

    rlvr_map       maps the file that the engine has inspected (`rlvr.rollout.vllm.inspection`); changes nothing
    start, update, finish     vLLM's own weight transfer (`transfers`): from that mapping, or from the learner
    rlvr_repack    packs again what the reload left stale
    rlvr_received  the checksum of each tensor as it arrived, on an accelerator or from the learner
"""

import multiprocessing
import os

import torch
from safetensors import SafetensorError
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from rlvr.processes.lifeline import end_with_parent
from rlvr.records import Transport
from rlvr.rollout.vllm import adapter
from rlvr.rollout.vllm.inspection import FileId, MappedFile, file_id_of
from rlvr.rollout.vllm.settings import BACKENDS
from rlvr.rollout.vllm.transfers import BroadcastTransfer, FileTransfer, SharedTransfer

# vLLM's core does not notice that the engine's process was killed. Started by a fork server it would not be a child.
if (_engine := multiprocessing.parent_process()) is not None:
    _pid = _engine.pid or 0
    if os.getppid() == _pid or not _engine.is_alive():
        end_with_parent(_pid)


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
        return ""

    def rlvr_repack(self) -> list[str]:
        """Repacks modules that still hold the bytes from before the load; returns their names."""
        transfer = self._rlvr_transfer()
        return adapter.repack_stale(transfer.model, transfer.packed)

    def rlvr_received(self) -> tuple[dict[str, int], str]:
        """Checksums of the tensors that the latest update brought, by name; and why it, or the join, failed.

        There are none of a file for which `rlvr_map` did not ask for them.
        """
        transfer = self._rlvr_transfer()
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
