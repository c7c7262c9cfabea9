"""References to published weights for engines: increasing versions, and checksums that a copy must match."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.errors import LearnerError
from rlvr.learner.weights.weights_file import FILES_AT_ONCE, WeightsFolder, place_for
from rlvr.learner.weights.wire import base_tensors, wire_shapes, wire_tensors
from rlvr.models.checksum import tensor_checksum
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.telemetry import logs

logger = logging.getLogger(__name__)
FILES_ALONE = 2  # of weights that are sent otherwise: the one being written, and the one before it


@runtime_checkable
class WeightFiles(Protocol):
    """Writes the files of a publication; `WeightsFolder`, or a rank's part in one."""

    def write(
        self,
        version: int,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        num_files: int = FILES_AT_ONCE,
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """Writes a version; iterates `tensors` to the end."""
        ...

    def write_base(
        self, tensors: Iterable[tuple[str, Tensor]], *, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> tuple[Path, tuple[TensorEntry, ...]]:
        """Writes the base of adapters; iterates `tensors` to the end."""
        ...

    def remove_trials(self) -> None:
        """Removes the files of trials."""
        ...

    def close(self) -> None:
        """Ends the writing. Safe to call twice."""
        ...


def require_room(model: PreTrainedModel, *, transport: Transport, dtype: torch.dtype, kind: WeightsKind) -> None:
    """Checks that the files of a run fit on this machine, before anything is computed or started.

    Raises: ConfigError, see `weights_file.place_for`.
    """
    if transport is Transport.FILE:
        place_for(bytes_of_files(model, dtype=dtype, kind=kind))


def bytes_of_files(model: PreTrainedModel, *, dtype: torch.dtype, kind: WeightsKind) -> int:
    """The space that published files need at one time."""
    whole = sum(map(math.prod, wire_shapes(model, WeightsKind.FULL).values()))
    if kind is WeightsKind.FULL:
        return FILES_AT_ONCE * whole * dtype.itemsize
    adapters = sum(map(math.prod, wire_shapes(model, kind).values()))
    return (whole + FILES_AT_ONCE * adapters) * dtype.itemsize


class Publication:
    """Counts publications of changed weights; the first has version 0. Trials count downwards from -1."""

    def __init__(
        self,
        *,
        transport: Transport,
        dtype: torch.dtype,
        folder: Path | None = None,
        kind: WeightsKind = WeightsKind.FULL,
        files: WeightFiles | None = None,
    ) -> None:
        """Args:
        dtype: of the engines' copy, with any transport but Transport.SHARED.
        kind: ADAPTER sends the base once and then only the adapters, with Transport.FILE and a model that has them.
        folder: where Transport.FILE creates its folder; None: the result of `weights_file.place_for`.
        files: writes the files of Transport.FILE; None: a `WeightsFolder` in `folder`.
        """
        self.policy_version = 0
        self.has_changed = True
        self._transport = transport
        self._dtype = dtype
        self._kind = kind
        self._base: WeightsRef | None = None
        self._files: WeightFiles = files or WeightsFolder(folder)
        self._num_trials = 0
        self._is_trial = False
        self._published: WeightsRef | None = None

    def restore(self, policy_version: int) -> None:
        """Continues from a checkpoint: the version stays, and the next publication is of new weights."""
        self.policy_version = policy_version
        self.has_changed = True
        self._published = None

    def publish(self, model: PreTrainedModel) -> WeightsRef:
        """The reference of the current weights of `model`, under the next version if they changed.

        The manifest holds checksums of the bytes that an engine must receive: whole weights with adapters merged, or
        adapters alone.

        Raises: LearnerError when the weights' file cannot be written, ConfigError when there is no room (`place_for`).
        """
        if self._published is not None and not self.has_changed:
            return self._published
        if self._published is not None:
            self.policy_version += 1
        logs.set_step(self.policy_version)
        logger.info("publishes the weights of version %d", self.policy_version)
        self._published = self._reference(model, self.policy_version)
        self.has_changed = False
        return self._published

    def publish_trial(self, model: PreTrainedModel) -> WeightsRef:
        """The reference of weights for a test only, which do not count as a version.

        Raises: LearnerError when the weights' file cannot be written.
        """
        self._num_trials += 1
        self._is_trial = True
        return self._reference(model, -self._num_trials)

    def end_trials(self) -> None:
        """Removes the files of trials."""
        self._is_trial = False
        self._files.remove_trials()

    def is_current(self, ref: WeightsRef) -> bool:
        """Whether the model still holds the weights that were published as `ref`."""
        if self._is_trial:
            return ref.policy_version == -self._num_trials
        return self._published is not None and not self.has_changed and ref.policy_version == self.policy_version

    def require_current(self, ref: WeightsRef) -> None:
        """Raises LearnerError unless the model still holds the weights of `ref`."""
        if not self.is_current(ref):
            raise LearnerError(
                f"weights of version {ref.policy_version} cannot be sent: the learner has changed them since; publish "
                "again"
            )

    def write_file(self, model: PreTrainedModel, ref: WeightsRef) -> WeightsRef | None:
        """The file of weights that were published without one; None when the model no longer holds them.

        Raises: LearnerError when it cannot be written, ConfigError when there is no room.
        """
        return self.write_whole(model, ref.policy_version, num_files=FILES_ALONE) if self.is_current(ref) else None

    def write_whole(self, model: PreTrainedModel, version: int, *, num_files: int = FILES_AT_ONCE) -> WeightsRef:
        """A file of the model's whole weights, adapters merged. Every rank of a sharded model must call it.

        Args: num_files: for how many files there must be room.

        Raises: LearnerError when it cannot be written, ConfigError when there is no room.
        """
        written = self._files.write(
            version,
            wire_tensors(model, dtype=self._dtype, kind=WeightsKind.FULL),
            shapes=wire_shapes(model, WeightsKind.FULL),
            dtype=self._dtype,
            num_files=num_files,
        )
        return self._written(version, WeightsKind.FULL, *written)

    def close(self) -> None:
        """Removes every file that was published. Safe to call twice."""
        self._files.close()

    def _reference(self, model: PreTrainedModel, version: int) -> WeightsRef:
        if self._transport is Transport.FILE:
            is_adapter = self._kind is WeightsKind.ADAPTER
            return self._adapters(model, version) if is_adapter else self.write_whole(model, version)
        dtype = self._dtype
        manifest: tuple[TensorEntry, ...] = ()
        if self._transport is Transport.SHARED:
            dtype = next(model.parameters()).dtype
        elif self._transport.is_sent:
            shapes = wire_shapes(model, WeightsKind.FULL)
            manifest = tuple(TensorEntry(name=name, shape=shape, checksum=None) for name, shape in shapes.items())
        else:
            manifest = tuple(
                TensorEntry(name=name, shape=tuple(weight.shape), checksum=tensor_checksum(weight))
                for name, weight in wire_tensors(model, dtype=dtype, kind=WeightsKind.FULL)
            )
        return WeightsRef(
            policy_version=version,
            kind=WeightsKind.FULL,
            transport=self._transport,
            uri="memory:learner",
            dtype=str(dtype).removeprefix("torch."),
            manifest=manifest,
        )

    def _adapters(self, model: PreTrainedModel, version: int) -> WeightsRef:
        if self._base is None:
            base = base_tensors(model, dtype=self._dtype)
            shapes = wire_shapes(model, WeightsKind.FULL)
            self._base = self._written(
                0, WeightsKind.FULL, *self._files.write_base(base, shapes=shapes, dtype=self._dtype)
            )
        path, manifest = self._files.write(
            version,
            wire_tensors(model, dtype=self._dtype, kind=WeightsKind.ADAPTER),
            shapes=wire_shapes(model, WeightsKind.ADAPTER),
            dtype=self._dtype,
        )
        ref = self._written(version, WeightsKind.ADAPTER, path, manifest)
        return replace(ref, base=self._base)

    def _written(self, version: int, kind: WeightsKind, path: Path, manifest: tuple[TensorEntry, ...]) -> WeightsRef:
        return WeightsRef(
            policy_version=version,
            kind=kind,
            transport=Transport.FILE,
            uri=str(path),
            dtype=str(self._dtype).removeprefix("torch."),
            manifest=manifest,
        )
