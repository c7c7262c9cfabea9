"""Low-rank adapters (LoRA, arXiv:2106.09685) on the linear layers of a policy, by peft.

    y = W x + (alpha / rank) B A x        A: [rank, in], B: [out, rank], B starts at 0, W is frozen

The model stays a plain transformers model, whose adapted layers are wrapped in place. It has three views:
    enabled     the learner trains its adapters; an engine that shares it computes with them
    disabled    the policy before training, at no cost in memory: the reference of a KL term
    merged      W + (alpha / rank) B A under the plain names, which is exported and copied by engines

Functions that read weights take a `state` (name -> whole tensor), so that a learner with sharded parameters can pass
the gathered tensors.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlvr.config.extras import needed
from rlvr.config.sections.model import ALL_LINEAR, LoraConfig
from rlvr.errors import CheckpointError, ConfigError, OtherCheckpoint

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER = "default"
_SAVED_PREFIX = "base_model.model."  # of every name in peft's files
logger = logging.getLogger(__name__)
# Linear layers of a state-space mixer whose weight its kernels, or its own code, use without calling the layer.
_READ_BY_KERNELS = ("out_proj", "x_proj", "dt_proj")
_MARKS = (f".lora_A.{_ADAPTER}.", f".lora_B.{_ADAPTER}.")


def attach(model: PreTrainedModel, config: LoraConfig, *, seed: int, base_name: str) -> PreTrainedModel:
    """The same model with adapters on the layers that `config.target_modules` names; only they are trained.

    Args:
        seed: of the random A matrices.
        base_name: what the exported adapter names as its base.

    Raises: ConfigError when peft is missing or rejects a layer, a name matches nothing, or a matched layer cannot be
        merged again.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(needed("peft", error)) from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type] # peft only divides it, so a float works
        lora_dropout=0.0,
        bias="none",
        target_modules=target_names(model, config.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)
        except ValueError as error:
            raise ConfigError(
                f"model.lora.target_modules={config.target_modules}: peft rejects {type(model).__name__}: {error}"
            ) from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(mark in name for mark in _MARKS))
    return model


def target_names(model: PreTrainedModel, wanted: Collection[str]) -> list[str]:
    """Names for peft of the layers wanted: `all-linear`, names of modules, or the last parts of them.

    `all-linear` leaves out the head, and layers whose adapter could not be merged again; a warning names those.

    Raises: ConfigError.
    """
    linear = {n: m for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D))}
    head = model.get_output_embeddings()
    plain = {name for name, module in linear.items() if module is not head}
    unfit = unfit_layers(model, linear)
    fit = plain - set(unfit)
    leaves = sorted({_leaf(name) for name in fit})
    if ALL_LINEAR in wanted:
        _say_left_out(model, unfit)
        other = {_leaf(name) for name, _ in model.named_modules() if name not in fit}
        return leaves if other.isdisjoint(leaves) else sorted(fit)
    chosen: set[str] = set()
    for name in wanted:
        found = {full for full in linear if full == name or full.endswith(f".{name}")}
        if not found:
            raise ConfigError(
                f"model.lora.target_modules: {name!r} matches no linear layer of {type(model).__name__}; its linear "
                f"layers are {', '.join(leaves)}; or [{ALL_LINEAR}] for all of them"
            )
        refused = sorted(found & set(unfit))
        if refused:
            raise ConfigError(
                f"model.lora.target_modules: {name!r} matches {refused[0]!r}, which takes no adapter: "
                f"{unfit[refused[0]]}; take some of {', '.join(leaves)}, or model.lora.rank=0 to train all weights"
            )
        chosen |= found
    _refuse_tied(model, chosen)
    return sorted(set(wanted))


def unfit_layers(model: PreTrainedModel, linear: Mapping[str, torch.nn.Module]) -> dict[str, str]:
    """Layer -> why an adapter on it would have no effect, or could not be merged into the layer's weight."""
    found: dict[str, str] = {}
    fused = {leaf for leaf in {_leaf(name) for name in linear} if _is_fused_by_peft(model, leaf)}
    for name, module in linear.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if not _is_plain_product(module):
            found[name] = f"a {type(module).__name__} computes more than its product"
        elif _leaf(name) in _READ_BY_KERNELS and hasattr(owner, "A_log"):
            found[name] = "state-space layers read its weight and bypass the layer"
        elif _leaf(name) in fused:
            found[name] = "peft would attach an adapter of this name to the fused experts"
    return found


def has_adapters(model: torch.nn.Module) -> bool:
    """Whether `attach` was called on the model."""
    return getattr(model, "peft_config", None) is not None


@contextmanager
def disabled(model: PreTrainedModel) -> Iterator[None]:
    """A context in which, in this thread, the model computes without its adapters: the policy before training.

    An engine that generates with the same model in another thread keeps them. Compiled layers run eagerly.
    """
    layers = [layer for _, layer in _adapted(model)]
    thread = get_ident()

    def base_in_this_thread(layer: Any) -> Callable[..., Any]:
        adapted, base = layer.forward, layer.get_base_layer()

        def forward(*args: Any, **kwargs: Any) -> Any:
            chosen = base if get_ident() == thread else adapted
            return chosen(*args, **kwargs)

        return forward

    try:
        for layer in layers:
            layer.forward = base_in_this_thread(layer)
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for layer in layers:
            del layer.forward


def base_weights(model: PreTrainedModel, *, state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of the plain architecture, without the adapters.

    Args: state: name -> whole tensor; None takes the model's parameters (a tied one once).
    """
    own = dict(model.named_parameters()) if state is None else state
    layers = dict(_adapted(model))
    for name, tensor in own.items():
        if any(mark in name for mark in _MARKS):
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        yield (f"{owner}.{leaf}" if owner in layers else name), tensor.detach()


def merged_weights(
    model: PreTrainedModel, *, state: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """`base_weights`, with the adapters merged into their layers."""
    own = dict(model.named_parameters()) if state is None else state
    layers = dict(_adapted(model))
    for name, weight in base_weights(model, state=own):
        owner, _, leaf = name.rpartition(".")
        if owner in layers and leaf == "weight":
            yield name, weight + _delta(layers[owner], owner, own).to(weight.dtype)
        else:
            yield name, weight


def deltas(
    model: PreTrainedModel, *, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> dict[str, Callable[[], Tensor]]:
    """For each weight with an adapter, under its name in `base_weights`, a function that computes what is added to it.

    Args: whole: makes an adapter's tensor whole, for a model with sharded parameters.
    """

    def computed(layer: Any, name: str) -> Callable[[], Tensor]:
        names = (f"{name}.lora_{letter}.{_ADAPTER}.weight" for letter in "AB")
        own = {full: model.get_parameter(full) for full in names}
        return lambda: _delta(layer, name, {full: whole(tensor.detach()) for full, tensor in own.items()})

    return {f"{name}.weight": computed(layer, name) for name, layer in _adapted(model)}


def merged_state_dict(model: PreTrainedModel, *, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The state_dict for `save_pretrained`: parameters and buffers of the plain architecture."""
    return dict(merged_weights(model, state=model.state_dict() if state is None else state))


def adapter_names(model: PreTrainedModel) -> dict[str, str]:
    """The model's name of each adapter tensor -> its name in peft's file."""
    names = (n for n, _ in model.named_parameters() if any(mark in n for mark in _MARKS))
    return {name: _SAVED_PREFIX + name.replace(f".{_ADAPTER}.", ".") for name in names}


def adapter_state_dict(model: PreTrainedModel, *, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Only the adapters, under peft's names."""
    own = dict(model.named_parameters()) if state is None else state
    return {saved: own[name].detach() for name, saved in adapter_names(model).items()}


def save_adapter(model: PreTrainedModel, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes `folder` in peft's own format: `PeftModel.from_pretrained(base, folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in adapter_state_dict(model, state=state).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings: dict[str, Any] = _settings(model).to_dict()
    settings["inference_mode"] = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")


def read_adapter(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """The adapter tensors that `save_adapter` wrote, under the model's names, on the CPU.

    Raises: CheckpointError when the folder cannot be read or is of another adapter.
    """
    file = folder / ADAPTER_WEIGHTS
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the adapter {file} cannot be read: {error}; resume from an older checkpoint with --checkpoint step_N"
        ) from error
    own = dict(model.named_parameters())
    names = adapter_names(model)
    wrong = [name for name, there in names.items() if there not in saved or saved[there].shape != own[name].shape]
    extra = set(saved) - set(names.values())
    if wrong or extra:
        raise OtherCheckpoint(
            f"the adapter {file} does not match: {len(wrong)} tensors are missing or differ in shape and {len(extra)} "
            f"are unknown (first: {min([*wrong, *extra])!r}); model.lora must be the one of the run"
        )
    return {name: saved[there] for name, there in names.items()}


def plain_copy(model: PreTrainedModel, *, dtype: torch.dtype) -> PreTrainedModel:
    """A frozen copy in eval mode, adapters merged; buffers, such as rotary tables, keep their precision.

    The copy is never held in another precision, not even briefly.
    """
    memo = {
        id(p): torch.nn.Parameter(torch.empty_like(p, dtype=dtype), requires_grad=False) for p in model.parameters()
    }
    clone = deepcopy(model, memo)
    for name, layer in list(_adapted(clone)):
        clone.set_submodule(name, layer.get_base_layer())
    if has_adapters(clone):
        del clone.peft_config
    target = dict(clone.named_parameters())
    with torch.no_grad():
        for name, weight in merged_weights(model):
            target[name].copy_(weight)
    clone.gradient_checkpointing_disable()
    return clone.eval()


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _is_plain_product(module: Any) -> bool:
    """Whether a custom class of linear layer behaves like one (a router's result is a tuple, for example)."""
    if type(module).forward in (torch.nn.Linear.forward, Conv1D.forward):
        return True
    row = torch.linspace(-1, 1, module.in_features).to(module.weight)[None]
    with torch.no_grad():
        result = module(row)
        if not isinstance(result, Tensor):
            return False
        expected = torch.nn.functional.linear(row, module.weight, module.bias)
        return result.is_meta or torch.allclose(result, expected, rtol=1e-3, atol=1e-5)


def _is_fused_by_peft(model: PreTrainedModel, leaf: str) -> bool:
    """Whether peft mistakes a layer's name for that of experts, which transformers 5 holds as one parameter."""
    try:
        from peft import LoraConfig as PeftConfig
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # no peft yet, or one that converts nothing
        return False
    settings = PeftConfig(target_modules=[leaf])
    try:
        convert_peft_config_for_transformers(settings, model=model, conversions=None)
    except ValueError:  # one of two names that are fused into one
        return True
    return bool(settings.target_parameters)


def _say_left_out(model: PreTrainedModel, unfit: Mapping[str, str]) -> None:
    experts = [name for name, p in model.named_parameters() if ".experts." in f".{name}" and p.dim() > 2]
    leaves: dict[str, list[str]] = {}
    for name, why in {_leaf(name): why for name, why in unfit.items()}.items():
        leaves.setdefault(why, []).append(name)
    parts = [f"{', '.join(names)} ({why})" for why, names in leaves.items()]
    if experts:
        parts.append(f"{len(experts)} parameters of fused experts (first: {experts[0]})")
    if parts:
        logger.warning(
            "model.lora.target_modules=[%s] of %s leaves out %s; they are not trained; model.lora.rank=0 trains them",
            ALL_LINEAR,
            type(model).__name__,
            "; ".join(parts),
        )


def _adapted(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each layer with an adapter; peft's layers are untyped."""
    if not has_adapters(model):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _delta(layer: Any, name: str, state: Mapping[str, Tensor]) -> Tensor:
    """(alpha / rank) B A in the layout of the layer's weight; [out, in], or [in, out] for a Conv1D."""
    low = state[f"{name}.lora_A.{_ADAPTER}.weight"].detach()
    high = state[f"{name}.lora_B.{_ADAPTER}.weight"].detach()
    product = (high @ low) * layer.scaling[_ADAPTER]
    return product.T if layer.fan_in_fan_out else product


def _settings(model: PreTrainedModel) -> Any:
    return model.peft_config[_ADAPTER]


def _refuse_tied(model: PreTrainedModel, names: Collection[str]) -> None:
    """Raises ConfigError for a layer that shares its weight: its merged form could not be exported."""
    for name in names:
        weight = model.get_submodule(name).weight
        others = [n for n, m in model.named_modules() if n != name and getattr(m, "weight", None) is weight]
        if others:
            raise ConfigError(
                f"model.lora.target_modules: {name!r} shares its weight with {others[0]!r} (tied embeddings), so an "
                "adapter on it cannot be merged; leave it out"
            )
