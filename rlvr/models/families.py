"""What a config tells of a model family: which attention is exact, and what cannot be trained."""

from transformers import PretrainedConfig

from rlvr.errors import ConfigError

# Families whose code in transformers computes other numbers for generation than for training, or changes its weights.
_UNTRAINABLE = {
    "rwkv": "transformers divides its weights in place whenever it generates, and multiplies them again to train",
}


def exact_attention(config: PretrainedConfig) -> str:
    """The attention implementation that a family needs; empty where transformers' own choice computes it exactly.

    SDPA and flash attention have no cap on attention scores, and ignore the one that Gemma 2 was trained with. Families
    with attention sinks need no word here: transformers itself offers no SDPA for them.
    """
    text = config.get_text_config(decoder=True)
    return "eager" if getattr(text, "attn_logit_softcapping", None) else ""


def refuse_untrainable(config: PretrainedConfig, *, name: str) -> None:
    """Raises ConfigError for a family that no engine and learner here compute alike.

    Args: name: `model.path`, for the message.
    """
    family = config.model_type
    reason = _UNTRAINABLE.get(family, "")
    if getattr(config, "is_encoder_decoder", False):
        reason = (
            "it is an encoder with a decoder, and a prompt and its completion are one sequence here"
        )
    if reason:
        raise ConfigError(
            f"model.path={name!r} is of the family {family!r}, which cannot be trained: {reason}. Take a causal "
            "language model of another family: rlvr/README.md, 'Model families', lists those that are tested"
        )
