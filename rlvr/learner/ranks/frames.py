"""The protocol between a parent and its ranks: frames of JSON and safetensors over a pipe, never pickle.

    frame = 8 bytes: size of the JSON | 8 bytes: size of the tensors | JSON object | safetensors

>>> data = bytearray(encode(Frame(body={"op": "apply"}, tensors={"x": torch.arange(2)})))
>>> frame = take_frame(data)
>>> frame.body, frame.tensors["x"].tolist(), len(data)
({'op': 'apply'}, [0, 1], 0)
>>> take_frame(bytearray(8)) is None
True
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from rlvr.batch import Batch

HEADER = struct.Struct(">QQ")
MAX_FRAME_BYTES = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message: `body` is a JSON value (nan and infinity included), `tensors` by name."""

    body: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    text = json.dumps(dict(frame.body), separators=(",", ":")).encode()
    blob = b""
    if frame.tensors:
        blob = save({name: value.detach().cpu().contiguous() for name, value in frame.tensors.items()})
    return HEADER.pack(len(text), len(blob)) + text + blob


def take_frame(buffer: bytearray) -> Frame | None:
    """The first whole frame, removed from the buffer; None while it is incomplete.

    Raises: ValueError on bytes that are not a frame.
    """
    if len(buffer) < HEADER.size:
        return None
    text_size, blob_size = HEADER.unpack_from(buffer)
    if text_size + blob_size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {text_size + blob_size} bytes is above the limit of {MAX_FRAME_BYTES}")
    middle = HEADER.size + text_size
    end = middle + blob_size
    if len(buffer) < end:
        return None
    body = json.loads(bytes(buffer[HEADER.size : middle]))
    tensors = load(bytes(buffer[middle:end])) if blob_size else {}
    del buffer[:end]
    return Frame(body=body, tensors=tensors)


def batch_frame(op: str, batch: Batch | None) -> Frame:
    """A message about some rows; None if this rank has none."""
    if batch is None:
        return Frame(body={"op": op, "counts": None})
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return Frame(
        body={"op": op, "counts": {k: v for k, v in values.items() if isinstance(v, int)}},
        tensors={k: v for k, v in values.items() if isinstance(v, torch.Tensor)},
    )


def frame_batch(frame: Frame) -> Batch | None:
    """The rows that `batch_frame` sent."""
    counts = frame.body["counts"]
    if counts is None:
        return None
    values: dict[str, Any] = {**counts, **frame.tensors}
    return Batch(**values)
