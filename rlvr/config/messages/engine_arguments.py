"""Arguments of vLLM that `rollout.engine_args` may not hold, because rlvr sets them, each with the reason."""

from collections.abc import Iterable, Iterator

_WEIGHTS = "the learner's weights arrive through rlvr's own transfer"
REFUSED = {
    "model": "the recipe names it in model.path or model.tiny",
    "tokenizer": "it is the policy's own",
    "tokenizer_mode": "it is the policy's own",
    "skip_tokenizer_init": "stop strings need the tokenizer",
    "load_format": _WEIGHTS,
    "weight_transfer_config": _WEIGHTS,
    "worker_extension_cls": _WEIGHTS,
    "worker_cls": _WEIGHTS,
    "scheduler_cls": "scored rows need a step of their own, which rlvr's scheduler provides",
    "logprobs_mode": "log-probs must be those of the distribution that was sampled from",
    "generation_config": "sampling follows the recipe, not the model's folder",
    "override_generation_config": "sampling follows the recipe",
    "dtype": "set rollout.engine_dtype",
    "seed": "set the recipe's seed",
    "data_parallel_size": "set cluster.engines",
    "speculative_config": "a draft model would not follow the policy",
    "enable_lora": "set model.lora.sends_alone",
    "max_lora_rank": "set model.lora.rank",
    "lora_target_modules": "set model.lora.target_modules",
    "lora_dtype": "set rollout.engine_dtype",
    "enable_sleep_mode": "set cluster.placement=colocated",
    "trust_remote_code": "set model.trust_remote_code",
    "runner": "the engine always generates",
}


def refused_arguments(given: Iterable[str]) -> Iterator[str]:
    """One message for each argument that cannot be set.

    >>> list(refused_arguments(["enforce_eager", "dtype"]))
    ['rollout.engine_args.dtype cannot be set: set rollout.engine_dtype']
    """
    for name in given:
        if name in REFUSED:
            yield f"rollout.engine_args.{name} cannot be set: {REFUSED[name]}"
