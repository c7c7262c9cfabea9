"""Facts about model families from their config: which attention is exact, and what cannot be trained."""

from transformers import PretrainedConfig

from rlvr.errors import ConfigError

# The argument of a model for its cache: in transformers 5.24, and before, where recurrent families had their own name.
CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
# Families whose code in transformers computes different numbers in generation and training, or changes its weights.
_UNTRAINABLE = {
    "rwkv": "transformers divides its weights in place whenever it generates, and multiplies them again to train"
}


def exact_attention(config: PretrainedConfig) -> str:
    """The attention implementation that a family needs; empty if transformers' default is exact.

    SDPA and flash attention do not cap attention scores, and ignore the cap that Gemma 2 was trained with. Families
    with attention sinks need no entry here: transformers offers no SDPA for them.
    """
    text = config.get_text_config(decoder=True)
    return "eager" if getattr(text, "attn_logit_softcapping", None) else ""


def refuse_untrainable(config: PretrainedConfig, *, name: str) -> None:
    """Raises ConfigError for a family that engine and learner cannot compute alike.

    Args: name: `model.path`, for the message.
    """
    family = config.model_type
    reason = _UNTRAINABLE.get(family, "")
    if getattr(config, "is_encoder_decoder", False):
        reason = "it is an encoder-decoder model, and here a prompt and its completion are one sequence"
    if reason:
        raise ConfigError(
            f"model.path={name!r} is of the family {family!r}, which cannot be trained: {reason}. Take a causal "
            "language model of another family: rlvr/README.md, 'Model families', lists those that are tested"
        )
