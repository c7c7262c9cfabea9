"""A mapped file in place of CUDA's shared memory, for a test without a GPU. vLLM's workers import this by name."""

import os
import tempfile
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from rlvr.rollout.vllm.extension import WorkerExtension

EXTENSION = "ipc_stubs.StubbedExtension"
num_exports = 0


def _export(buffer: Tensor) -> tuple[Any, tuple[Any, ...]]:
    global num_exports
    num_exports += 1
    descriptor, path = tempfile.mkstemp(prefix="rlvr-ipc-")
    os.ftruncate(descriptor, buffer.numel())
    os.close(descriptor)
    buffer.set_(torch.from_file(path, shared=True, size=buffer.numel(), dtype=torch.uint8))  # type: ignore[arg-type]
    size = (buffer.numel(),)
    handle = (path.encode(), buffer.numel(), 0, False, b"counter", 3, b"event", True)
    return None, (Tensor, size, (1,), 0, torch.UntypedStorage, torch.uint8, 7, *handle)


def _rebuild(
    tensor: type, size: tuple[int], stride: tuple[int], offset: int, storage: type, dtype: torch.dtype, device: int,
    path: bytes, num_bytes: int, storage_offset: int, requires_grad: bool, counter: bytes, counter_offset: int,
    event: bytes, is_event_required: bool,
) -> Tensor:  # fmt: skip
    assert (tensor, stride, offset, storage, dtype, device) == (Tensor, (1,), 0, torch.UntypedStorage, torch.uint8, 0)
    assert (storage_offset, requires_grad, counter, counter_offset, event) == (0, False, b"counter", 3, b"event")
    assert is_event_required
    return torch.from_file(path.decode(), shared=True, size=num_bytes, dtype=torch.uint8)


reductions.reduce_tensor = _export  # type: ignore[assignment]
reductions.rebuild_cuda_tensor = _rebuild  # type: ignore[assignment]
torch.cuda.get_device_properties = lambda _device=None: SimpleNamespace(uuid="GPU-of-the-test")  # type: ignore[assignment]


class StubbedExtension(WorkerExtension):
    """The worker's extension, in a process where the stubs are in place."""
