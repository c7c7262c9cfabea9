"""Writes a checkpoint of a sharded learner: every rank its own part, in the background.

`start` copies this rank's part to the CPU and returns; threads then write it while training continues. One checkpoint
is written at a time. An error of the writing is raised by `finish`.
"""

import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import async_save

from rlvr.errors import CheckpointError
from rlvr.learner.ranks.signs import signs_of_life, written_bytes
from rlvr.models.sharded_weights import OPTIMIZER_FOLDER, WEIGHTS_FOLDER


class ShardedSaver:
    """One rank's part of writing checkpoints; every rank makes the same calls."""

    def __init__(self, *, alive: Callable[[], None], timeout: timedelta) -> None:
        self._alive = alive
        self._folder = Path()
        self._running: list[Future[Any]] = []
        # The threads exchange plans among the ranks while the main thread trains: each has connections of its own.
        self._groups: list[Any] = [dist.new_group(backend="gloo", timeout=timeout) for _ in range(2)]

    @property
    def is_done(self) -> bool:
        """Whether everything is written."""
        return all(future.done() for future in self._running)

    def start(self, folder: Path, *, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Begins to write both below `folder`, after what was started before.

        Raises: CheckpointError when that failed.
        """
        self.finish()
        self._folder = folder
        parts = {WEIGHTS_FOLDER: weights, OPTIMIZER_FOLDER: optimizer}
        with signs_of_life(self._alive), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own deprecated calls
            for group, (name, state) in zip(self._groups, parts.items(), strict=True):
                if state:
                    future: Any = async_save(state, checkpoint_id=folder / name, process_group=group)
                    self._running.append(future)

    def finish(self) -> None:
        """Waits until everything is written. Raises CheckpointError when it could not be."""
        running, self._running = self._running, []
        folder = self._folder
        with signs_of_life(self._alive, progress=lambda: written_bytes(folder)):
            for future in running:
                try:
                    future.result()
                except (OSError, RuntimeError, ValueError, CheckpointException) as error:
                    raise CheckpointError(_why(folder, error)) from error


def _why(folder: Path, error: BaseException) -> str:
    """The first cause, because torch's error holds the traces of all ranks."""
    causes = getattr(error, "failures", None)
    first = next(iter(causes.values()))[0] if causes else error
    text = str(first).strip().splitlines()[0] if str(first).strip() else type(first).__name__
    free = shutil.disk_usage(folder.parent).free if folder.parent.is_dir() else 0
    return f"checkpoint {folder} could not be written: {text} ({free / 2**30:.1f} GiB free)"
