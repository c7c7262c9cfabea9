"""The learner's part of a checkpoint: a folder that transformers loads, plus the optimiser and counters.

    config.json, model.safetensors, tokenizer, adapter/    `rlvr.models.export`
    weights/, optimizer/                                   of several learners, in place of model.safetensors, adapter
                                                           and optimizer.pt: `rlvr.models.sharded_weights`
    optimizer.pt     {"format": 2, "state": {parameter name: {"step", "exp_avg", "exp_avg_sq"}}}, whole tensors
    learner.json     policy_version, num_steps, num_nonfinite

State is keyed by parameter name, and both forms can be restored by any number of learners, one included. The
functions that restore also take sharded parameters; then every rank must call them.
The caller writes into a temporary folder and renames it when it is complete (`rlvr.run.record.checkpoints`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlvr.errors import CheckpointError, OtherCheckpoint
from rlvr.learner.shards import part_like
from rlvr.learner.weights.wire import published_parts
from rlvr.models import lora, sharded_weights
from rlvr.models.export import ADAPTER_FOLDER, read_adapter, read_exported

OPTIMIZER = "optimizer.pt"
LEARNER = "learner.json"
_FORMAT = 2
_UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, LookupError, UnpicklingError, SafetensorError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """A learner's counters, with the names of learner.json."""

    policy_version: int
    num_steps: int
    num_nonfinite: int


def save_counters(folder: Path, counters: Counters) -> None:
    """Writes the counters."""
    (folder / LEARNER).write_text(json.dumps(asdict(counters), indent=2) + "\n")


def read_counters(folder: Path) -> Counters:
    """The counters that `save_counters` wrote. Raises CheckpointError."""
    try:
        return Counters(**json.loads((folder / LEARNER).read_text()))
    except (*_UNREADABLE, TypeError) as error:
        raise _unreadable(folder, error) from error


def save_optimizer(folder: Path, *, optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
    """Writes the optimiser's state of whole tensors."""
    names = trained_names(model)
    whole = {
        names[number]: {key: value.cpu() if isinstance(value, Tensor) else value for key, value in values.items()}
        for number, values in optimizer.state_dict()["state"].items()
    }
    torch.save({"format": _FORMAT, "state": whole}, folder / OPTIMIZER)


def sharded_weights_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """What several learners store of the weights: merged ones and adapters, this rank's parts, by stored name."""
    own = {**dict(published_parts(model)), **sharded_weights.persistent_buffers(model)}
    state = {sharded_weights.WEIGHTS + name: part.detach() for name, part in own.items()}
    if lora.has_adapters(model):
        state |= {sharded_weights.ADAPTER + name: part for name, part in lora.adapter_state_dict(model).items()}
    return state


def sharded_optimizer_state(optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> dict[str, Tensor]:
    """What several learners store of the optimiser's state, by stored name; empty before the first step."""
    names = trained_names(model)
    return {
        f"{names[number]}.{key}": value
        for number, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def restore_optimizer(folder: Path, *, optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
    """Loads the optimiser's state that one or several learners saved; a sharded parameter takes its part.

    Hyperparameters stay those of `optimizer`.

    Raises: CheckpointError when a file is incomplete or of other parameters.
    """
    read = _read_sharded_state if sharded_weights.is_sharded(folder) else _read_whole_state
    state = read(folder, model)
    parameters = dict(model.named_parameters())
    wrong = [name for name, values in state.items() if name not in parameters or not _fits(values, parameters[name])]
    if wrong:
        raise OtherCheckpoint(
            f"checkpoint {folder}: the optimiser's state is of other parameters than the model's ({len(wrong)} differ, "
            f"first {wrong[0]!r}); the recipe's model and learner.optimizer must be those of the run"
        )
    numbered = {
        number: {key: _part(value, parameters[name]) for key, value in state[name].items()}
        for number, name in enumerate(trained_names(model))
        if name in state
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})


def _read_whole_state(folder: Path, model: PreTrainedModel) -> dict[str, dict[str, Any]]:
    """Parameter name -> state, as whole tensors. Reads files of the first format too, keyed by position."""
    is_sharded = any(isinstance(p, DTensor) for p in model.parameters())
    try:
        # With memory mapping a rank reads only its own part of the file.
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=is_sharded)
        names = trained_names(model)
        # The first format has no "format" key, and numbers in place of names.
        return {name if "format" in saved else names[name]: values for name, values in saved["state"].items()}
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error


def _read_sharded_state(folder: Path, model: PreTrainedModel) -> dict[str, dict[str, Any]]:
    """Parameter name -> state, each tensor sharded like its parameter."""
    if not (folder / sharded_weights.OPTIMIZER_FOLDER).is_dir():
        return {}
    parameters = dict(model.named_parameters())
    state: dict[str, dict[str, Any]] = {}
    stored = sharded_weights.stored_shapes(folder, sharded_weights.OPTIMIZER_FOLDER)
    for full, shape in stored.items():
        name, _, key = full.rpartition(".")
        own = parameters.get(name)
        if own is not None and tuple(own.shape) == shape:
            state.setdefault(name, {})[key] = torch.zeros_like(own.detach())
        else:
            state.setdefault(name, {})[key] = torch.zeros(shape)
    flat = {f"{name}.{key}": value for name, values in state.items() for key, value in values.items()}
    sharded_weights.read_into(folder, flat, sharded_weights.OPTIMIZER_FOLDER)
    return state


def restore_weights(folder: Path, model: PreTrainedModel) -> None:
    """Loads the policy's trained weights, whole or sharded over ranks.

    Raises: CheckpointError when a file is missing or incomplete, or the weights are of another model.
    """
    if sharded_weights.is_sharded(folder):
        require_same(folder, model)
        prefix, own = _stored_of(model)
        sharded_weights.read_into(folder, {prefix + name: tensor for name, tensor in own.items()})
        return
    if lora.has_adapters(model):
        weights: Mapping[str, Tensor] = read_adapter(model, folder / ADAPTER_FOLDER)
    else:
        weights = dict(read_exported(folder, model).named_parameters())
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(part_like(weight.detach(), own[name]))


def require_same(folder: Path, model: PreTrainedModel) -> None:
    """Raises CheckpointError when the weights in `folder` are of another model, by name and shape. Reads no weights."""
    if sharded_weights.is_sharded(folder):
        prefix, own = _stored_of(model)
        sharded_weights.require_same(folder, own, prefix=prefix, what=type(model).__name__)
    elif lora.has_adapters(model):
        read_adapter(model, folder / ADAPTER_FOLDER)
    else:
        read_exported(folder, model, device="meta")


def _stored_of(model: PreTrainedModel) -> tuple[str, dict[str, Tensor]]:
    """What is restored of a sharded checkpoint: the prefix of its names, and the model's own tensors by name."""
    if lora.has_adapters(model):
        return sharded_weights.ADAPTER, dict(lora.adapter_state_dict(model))
    own = {name: tensor.detach() for name, tensor in model.named_parameters()}
    return sharded_weights.WEIGHTS, own | sharded_weights.persistent_buffers(model)


def trained_names(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that the optimiser has, in its order (that of `model.parameters()`)."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _part(value: Any, parameter: Tensor) -> Any:
    """State in the shape of its parameter is sharded like it; the rest, such as the step, is whole."""
    is_alike = isinstance(value, Tensor) and not isinstance(value, DTensor) and value.shape == parameter.shape
    return part_like(value, parameter) if is_alike else value


def _fits(values: Mapping[str, Any], parameter: Tensor) -> bool:
    """Whether the averages have the parameter's shape; 8-bit ones only need as many elements."""
    return all(
        value.numel() == parameter.numel()
        for key, value in values.items()
        if key in ("exp_avg", "exp_avg_sq", "state1", "state2")
    )


def _unreadable(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder} cannot be read: {error}; resume from an older one with --checkpoint step_N"
    )
