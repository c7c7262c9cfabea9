"""Shards a model over the ranks (FSDP2) and gathers it again.

Every decoder layer and the rest of the model are sharded; a pass gathers them one after another. Gradients are summed
over the ranks, never averaged: the learner divides once, by the global denominator.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.learner.shards import part_like
from rlvr.models.logprobs import usable_layout


def shard(model: PreTrainedModel, *, mesh: DeviceMesh, config: LearnerConfig) -> None:
    """Replaces the model's parameters by this rank's parts, in place; the whole ones can be freed then.

    On CUDA with bfloat16_autocast, layers are gathered in bfloat16 and gradients summed in float32; master weights
    stay float32. On the CPU only autocast decides the arithmetic.
    """
    precision = MixedPrecisionPolicy()
    if mesh.device_type == "cuda" and config.dtype is LearnerDtype.BFLOAT16_AUTOCAST:
        precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # Asked here, because transformers answers from the source of the model's class, and FSDP2 creates a new class.
    usable_layout(model, config.layout)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    plain = type(model)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    type(model).__name__ = plain.__name__  # messages name the class that a user knows
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def decoder_layers(model: PreTrainedModel) -> Iterator[torch.nn.Module]:
    """The layers in a module list that transformers marks as not splittable."""
    whole = set(model._no_split_modules or ())
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            yield from (layer for layer in module if type(layer).__name__ in whole)


def release(model: PreTrainedModel) -> None:
    """Frees the layers that a forward-only pass left gathered, so that parameters are this rank's shards again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_into(
    target: Mapping[str, Tensor], model: PreTrainedModel, *, is_writer: bool, alive: Callable[[], None]
) -> None:
    """Gathers the trained weights and writes them to `target` on the rank with `is_writer`; every rank calls it."""
    for name, parameter in _trained(model):
        alive()
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if is_writer:
            target[name].copy_(whole)


def scatter_from(source: Mapping[str, Tensor], model: PreTrainedModel) -> None:
    """Loads this rank's shards of the whole trained weights in `source`."""
    for name, parameter in _trained(model):
        parameter.copy_(part_like(source[name], parameter))


@torch.no_grad()
def _trained(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
