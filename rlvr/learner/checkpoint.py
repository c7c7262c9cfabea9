"""The learner's part of a checkpoint: a folder that transformers loads, plus the optimiser and counters.

    config.json, model.safetensors, tokenizer, adapter/    `rlvr.models.export`
    optimizer.pt     {"format": 2, "state": {parameter name: {"step", "exp_avg", "exp_avg_sq"}}}, whole tensors
    learner.json     policy_version, num_steps, num_nonfinite

State is keyed by parameter name and saved as whole tensors, so any number of ranks can restore it.
The optimiser functions also take sharded parameters; then every rank must call them.
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
from rlvr.models import lora
from rlvr.models.export import ADAPTER_FOLDER, read_exported

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


def save_optimizer(
    folder: Path, *, optimizer: torch.optim.Optimizer, model: PreTrainedModel, is_writer: bool = True
) -> None:
    """Writes the optimiser's state. Every rank calls it, and the one with `is_writer` writes."""
    whole: dict[str, dict[str, Any]] = {}
    names = trained_names(model)
    for number, values in optimizer.state_dict()["state"].items():
        gathered = {key: _whole(value) for key, value in values.items()}
        if is_writer:
            whole[names[number]] = {
                key: value.cpu() if isinstance(value, Tensor) else value for key, value in gathered.items()
            }
    if is_writer:
        torch.save({"format": _FORMAT, "state": whole}, folder / OPTIMIZER)


def restore_optimizer(folder: Path, *, optimizer: torch.optim.Optimizer, model: PreTrainedModel) -> None:
    """Loads what `save_optimizer` wrote; a sharded parameter takes its part.

    Files of the first format, keyed by position, are read too. Hyperparameters stay those of `optimizer`.

    Raises: CheckpointError when the file is incomplete or of other parameters.
    """
    file = folder / OPTIMIZER
    is_sharded = any(isinstance(p, DTensor) for p in model.parameters())
    try:
        # With memory mapping a rank reads only its own part of the file.
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=is_sharded)
        names = trained_names(model)
        # The first format has no "format" key, and numbers in place of names.
        state: dict[str, dict[str, Any]] = {
            name if "format" in saved else names[name]: values for name, values in saved["state"].items()
        }
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from error
    parameters = dict(model.named_parameters())
    wrong = [name for name, values in state.items() if name not in parameters or not _fits(values, parameters[name])]
    if wrong:
        raise OtherCheckpoint(
            f"checkpoint {folder}: {OPTIMIZER} has other parameters than the model ({len(wrong)} differ, first "
            f"{wrong[0]!r}); the recipe's model and learner.optimizer must be those of the run"
        )
    numbered = {
        number: {key: _part(value, parameters[name]) for key, value in state[name].items()}
        for number, name in enumerate(names)
        if name in state
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})


def restore_weights(folder: Path, model: PreTrainedModel) -> None:
    """Loads the policy's trained weights into a model of whole tensors.

    Raises: CheckpointError when a file is missing or incomplete, or the weights are of another model.
    """
    if lora.has_adapters(model):
        weights: Mapping[str, Tensor] = lora.read_adapter(model, folder / ADAPTER_FOLDER)
    else:
        weights = dict(read_exported(folder, model).named_parameters())
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def trained_names(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that the optimiser has, in its order (that of `model.parameters()`)."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(value: Any, parameter: Tensor) -> Any:
    """State in the shape of its parameter is sharded like it; the rest, such as the step, is whole."""
    is_alike = isinstance(value, Tensor) and value.shape == parameter.shape
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
