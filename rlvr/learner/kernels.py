"""Faster arithmetic for a loaded model: Liger's kernels, and compiled decoder layers. Neither changes a number beyond
rounding.

`compile` works layer by layer: all layers of a model share one compiled graph, lengths are dynamic, and the code
between the layers (packing, masks, the head in chunks) is not compiled. Calls with a key-value cache stay eager, so an
engine that shares the model generates as before, and no length triggers a new compilation.
The first step includes the compilation, once per process for each kind of pass (with gradient; without, where there is
a reference or several minibatches). Measured on two CPU cores, SmolLM2-135M in bfloat16: 17 s in the first step (54 s
with adapters and a KL term), then 2.4 s of training per step against 2.1 s without, and 0.3 GiB less memory: no gain
there. Neither was run on a GPU, and neither is a default there (DECISIONS.md, decision 59).
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.config.extras import needed
from rlvr.config.sections.learner import Kernels, LearnerConfig
from rlvr.errors import ConfigError
from rlvr.models.families import CACHE_ARGUMENTS


def prepare_model(model: PreTrainedModel, *, config: LearnerConfig) -> None:
    """Puts the kernels that `config` asks for into the model, in place; a second call changes nothing.

    Raises: ConfigError when the device or the architecture does not support them, or a package is missing.
    """
    if config.kernels is Kernels.LIGER:
        use_liger(model, device=model.device)
    if config.compile:
        compile_layers(model)


def use_liger(model: PreTrainedModel, *, device: torch.device) -> None:
    """Liger's norms, rotary embeddings and gated linear units in place of the model's own.

    Raises: ConfigError when the model is not on a CUDA device, liger-kernel is missing, or it does not support the
        architecture.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"learner.kernels=liger needs a CUDA device, and the policy is on {device.type}; set learner.kernels=torch"
        )
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance  # type: ignore[import-not-found] # only on GPU machines
    except ImportError as error:
        raise ConfigError(needed("liger_kernel", error)) from error
    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise ConfigError(
            f"learner.kernels=liger: liger-kernel does not support the architecture {kind!r}, only {known}; set "
            "learner.kernels=torch"
        )
    # Our own losses take the hidden states and the head; Liger's fused ones would replace the model's forward method.
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)


def compile_layers(model: PreTrainedModel) -> None:
    """Compiles the forward and backward pass of each decoder layer, for any length, at the first call.

    Raises: ConfigError when the architecture lacks transformers' common decoder layers.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"learner.compile=true: {type(model).__name__} has none of transformers' common decoder layers; "
            "set learner.compile=false"
        )
    for layer in layers:
        if layer._compiled_call_impl is None:
            layer.compile(dynamic=True)
            compiled: Any = layer._compiled_call_impl  # which torch types as None
            layer._compiled_call_impl = _without_cache(compiled, layer._call_impl)


def _without_cache(compiled: Callable[..., Any], eager: Callable[..., Any]) -> Callable[..., Any]:
    """Calls `eager` if there is a key-value cache, whose length changes with each token, else `compiled`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        has_cache = any(kwargs.get(name) is not None for name in CACHE_ARGUMENTS)
        return eager(*args, **kwargs) if has_cache else compiled(*args, **kwargs)

    return call
