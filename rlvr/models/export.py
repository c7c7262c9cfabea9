"""Writes a policy as a folder that transformers loads, and reads its weights back.

Names in the files are those of the hub, which may differ from those of the model's parameters: transformers fuses the
experts of many architectures when loading, and splits them again when saving. So its own loader reads the files.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from rlvr.errors import CheckpointError, OtherCheckpoint
from rlvr.models import lora
from rlvr.models.policy import Policy

ADAPTER_FOLDER = "adapter"


def export_policy(policy: Policy, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes config.json, model.safetensors (float32 master weights), generation config and tokenizer to `folder`.

    Adapters are merged into the weights, and also saved in `folder`/adapter in peft's format. Sampling settings are
    not exported: the policy was trained on its own distribution at temperature 1.

    Args: state: name -> whole tensor, for a learner with sharded parameters; None for the model's own.

    Raises: CheckpointError when transformers would not find every tensor of the architecture in what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.model
    model.generation_config = _generation_config(policy)
    if state is not None:  # a tied weight is gathered as two tensors: only the first is written
        own = dict((*model.named_parameters(), *model.named_buffers()))
        state = {name: tensor for name, tensor in state.items() if name in own}
    if lora.has_adapters(model):
        model.save_pretrained(folder, state_dict=lora.merged_state_dict(model, state=state))
        save_adapter(model, folder / ADAPTER_FOLDER, state=state)
    else:
        model.save_pretrained(folder, state_dict=None if state is None else dict(state))
    _export_tokenizer(policy, folder)
    _check_written(folder, model)


def export_outline(policy: Policy, folder: Path) -> None:
    """Writes what `export_policy` writes, without weights: configs, tokenizer and the settings of adapters."""
    folder.mkdir(parents=True, exist_ok=True)
    config = deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]
    config.dtype = torch.float32
    config.save_pretrained(folder)
    _generation_config(policy).save_pretrained(folder)
    if lora.has_adapters(policy.model):
        save_adapter_config(policy.model, folder / ADAPTER_FOLDER)
    _export_tokenizer(policy, folder)


def _generation_config(policy: Policy) -> GenerationConfig:
    return GenerationConfig(
        eos_token_id=list(policy.stop_token_ids),
        pad_token_id=policy.pad_token_id,
        bos_token_id=policy.tokenizer.bos_token_id,
    )


def _export_tokenizer(policy: Policy, folder: Path) -> None:
    policy.tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    if settings.pop("gguf_file", None) or settings.pop("name_or_path", None):
        config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def read_exported(folder: Path, model: PreTrainedModel, *, device: str = "cpu") -> PreTrainedModel:
    """The plain architecture of `model` (no adapters) with the weights of a folder, by transformers' loader.

    Args: device: of its tensors; "meta" compares names and shapes without reading weights.
    Raises: CheckpointError when a file is absent or incomplete, or tensors are missing, unknown or of another shape.
    """
    try:
        loaded: Any = type(model).from_pretrained(
            folder,
            config=deepcopy(model.config),
            dtype=next(model.parameters()).dtype,
            device_map=device,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and rejected below
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, LookupError, EOFError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {folder} cannot be read: {error}; --checkpoint step_N chooses another"
        ) from error
    plain, found = loaded  # the stub lacks output_loading_info
    differences = {
        "missing": sorted(found["missing_keys"]),
        "unknown": sorted(found["unexpected_keys"]),
        "of another shape": sorted(str(key[0]) for key in found["mismatched_keys"]),
    }
    first = next((name for names in differences.values() for name in names), None)
    if first is not None:
        counts = ", ".join(f"{len(names)} {what}" for what, names in differences.items())
        raise OtherCheckpoint(
            f"checkpoint {folder} does not match this {type(model).__name__}: of its tensors {counts} "
            f"(first: {first!r}); the recipe's model section must be the one of the run that wrote it"
        )
    return plain


def _check_written(folder: Path, model: PreTrainedModel) -> None:
    """Raises CheckpointError when transformers would not find every tensor: it would fill in random ones."""
    try:
        read_exported(folder, model, device="meta")
    except CheckpointError as error:
        raise CheckpointError(
            f"the saved model does not load as a {type(model).__name__}, so it is not usable: {error}"
        ) from error


def save_adapter(model: PreTrainedModel, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes `folder` in peft's own format: `PeftModel.from_pretrained(base, folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter(lora.adapter_state_dict(model, state=state), folder)
    save_adapter_config(model, folder)


def write_adapter(adapters: Mapping[str, Tensor], folder: Path) -> None:
    """Writes the tensors of adapters, which are under peft's names, to `folder`."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in adapters.items()}
    save_file(tensors, folder / lora.ADAPTER_WEIGHTS, metadata={"format": "pt"})


def save_adapter_config(model: PreTrainedModel, folder: Path) -> None:
    """Writes the settings of the adapters to `folder`, in peft's format."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = lora.adapter_settings(model).to_dict()
    settings["inference_mode"] = True
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    (folder / lora.ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")


def read_adapter(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """The adapter tensors that `save_adapter` wrote, under the model's names, on the CPU.

    Raises: CheckpointError when the folder cannot be read or is of another adapter.
    """
    file = folder / lora.ADAPTER_WEIGHTS
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the adapter {file} cannot be read: {error}; resume from an older checkpoint with --checkpoint step_N"
        ) from error
    own = dict(model.named_parameters())
    names = lora.adapter_names(model)
    wrong = [name for name, there in names.items() if there not in saved or saved[there].shape != own[name].shape]
    extra = set(saved) - set(names.values())
    if wrong or extra:
        raise OtherCheckpoint(
            f"the adapter {file} does not match: {len(wrong)} tensors are missing or differ in shape and {len(extra)} "
            f"are unknown (first: {min([*wrong, *extra])!r}); model.lora must be the one of the run"
        )
    return {name: saved[there] for name, there in names.items()}
