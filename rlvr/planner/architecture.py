"""The sizes of a model that determine memory and time, from its shapes alone."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from rlvr.config.sections.model import LoraConfig
from rlvr.models import lora


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder of equal layers.

    query_width, kv_width: heads, and key-value heads, times their dimension.
    intermediate: of the gated unit; of a mixture, of all experts that one token uses.
    num_parameters: distinct ones. num_multiplied: those that a token is multiplied with, without unused experts and
    without an embedding table that is only looked up.
    num_linear: those that autocast casts: the matrices of the layers and the head.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    query_width: int
    kv_width: int
    vocab: int
    num_parameters: int
    num_multiplied: int
    num_linear: int
    max_positions: int

    @property
    def num_head(self) -> int:
        """Numbers in the head's matrix, tied or not."""
        return self.vocab * self.hidden


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The shapes of a model, which may be on the meta device."""
    config: Any = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    num_experts = int(getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1)
    experts_used = int(getattr(config, "num_experts_per_tok", None) or 1) if num_experts > 1 else 1
    width = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    if num_experts > 1:
        width = experts_used * int(getattr(config, "moe_intermediate_size", None) or width)

    named = dict(model.named_parameters())
    total = sum(p.numel() for p in named.values())
    in_experts = sum(p.numel() for name, p in named.items() if ".experts." in name)
    idle = in_experts - in_experts * experts_used // num_experts
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    table = inputs.weight if isinstance(inputs, torch.nn.Embedding) else None
    is_tied = head is not None and getattr(head, "weight", None) is table
    looked_up = table.numel() if table is not None and not is_tied else 0
    matrices = sum(p.numel() for p in named.values() if p.dim() >= 2)
    return Architecture(
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        intermediate=width,
        heads=heads,
        query_width=heads * head_dim,
        kv_width=kv_heads * head_dim,
        vocab=int(config.vocab_size),
        num_parameters=total,
        num_multiplied=total - looked_up - idle,
        num_linear=matrices - looked_up,
        max_positions=int(getattr(config, "max_position_embeddings", None) or 2**31),
    )


def num_adapter_parameters(model: PreTrainedModel, config: LoraConfig) -> int:
    """The parameters of adapters of this rank: rank * (in + out) for each adapted layer.

    Raises: ConfigError when `target_modules` names nothing.
    """
    names = lora.target_names(model, config.target_modules)
    total = 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        chosen = any(name == wanted or name.endswith(f".{wanted}") for wanted in names)
        if chosen and isinstance(weight, torch.Tensor) and weight.dim() == 2:
            total += config.rank * sum(weight.shape)
    return total
