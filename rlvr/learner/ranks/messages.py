"""The messages between a parent and its ranks: JSON values, and tensors by name as safetensors.

>>> data = bytearray(encode(Message(body={"op": "apply"}, tensors={"x": torch.arange(2)})))
>>> message = decode(frames.take_frame(data))
>>> message.body, message.tensors["x"].tolist()
({'op': 'apply'}, [0, 1])
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from rlvr.algorithms.corrections import Correction
from rlvr.batch import Batch
from rlvr.importance_weights import WeightBound, WeightLevel
from rlvr.processes import frames
from rlvr.processes.frames import Frame
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message: `body` is a JSON object (nan and infinity included), `tensors` by name."""

    body: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def encode(message: Message) -> bytes:
    """The message as one frame."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in message.tensors.items()}
    return frames.encode(message.body, save(tensors) if tensors else b"")


def decode(frame: Frame) -> Message:
    """The message that `encode` wrote."""
    return Message(body=frame.body, tensors=load(frame.blob) if frame.blob else {})


def batch_message(op: str, batch: Batch | None) -> Message:
    """A message about some rows; None if this rank has none."""
    if batch is None:
        return Message(body={"op": op, "counts": None})
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Message(
        body={"op": op, "counts": {k: v for k, v in values.items() if isinstance(v, int)}},
        tensors={k: v for k, v in values.items() if isinstance(v, torch.Tensor)},
    )


def batch_of(message: Message) -> Batch | None:
    """The rows that `batch_message` sent."""
    counts = message.body["counts"]
    if counts is None:
        return None
    values: dict[str, Any] = {**counts, **message.tensors}
    return Batch(**values)


def correction_to_json(correction: Correction) -> dict[str, Any]:
    """Values for JSON."""
    return asdict(correction)


def correction_from_json(values: dict[str, Any]) -> Correction:
    """The Correction that `correction_to_json` wrote.

    >>> strict = Correction(level=WeightLevel.TOKEN, bound=WeightBound.MASK, weight_max=1.5)
    >>> correction_from_json(correction_to_json(strict)) == strict
    True
    """
    assert {f.name for f in fields(Correction)} == set(values)
    enums = {"level": WeightLevel(values["level"]), "bound": WeightBound(values["bound"])}
    return Correction(**{**values, **enums})


def ref_to_json(ref: WeightsRef) -> dict[str, Any]:
    """Values for JSON."""
    return asdict(ref)


def ref_from_json(values: Mapping[str, Any]) -> WeightsRef:
    """The reference that `ref_to_json` wrote."""
    manifest = tuple(
        TensorEntry(name=entry["name"], shape=tuple(entry["shape"]), checksum=entry["checksum"])
        for entry in values["manifest"]
    )
    return WeightsRef(
        policy_version=values["policy_version"],
        kind=WeightsKind(values["kind"]),
        transport=Transport(values["transport"]),
        uri=values["uri"],
        dtype=values["dtype"],
        manifest=manifest,
        base=None if values["base"] is None else ref_from_json(values["base"]),
    )
