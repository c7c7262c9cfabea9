"""Gloo in place of NCCL, for tests on machines without GPUs; `RLVR_SUBSTITUTE_COMMUNICATOR` names it.

Like NCCL it does not notice that a peer is gone: it waits until it is destroyed. In a worker of vLLM it also replaces
the names of CUDA in the packed consumer.
"""

import contextlib
import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlvr.errors import TransferError

_FOREVER = timedelta(hours=1)
LOG_VARIABLE = "RLVR_TEST_BROADCASTS"  # a folder: each rank adds the bytes of every broadcast to a file
HANG_VARIABLE = "RLVR_TEST_HANG"  # a file: while it exists, a broadcast of more than a token hangs


class _Stream:
    def synchronize(self) -> None:
        """Nothing is asynchronous here."""


def _without_cuda() -> None:
    from vllm.distributed.weight_transfer import packed_tensor

    packed_tensor._get_streams = lambda _index, count: tuple(_Stream() for _ in range(count))  # type: ignore[assignment]
    torch.cuda.stream = lambda _stream: contextlib.nullcontext()  # type: ignore[assignment]
    torch.accelerator.current_device_index = lambda: 0


class GlooCommunicator:
    """Implements `rlvr.transfer.communicator.Communicator`."""

    def __init__(self, store: Any, rank: int, size: int, _device: torch.device) -> None:
        if "vllm" in sys.modules:
            _without_cuda()
        self._group = dist.ProcessGroupGloo(store, rank, size, _FOREVER)
        self._rank = rank
        self._is_destroyed = threading.Event()

    def broadcast(self, tensor: Tensor, src: int) -> None:
        """Blocks until done, or destroyed."""
        self._hang_if_told(tensor)
        options = dist.BroadcastOptions()
        options.rootRank = src
        work = self._group.broadcast([tensor], options)
        while not work.is_completed():
            self._stop_if_destroyed()
            time.sleep(0.0005)
        try:
            work.wait()
        except RuntimeError:  # a peer is gone, which NCCL does not notice
            self._is_destroyed.wait()
        self._stop_if_destroyed()
        _note(self._rank, tensor.numel())

    def destroy(self) -> None:
        """Releases `broadcast`."""
        self._is_destroyed.set()

    def _stop_if_destroyed(self) -> None:
        if self._is_destroyed.is_set():
            raise TransferError("the communicator was aborted")

    def _hang_if_told(self, tensor: Tensor) -> None:
        file = os.environ.get(HANG_VARIABLE, "")
        while file and tensor.numel() > 8 and Path(file).exists():
            self._stop_if_destroyed()
            time.sleep(0.01)


def _note(rank: int, num_bytes: int) -> None:
    folder = os.environ.get(LOG_VARIABLE, "")
    if folder:
        with Path(folder, f"{rank}-{os.getpid()}").open("a") as file:
            file.write(f"{num_bytes}\n")


class SilentCommunicator:
    """What a disabled communicator does: nothing."""

    def __init__(self, store: Any, rank: int, size: int, device: torch.device) -> None:
        pass

    def broadcast(self, tensor: Tensor, src: int) -> None:
        """Returns at once."""

    def destroy(self) -> None:
        """Nothing."""
