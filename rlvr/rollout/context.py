"""What a run gives a rollout engine of another package, besides its settings."""

from dataclasses import dataclass

import torch

from rlvr.config.recipe import ModelConfig
from rlvr.models.policy import Policy, PolicyText
from rlvr.records import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """The second argument of a plugin engine: `MyEngine(config, context)`.

    text: tokenizer, end tokens, padding token and longest sequence (tokens) of the policy.
    policy: the policy in this process; None for an engine without weights, or with `needs_own_process`. The model is
        the learner's where `transport` says that it is in this process: read it, and never write to it.
    model, seed: what `rlvr.models.policy.load_policy` makes an equal policy of, in another process.
    transport: how `load_weights` gets weights: SHARED, the tensors of `policy.model`; IN_PLACE_COPY, they are to be
        copied from `rlvr.models.lora.merged_weights(policy.model)`; FILE, from the safetensors file at `ref.uri`.
    dtype: of the engine's own copy, which is the dtype of the weights that arrive; None where it holds none.
    has_autocast: whether the learner computes in bfloat16 autocast.
    max_batch_rows: most completions to decode at once (`rollout.max_batch_rows`).
    engine_id: what receipts call it, where it is one of several; "" else.
    """

    text: PolicyText
    policy: Policy | None
    model: ModelConfig
    seed: int
    transport: Transport
    dtype: torch.dtype | None
    has_autocast: bool
    max_batch_rows: int
    engine_id: str = ""
