"""A rank's part in writing published weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from rlvr.learner.weights.weights_file import FILES_AT_ONCE, WeightsFolder
from rlvr.records import TensorEntry


class RankFiles:
    """Implements `rlvr.learner.weights.publication.WeightFiles`: rank 0 writes, the others only help to gather."""

    def __init__(self, folder: Path | None, *, alive: Callable[[], None]) -> None:
        """Args: folder: the parent's, which exists; None for a rank that does not write."""
        self._files = None if folder is None else WeightsFolder(made=folder)
        self._alive = alive

    def write(
        self,
        version: int,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        num_files: int = FILES_AT_ONCE,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """`WeightsFolder.write` with signs of life; nothing on a rank that does not write."""
        seen = self._seen(tensors)
        if self._files is None:
            return self._gathered(seen)
        return self._files.write(version, seen, shapes=shapes, dtype=dtype, num_files=num_files)

    def write_base(
        self, tensors: Iterable[tuple[str, Tensor]], *, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """`WeightsFolder.write_base` with signs of life; nothing on a rank that does not write."""
        seen = self._seen(tensors)
        if self._files is None:
            return self._gathered(seen)
        return self._files.write_base(seen, shapes=shapes, dtype=dtype)

    def remove_trials(self) -> None:
        """Removes the files of trials."""
        if self._files is not None:
            self._files.remove_trials()

    def close(self) -> None:
        """Does nothing: the parent removes its folder."""

    def _seen(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for pair in tensors:
            self._alive()
            yield pair

    def _gathered(self, tensors: Iterable[tuple[str, Tensor]]) -> tuple[Path, tuple[TensorEntry, ...]]:
        for _ in tensors:
            pass
        return Path(), ()
