"""What engines are told about weights: versions that rise with them, and checksums of what a copy must hold."""

import torch
from transformers import PreTrainedModel

from rlvr.models import lora
from rlvr.models.checksum import tensor_checksum
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef


class Publication:
    """Counts publications of changed weights; the first has version 0."""

    def __init__(self, *, transport: Transport, dtype: torch.dtype) -> None:
        """Args: dtype: of the copy that an engine keeps, with Transport.IN_PLACE_COPY."""
        self.policy_version = 0
        self.has_changed = True
        self._transport = transport
        self._dtype = dtype
        self._published: WeightsRef | None = None

    def restore(self, policy_version: int) -> None:
        """Goes on from a checkpoint: the version stays, and the next publication is of new weights."""
        self.policy_version = policy_version
        self.has_changed = True
        self._published = None

    def publish(self, model: PreTrainedModel) -> WeightsRef:
        """The reference of the present weights of `model`, under the next version where they changed.

        The manifest holds checksums of the bytes that an engine's copy must hold, adapters merged.
        """
        if self._published is not None and not self.has_changed:
            return self._published
        if self._published is not None:
            self.policy_version += 1
        manifest: tuple[TensorEntry, ...] = ()
        dtype = next(model.parameters()).dtype
        if self._transport is Transport.IN_PLACE_COPY:
            dtype = self._dtype
            manifest = tuple(
                TensorEntry(
                    name=name,
                    shape=tuple(weight.shape),
                    checksum=tensor_checksum(weight.to(dtype)),
                )
                for name, weight in lora.merged_weights(model)
            )
        self.has_changed = False
        self._published = WeightsRef(
            policy_version=self.policy_version,
            kind=WeightsKind.FULL,
            transport=self._transport,
            uri="memory:learner",
            dtype=str(dtype).removeprefix("torch."),
            manifest=manifest,
        )
        return self._published
