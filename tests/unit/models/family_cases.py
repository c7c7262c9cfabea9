"""Tiny random models of the architectures that transformers offers, as folders that `load_policy` reads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.config.recipe import TinyModel
from rlvr.models.policy import build_tiny
from tests.unit.models.packing_cases import SMALL

TINY = TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789:abcdefghijklmnop")
VOCAB = 32

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BASE = SMALL | {"vocab_size": VOCAB}
_HEAD = _BASE | {"head_dim": 8}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MAMBA2 = {"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_MLA = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 6,
}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}


def _gpt(**changes: object) -> dict[str, object]:
    return {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4} | _IDS | changes


# Name -> (model type, settings). A name may differ from its type where one type has several kinds of attention.
FAMILIES: dict[str, tuple[str, Mapping[str, object]]] = {
    "llama": ("llama", _BASE),
    "llama tied": ("llama", _BASE | {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", _BASE | {"tie_word_embeddings": True}),
    "qwen2 sliding": ("qwen2", _BASE | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": ("qwen3", _HEAD),
    "gemma": ("gemma", _HEAD),
    "gemma2": ("gemma2", _HEAD | {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", _HEAD | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}),
    "gemma3n": (
        "gemma3n_text",
        _HEAD
        | {
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "phi": ("phi", _BASE),
    "phi3": ("phi3", _BASE | {"sliding_window": 6}),
    "mistral": ("mistral", _HEAD | {"sliding_window": None}),
    "mistral sliding": ("mistral", _HEAD | {"sliding_window": 6}),
    "smollm3": ("smollm3", _BASE | {"no_rope_layers": [1, 0]}),
    "gpt2": ("gpt2", _gpt(n_positions=128)),
    "gpt_neox": ("gpt_neox", {k: v for k, v in _BASE.items() if k != "num_key_value_heads"}),
    "gptj": ("gptj", _gpt(n_positions=128, rotary_dim=4)),
    "opt": (
        "opt",
        {k: v for k, v in _BASE.items() if k not in ("intermediate_size", "num_key_value_heads")}
        | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "bloom": ("bloom", _IDS | {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", _BASE | {"alibi": False}),
    "falcon alibi": ("falcon", _BASE | {"alibi": True}),
    "mpt": ("mpt", _IDS | {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "olmo": ("olmo", _BASE),
    "olmo2": ("olmo2", _BASE),
    "olmo3": ("olmo3", _BASE | {"sliding_window": 6}),
    "cohere": ("cohere", _BASE | {"logit_scale": 0.25}),
    "cohere2": ("cohere2", _HEAD | {"logit_scale": 0.25, "sliding_window": 6}),
    "granite": (
        "granite",
        _BASE
        | {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}
        | {"attention_multiplier": 0.25},
    ),
    "exaone4": ("exaone4", _BASE | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}),
    "glm4": ("glm4", _HEAD),
    "nemotron": ("nemotron", _BASE),
    "starcoder2": ("starcoder2", _BASE | {"sliding_window": 6}),
    "stablelm": ("stablelm", _BASE),
    "olmoe": ("olmoe", _BASE | {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", _BASE | _MOE | {"shared_expert_intermediate_size": 16}),
    "qwen3_moe": ("qwen3_moe", _HEAD | _MOE | {"output_router_logits": True}),
    "mixtral": ("mixtral", _HEAD | _LOCAL_MOE),
    "gpt_oss": ("gpt_oss", _HEAD | _LOCAL_MOE | {"sliding_window": 6}),
    "deepseek_v3": ("deepseek_v3", _BASE | _MLA | _ROUTED),
    "llama4": (
        "llama4_text",
        _HEAD
        | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48}
        | {"attention_chunk_size": 8},
    ),
    "mamba": ("mamba", _IDS | {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": (
        "mamba2",
        _IDS
        | {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
        | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    ),
    "falcon_mamba": (
        "falcon_mamba",
        _IDS | {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    ),
    "bamba": ("bamba", _BASE | _MAMBA2 | {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]}),
    "jamba": (
        "jamba",
        _BASE
        | {"num_experts": 2, "num_experts_per_tok": 1, "use_mamba_kernels": False}
        | {"attn_layer_period": 2, "attn_layer_offset": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1}
        | {"mamba_d_state": 8, "mamba_dt_rank": 4},
    ),
    "falcon_h1": (
        "falcon_h1",
        _BASE | _MAMBA2 | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "lm_head_multiplier": 0.5},
    ),
    "granitemoehybrid": (
        "granitemoehybrid",
        _BASE
        | _LOCAL_MOE
        | _MAMBA2
        | {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8}
        | {"shared_intermediate_size": 16, "logits_scaling": 4.0},
    ),
    "lfm2": ("lfm2", _BASE | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "qwen3_next": ("qwen3_next", _HEAD | _MOE | _DELTA | {"shared_expert_intermediate_size": 16}),
    "qwen3_5": ("qwen3_5_text", _HEAD | _DELTA),
    "zamba2": (
        "zamba2",
        _BASE
        | {"mamba_d_state": 8, "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8}
        | {"layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1, "adapter_rank": 4}
        | {"num_key_value_heads": 4, "chunk_size": 8},
    ),
    "nemotron_h": (
        "nemotron_h",
        _HEAD
        | {"layers_block_type": ["mamba", "attention", "moe"], "num_hidden_layers": 3}
        | {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"moe_shared_expert_intermediate_size": 16, "chunk_size": 8},
    ),
    "olmo_hybrid": ("olmo_hybrid", _BASE | _DELTA),
    "recurrent_gemma": (
        "recurrent_gemma",
        {k: v for k, v in _BASE.items() if k != "max_position_embeddings"}
        | {"lru_width": 32, "attention_window_size": 6, "block_types": ["recurrent", "attention"]},
    ),
    "xlstm": ("xlstm", _IDS | {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 4}),
    "rwkv": ("rwkv", _IDS | {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 128}),
    "minimax": ("minimax", _HEAD | _LOCAL_MOE | {"layer_types": ["full_attention", "linear_attention"]}),
    "kimi_linear": (
        "kimi_linear",
        _BASE
        | _MLA
        | _ROUTED
        | {"layer_types": ["linear_attention", "full_attention"], "num_local_experts": 4}
        | {"linear_head_dim": 8, "linear_num_heads": 4},
    ),
}


def write_family(name: str, folder: Path, *, seed: int = 0) -> Path:
    """`folder` with config.json, float32 weights and a tokenizer of single characters; gives the folder.

    The weights are larger than at birth, so that a mistake in attention or in a state shows in the log-probs.
    """
    kind, settings = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.dim() >= 2:
                    sharp = "q_proj" in key or "k_proj" in key
                    std = 0.4 if sharp else 0.1 if parameter.shape[0] == VOCAB else 0.2
                    parameter.normal_(0, std)
    model.save_pretrained(folder)
    build_tiny(TINY, seed=0).tokenizer.save_pretrained(folder)
    return folder
