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

_BFLOAT16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def shard(model: PreTrainedModel, *, mesh: DeviceMesh, config: LearnerConfig) -> None:
    """Replaces the model's parameters by this rank's parts, in place; the whole ones can be freed then.

    Master weights and the sums of gradients are float32. With bfloat16_autocast, the weights of linear layers inside
    the decoder layers are gathered in bfloat16, which is what autocast would make of them: the products are those of
    one learner, bit for bit, and no cast copy of a whole layer is kept for the backward pass. All other parameters
    (norms, embeddings, the head) are gathered in float32, and activations are not cast, so that the residual stream
    stays float32 as with one learner. With learner.compile everything is gathered in float32: a gather inside a layer
    would split its graph.
    """
    # Asked here, because transformers answers from the source of the model's class, and FSDP2 creates a new class.
    usable_layout(model, config.layout)
    is_narrow = config.dtype is LearnerDtype.BFLOAT16_AUTOCAST and not config.compile
    for layer in decoder_layers(model):
        linear = plain_linears(layer) if is_narrow else []
        if linear:
            fully_shard(linear, mesh=mesh, mp_policy=_BFLOAT16)
        fully_shard(layer, mesh=mesh)
    plain = type(model)
    fully_shard(model, mesh=mesh)
    type(model).__name__ = plain.__name__  # messages name the class that a user knows
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def materialize(model: PreTrainedModel, *, device: torch.device) -> None:
    """Gives the parameters of a sharded model that are on the meta device memory for this rank's parts, undefined."""

    def is_meta(tensor: Tensor) -> bool:
        return isinstance(tensor, DTensor) and tensor.to_local().is_meta

    if any(map(is_meta, model.parameters())):
        model._apply(lambda t: torch.empty_like(t, device=device) if is_meta(t) else t)  # by which FSDP2 notices


def plain_linears(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """The linear layers inside a decoder layer whose weights reach a product only by their own call.

    A state-space mixer is left out: its kernels read the weights of its linear layers.
    """
    mixers = [module for module in layer.modules() if hasattr(module, "A_log")]
    read_by_kernels = {child for mixer in mixers for child in mixer.modules()}
    return [m for m in layer.modules() if type(m) is torch.nn.Linear and m not in read_by_kernels]


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
