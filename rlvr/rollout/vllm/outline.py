"""The folder that vLLM starts from: config.json and a tokenizer, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlvr.config.recipe import ModelConfig
from rlvr.models.policy import outline


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """An architecture and the tensors that it needs, by the names under which a learner publishes them."""

    architecture: PretrainedConfig
    weight_shapes: Mapping[str, tuple[int, ...]]


def read_outline(config: ModelConfig) -> Outline:
    """The architecture of a recipe's model. Raises ConfigError when it cannot be read."""
    return outline_of(outline(config))


def outline_of(model: PreTrainedModel) -> Outline:
    """The outline of a model; a tied head is not among its tensors.

    vLLM resolves a model by `architectures`, which a config made in memory lacks, and would take a
    `quantization_config` left by a GGUF file as an order to quantise.
    """
    plain = model.config.to_dict()
    plain.pop("quantization_config", None)
    plain["architectures"] = [type(model).__name__]
    architecture = type(model.config).from_dict(plain)
    return Outline(
        architecture=architecture,
        weight_shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
    )


def write_outline(
    folder: Path, *, architecture: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Writes config.json and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
