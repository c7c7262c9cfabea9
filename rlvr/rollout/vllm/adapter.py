"""Everything that uses unstable internals of vLLM. Imported by vLLM's worker and, for the probe, by the engine.

Assumptions, as of vLLM 0.32:
- `model_executor.model_loader.reload`: layers give up their weights, take new ones layer by layer, and process them.
- On a CPU a linear layer is packed into a closure, `layer.cpu_linear`. The reload packs again where it loads a layer's
  own tensor. A tied head owns none: its `weight` is the embedding's, and its closure keeps the old bytes.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from rlvr.records import WeightsRef

PACKED = ("cpu_linear",)  # attributes under which a module keeps a packed copy of its weight


def begin_reload(model: nn.Module) -> None:
    """Puts every layer into the state in which it accepts a checkpoint's tensors."""
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    initialize_layerwise_reload(model)


def end_reload(model: nn.Module, model_config: Any) -> None:
    """Processes the layers that the reload has not processed."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    finalize_layerwise_reload(model, model_config)


def partial_checkpoints() -> AbstractContextManager[None]:
    """Context in which a model accepts its tensors in several calls of `load_weights`."""
    from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

    return disable_mtp_completeness_check()


def packed_copies(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """The packed copies of each module that has one, by its name."""
    return {
        name: tuple(getattr(module, attribute, None) for attribute in PACKED)
        for name, module in model.named_modules()
        if any(hasattr(module, attribute) for attribute in PACKED)
    }


def repack_stale(model: nn.Module, before: Mapping[str, tuple[object, ...]]) -> list[str]:
    """Packs again every module whose packed copy is the one from before the load; returns their names.

    A module that packs and then drops its weight has nothing to pack from; the reload handles it, or the name is
    missing from the file, which is refused before the load.
    """
    stale: list[str] = []
    modules = dict(model.named_modules())
    for name, copies in packed_copies(model).items():
        module = modules[name]
        weight = getattr(module, "weight", None)
        method = getattr(module, "quant_method", None)
        is_stale = any(new is old for new, old in zip(copies, before.get(name, ()), strict=False))
        if is_stale and weight is not None and weight.numel() and method is not None:
            method.process_weights_after_loading(module)
            stale.append(name)
    return stale


def token_prompt(token_ids: Sequence[int], *, cache_salt: str) -> Any:
    """A prompt of tokens that vLLM uses unchanged: no template, no truncation, no tokenizer."""
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(token_ids), cache_salt=cache_salt)


def lora_request(folder: str, *, is_new: bool = False) -> Any:
    """The policy's adapters in `folder`, in peft's format; there is one set, which the next one replaces."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", 1, folder, load_inplace=is_new)


def init_request(**init_info: Any) -> Any:
    """The handshake of a transfer."""
    from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

    return WeightTransferInitRequest(init_info=init_info)


def update_request(**update_info: Any) -> Any:
    """The update that vLLM passes to the workers' transfer."""
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

    return WeightTransferUpdateRequest(update_info=update_info)


def broadcast_request(ref: WeightsRef) -> Any:
    """The update that announces the tensors of a broadcast to the workers."""
    return update_request(
        names=[entry.name for entry in ref.manifest],
        dtype_names=[ref.dtype] * len(ref.manifest),
        shapes=[list(entry.shape) for entry in ref.manifest],
    )


def retire(llm: Any) -> None:
    """Makes `__del__` of an AsyncLLM that was shut down do nothing.

    It would shut down again at the end of the interpreter, when the modules it needs are gone.
    """
    llm.shutdown = lambda timeout=None: None


def missing_capabilities() -> list[str]:
    """What rlvr needs and this vLLM lacks; empty when it can be used."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.inputs.engine import tokens_input
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM

    def methods(owner: type, *names: str) -> list[str]:
        return [f"{owner.__name__}.{name}" for name in names if not hasattr(owner, name)]

    def entries(owner: Callable[..., Any], have: Any, *names: str) -> list[str]:
        return [f"{owner.__name__}({name}=)" for name in names if name not in have]

    pause = inspect.signature(getattr(AsyncLLM, "pause_generation", lambda: None)).parameters
    return [
        *methods(
            AsyncLLM,
            "generate",
            "abort",
            "pause_generation",
            "resume_generation",
            "collective_rpc",
            "init_weight_transfer_engine",
            "start_weight_update",
            "update_weights",
            "finish_weight_update",
            "sleep",
            "wake_up",
            "shutdown",
            "errored",
            "add_lora",
        ),
        *entries(LoRARequest, LoRARequest.__struct_fields__, "load_inplace"),
        *entries(AsyncLLM, pause, "mode", "clear_cache"),
        *entries(
            SamplingParams,
            SamplingParams.__struct_fields__,
            "prompt_logprobs",
            "flat_logprobs",
            "seed",
            "skip_reading_prefix_cache",
            "include_stop_str_in_output",
        ),
        *entries(tokens_input, inspect.signature(tokens_input).parameters, "cache_salt"),
        *entries(CompletionOutput, [f.name for f in dataclasses.fields(CompletionOutput)], "weight_versions"),
        *entries(
            AsyncEngineArgs,
            known_arguments(),
            "weight_transfer_config",
            "worker_extension_cls",
            "scheduler_cls",
            "logprobs_mode",
            "generation_config",
            "enable_lora",
            "max_lora_rank",
        ),
    ]


def known_arguments() -> list[str]:
    """The names of vLLM's engine arguments."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return [f.name for f in dataclasses.fields(AsyncEngineArgs)]
