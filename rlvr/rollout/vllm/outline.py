"""Folders that vLLM reads: config.json and a tokenizer without weights for its start, and adapters."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlvr.config.recipe import LoraConfig, ModelConfig
from rlvr.models.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, target_names
from rlvr.models.policy import outline


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """An architecture and the tensors that it needs, by the names under which a learner publishes them.

    adapted: names of the adapted layers, or the last parts of them.
    """

    architecture: PretrainedConfig
    weight_shapes: Mapping[str, tuple[int, ...]]
    adapted: tuple[str, ...] = ()


def read_outline(config: ModelConfig) -> Outline:
    """The architecture of a recipe's model. Raises ConfigError when it cannot be read."""
    return outline_of(outline(config), lora=config.lora)


def outline_of(model: PreTrainedModel, *, lora: LoraConfig) -> Outline:
    """The outline of a model without adapters; a tied head is not among its tensors.

    vLLM resolves a model by `architectures`, which a config built in memory lacks, and a `quantization_config` left by
    a GGUF file would make it quantise.
    """
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    plain["architectures"] = [type(model).__name__]
    architecture = type(model.config).from_dict(plain)
    return Outline(
        architecture=architecture,
        weight_shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        adapted=tuple(target_names(model, lora.target_modules)) if lora.rank else (),
    )


def write_outline(folder: Path, *, architecture: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes config.json and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_adapters(folder: Path, file: str, *, names: Iterable[str], lora: LoraConfig) -> None:
    """Makes a folder of adapters in peft's format with a copy of a file of their tensors.

    Args: names: of the tensors, as peft writes them: `base_model.model.<layer>.lora_A.weight`.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(file, folder / ADAPTER_WEIGHTS)
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in names}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": sorted(layers),
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
