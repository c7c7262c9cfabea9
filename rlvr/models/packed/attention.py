"""Attention over a stream of packed sequences, in any transformers model that uses the attention interface.

`use_packed_attention` names our function in the model's config; `model(..., packed_layout=layout)` then runs it over a
stream [1, tokens]. Calls without a layout (generation, a cache, padded rows) go to transformers' own SDPA function and
its masks, so one model serves the learner and an engine. The layout is an argument and not a context variable: the
recomputation of activation checkpointing, which may run in another thread, sees the same one.
"""

import inspect
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rlvr.models.packed.block_attention import attend_in_blocks
from rlvr.models.packed.layout import PackedLayout
from rlvr.models.packed.ragged_attention import attend_ragged, fits_kernel, known_kernel
from rlvr.models.packed.small_attention import attend_small, is_small

NAME = "rlvr_packed"
# Shape of the attention mask that goes with a layout. transformers uses a mask of four dimensions unchanged.
NO_MASK = (1, 1, 1, 1)
# Arguments that change the attention and that a packed layout does not support. Others (position_ids, ...) do not.
_UNKNOWN_ARGUMENTS = ("softcap", "s_aux", "sliding_window", "position_bias", "head_mask", "sinks")
_refused: "WeakKeyDictionary[PreTrainedModel, str]" = WeakKeyDictionary()


class UnsupportedAttentionError(Exception):
    """A layer asked for attention that a packed layout does not support; its message is the reason."""


def can_pack(model: PreTrainedModel) -> str:
    """The reason why the model's layers cannot run over a packed stream; empty if they can.

    They can if every layer attends to all earlier tokens, through transformers' attention interface. What only a pass
    can show (a layer with its own masks, or one that bypasses the interface) `token_logprobs` finds at the first pass.
    """
    if model in _refused:
        return _refused[model]
    implementation = model.config._attn_implementation
    if implementation not in ("sdpa", NAME):
        return f"its attention implementation is {implementation!r}, not 'sdpa'"
    if not model._can_set_attn_implementation() or not model._supports_attention_backend:
        return "its attention does not go through the attention interface of transformers"
    accepts = inspect.signature(model.forward).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepts):
        return "its forward method takes no further arguments for attention"
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if kinds != {DynamicLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "no layers"
        return f"not every layer attends to all earlier tokens (its cache has {names})"
    if getattr(model.config, "attn_logit_softcapping", None):
        return "it caps attention scores (attn_logit_softcapping)"
    return ""


def refuse_packing(model: PreTrainedModel, reason: str) -> None:
    """Sets the reason that `can_pack(model)` returns, after a forward pass has shown it."""
    _refused[model] = reason


def use_packed_attention(model: PreTrainedModel) -> None:
    """Makes the model's layers accept `packed_layout`; without one they compute the same as before."""
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def num_attention_layers(model: PreTrainedModel) -> int:
    """How often one forward pass must call the attention function."""
    return len(DynamicCache(config=model.config).layers)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in each layer: [1, heads, tokens, dim] -> [1, tokens, heads, dim]."""
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None and attention_mask.shape != NO_MASK:
        raise UnsupportedAttentionError("its layers make their own attention masks")
    if kwargs.get("dropout"):
        raise UnsupportedAttentionError(f"its attention has dropout {kwargs['dropout']}")
    for name in _UNKNOWN_ARGUMENTS:
        if kwargs.get(name) is not None:
            raise UnsupportedAttentionError(f"its attention uses {name!r}")
    if not kwargs.get("is_causal", getattr(module, "is_causal", True)):
        raise UnsupportedAttentionError("its attention is not causal")
    return _eager_over_stream(query, key, value, packed_layout, kwargs.get("scaling")), None


def _over_stream(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float | None) -> Tensor:
    layout.num_calls += 1
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        narrow = torch.get_autocast_dtype(kind)
        query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    scale = float(query.shape[-1] ** -0.5) if scaling is None else scaling
    kernel = known_kernel(query.device) if fits_kernel(query, value) else None
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if kernel is not None:
        return attend_ragged(query, key, value, layout=layout, scale=scale, kernel=kernel)[None]
    attend = partial(_attend, scale=scale)
    return attend_in_blocks(query, key, value, layout=layout, attend=attend)[None]


# A compiled layer breaks its graph here: lengths and blocks differ in every micro-batch.
_eager_over_stream: Any = torch.compiler.disable(_over_stream)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, scale: float) -> Tensor:
    if is_small(query, key, value):
        return attend_small(query, key, value, bias=bias, scale=scale)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and bias is not None and query.is_cuda:
        # With a mask, only equal numbers of heads have a fast kernel there.
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias,
        is_causal=bias is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
