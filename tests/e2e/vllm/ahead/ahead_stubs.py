"""CUDA's streams and events that do nothing, for vLLM's asynchronous scheduling on a CPU. Only its workers import this.

The copies that a GPU would make on a stream of its own are made at once there.
"""

import contextlib
from typing import Any

import torch

from rlvr.rollout.vllm.extension import WorkerExtension


class _Nothing:
    """A stream or an event of a device that is never behind."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device("cpu")

    def record(self, *_: Any) -> None:
        """Nothing is under way."""

    wait = wait_stream = wait_event = synchronize = record


torch.cuda.Stream = torch.cuda.Event = _Nothing  # type: ignore[assignment, misc]
torch.cuda.current_stream = lambda *_: _Nothing()  # type: ignore[assignment]
torch.cuda.stream = lambda _stream: contextlib.nullcontext()  # type: ignore[assignment]


class AheadExtension(WorkerExtension):
    """The worker's extension, in a process where the stubs are in place."""
