"""The tensors that engines receive, in the dtype of the wire: whole, under their published names, in one fixed order.

    kind FULL       every weight of the plain architecture, adapters merged; a tied weight once
    kind ADAPTER    the adapters alone, under peft's names; their base is sent once (`base_tensors`)

A sharded model works too. Each of its tensors is cast before it is gathered, so that bfloat16 moves half the bytes of
the float32 master weights, and only one whole tensor is held at a time. The gather is a collective: every rank must
iterate to the end, whether it uses the tensors or not.

The bits do not depend on the number of ranks: casting commutes with gathering, and what an adapter adds is computed
whole in float32 by every rank, which then takes its own rows of it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlvr.learner.shards import part_like
from rlvr.models import lora
from rlvr.records import WeightsKind


@torch.no_grad()
def wire_tensors(model: PreTrainedModel, *, dtype: torch.dtype, kind: WeightsKind) -> Iterator[tuple[str, Tensor]]:
    """(published name, whole tensor in `dtype`) of everything that an engine receives, on the model's device.

    Every rank of a sharded model must iterate it to the end. Tensors of an unsharded model that already have `dtype`
    are the model's own.
    """
    if kind is WeightsKind.ADAPTER:
        for name, tensor in lora.adapter_state_dict(model).items():
            yield name, _whole(tensor, dtype)
        return
    deltas = lora.deltas(model, whole=_gathered)
    for name, weight in lora.base_weights(model):
        if name in deltas:
            weight = weight + part_like(deltas[name]().to(weight.dtype), weight)
        yield name, _whole(weight, dtype)


@torch.no_grad()
def base_tensors(model: PreTrainedModel, *, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Like `wire_tensors` of kind FULL, without what the adapters add: the frozen base of kind ADAPTER."""
    for name, weight in lora.base_weights(model):
        yield name, _whole(weight, dtype)


def wire_shapes(model: PreTrainedModel, kind: WeightsKind) -> dict[str, tuple[int, ...]]:
    """Name -> whole shape of the tensors of `wire_tensors`, in the same order; without any communication."""
    if kind is WeightsKind.ADAPTER:
        return {name: tuple(tensor.shape) for name, tensor in lora.adapter_state_dict(model).items()}
    return {name: tuple(weight.shape) for name, weight in lora.base_weights(model)}


def _gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The local part is cast first, and the gather moves the narrower numbers."""
    return _gathered(tensor.detach().to(dtype))
