"""vLLM's arguments for a recipe, with defaults that are safe for training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from rlvr.config.recipe import EngineDtype, LoraConfig, Placement, Recipe
from rlvr.errors import ConfigError
from rlvr.records import Transport

EXTENSION = "rlvr.rollout.vllm.extension.WorkerExtension"
SCHEDULER = "rlvr.rollout.vllm.scheduling.AloneScheduler"
ASYNC_SCHEDULER = "rlvr.rollout.vllm.scheduling.AloneAsyncScheduler"
BACKENDS = {Transport.FILE: "rlvr_file", Transport.NCCL: "rlvr_nccl", Transport.IPC: "rlvr_ipc"}  # of vLLM's transfer
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for
_KV_SMALLEST_BYTES = 128 << 20
_BATCH_TOKENS_ON_CPU = 2048  # of one step, at least
_BATCH_TOKENS_ON_GPU = 8192  # the same, as in vLLM's own server; an engine that is not one would get 2,048
_KV_SHARE_OF_MEMORY = 1 / 16  # of the machine's, for one engine on a CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The start-up settings of an engine, except for its folder.

    arguments: vLLM's, by name. environment: for its processes. weight_shapes: of every tensor that a load must bring.
    run: part of every cache salt, so that two runs never share a prefix.
    lora: of adapters that are sent alone; None if whole weights are sent.
    """

    arguments: Mapping[str, Any]
    environment: Mapping[str, str]
    weight_shapes: Mapping[str, tuple[int, ...]]
    max_model_len: int
    is_cpu: bool
    run: str = ""
    engine_id: str = ""
    extension: str = EXTENSION
    lora: LoraConfig | None = None

    def call_arguments(self, folder: str) -> dict[str, Any]:
        """Keyword arguments of vLLM's `AsyncEngineArgs`."""
        return {**self.arguments, "model": folder, "tokenizer": folder, "worker_extension_cls": self.extension}


def engine_arguments(
    recipe: Recipe,
    *,
    architecture: PretrainedConfig,
    max_positions: int,
    is_cpu: bool,
    memory_bytes: int,
    has_kv_variable: bool = False,
    transport: Transport = Transport.FILE,
    adapted: Sequence[str] = (),
) -> dict[str, Any]:
    """vLLM's arguments for a recipe, except for the folder. `rollout.engine_args` override defaults.

    Args:
        memory_bytes: of the machine; on a CPU the key-value cache takes a small, fixed share of it.
        transport: how weights arrive.
        adapted: the adapted layers; vLLM would prepare the embedding and the head too.
        has_kv_variable: the user has set VLLM_CPU_KVCACHE_SPACE, which vLLM prefers to its argument.

    Raises: ConfigError on an argument that would break training, with why and what to set.
    """
    given = recipe.rollout.engine_args
    rollout = recipe.rollout
    needed = recipe.data.max_prompt_tokens + rollout.max_completion_tokens
    max_model_len = int(given.get("max_model_len", min(needed + 1, max_positions)))  # type: ignore[arg-type] # JSON
    if max_model_len < min(needed, max_positions):
        raise ConfigError(
            f"rollout.engine_args.max_model_len={max_model_len} is below data.max_prompt_tokens="
            f"{recipe.data.max_prompt_tokens} + rollout.max_completion_tokens={rollout.max_completion_tokens}; "
            "remove it to derive it from them"
        )
    if rollout.engine_dtype is EngineDtype.AUTO:
        raise ConfigError(
            "rollout.engine_dtype=auto must be chosen before an engine is started: see rlvr.run.launch.choose_dtypes"
        )
    slots = slot_arguments(given, max_batch_rows=rollout.max_batch_rows)
    arguments: dict[str, Any] = {
        "load_format": "dummy",
        "dtype": "float32" if rollout.engine_dtype is EngineDtype.FLOAT32 else "bfloat16",
        "seed": recipe.seed % 2**31,
        **slots,
        "trust_remote_code": recipe.model.trust_remote_code,
        "weight_transfer_config": {"backend": BACKENDS[transport]},
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "async_scheduling": _schedules_ahead(given, is_cpu=is_cpu),
    }
    if recipe.sends_adapters:
        arguments |= _adapter_arguments(recipe.model.lora.rank, adapted)
    if is_cpu:
        _refuse_chunked_prefill(given)
        arguments["enforce_eager"] = True
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(_BATCH_TOKENS_ON_CPU, max_model_len, slots["max_num_seqs"])
    else:
        arguments["max_num_batched_tokens"] = max(_BATCH_TOKENS_ON_GPU, slots["max_num_seqs"])
        if recipe.cluster.placement is Placement.COLOCATED:
            arguments["enable_sleep_mode"] = True
    if given.get("tensor_parallel_size", 1) != 1 or given.get("pipeline_parallel_size", 1) != 1:
        # Inside a Ray actor vLLM would start its own actors; the devices are this actor's.
        arguments["distributed_executor_backend"] = "mp"
    arguments |= given
    arguments["max_model_len"] = max_model_len
    arguments["scheduler_cls"] = ASYNC_SCHEDULER if arguments["async_scheduling"] else SCHEDULER
    if is_cpu and not has_kv_variable and "kv_cache_memory_bytes" not in given:
        arguments["kv_cache_memory_bytes"] = kv_cache_bytes(
            architecture,
            num_tokens=int(arguments["max_num_seqs"]) * max_model_len,
            dtype=arguments["dtype"],
            memory_bytes=memory_bytes,
        )
    return arguments


def _schedules_ahead(given: Mapping[str, Any], *, is_cpu: bool) -> bool:
    """vLLM's own default: a step is scheduled while the one before runs, except where vLLM cannot do that.

    It cannot on a CPU, nor with pipeline stages on its first model runner. A pause waits for the step that is under
    way, so every token belongs to one version of the weights (`AsyncLLM.pause_generation`).
    """
    return not is_cpu and given.get("pipeline_parallel_size", 1) == 1


def _adapter_arguments(rank: int, adapted: Sequence[str]) -> dict[str, Any]:
    """vLLM's arguments for one set of adapters, of the next rank that it has kernels for."""
    return {
        "enable_lora": True,
        "max_lora_rank": next(kernel for kernel in _LORA_RANKS if kernel >= rank),
        "max_loras": 1,
        "max_cpu_loras": 1,
        "lora_target_modules": list(adapted),
    }


def _refuse_chunked_prefill(given: Mapping[str, Any]) -> None:
    if given.get("enable_chunked_prefill"):
        raise ConfigError(
            "rollout.engine_args.enable_chunked_prefill: on a CPU a prompt must be computed in one step, because "
            "vLLM draws a token for each part of it and cannot take a seeded draw back there; remove the argument"
        )


def slot_arguments(given: Mapping[str, Any], *, max_batch_rows: int) -> dict[str, int]:
    """How many requests vLLM's model runner holds, and how many of them may generate at once: one fewer.

    A scored row does not wait for a generating row to finish: it takes a step in between (`scheduling`), while all
    generating rows keep their slots. Without a separate slot the runner's table of requests would overflow.

    >>> slot_arguments({}, max_batch_rows=256)
    {'max_num_seqs': 257, 'max_num_active_seqs': 256}

    Args: given: `rollout.engine_args`; a number of slots that it names includes the one of the scored row.

    Raises: ConfigError when they leave no slot for a scored row, or none to generate in.
    """
    num_slots = int(given.get("max_num_seqs", max_batch_rows + 1))
    num_rows = int(given.get("max_num_active_seqs", num_slots - 1))
    if not 0 < num_rows < num_slots:
        raise ConfigError(
            f"rollout.engine_args: max_num_seqs={num_slots} slots do not hold max_num_active_seqs={num_rows} rows that "
            "generate (at least 1) plus 1 scored row; remove both arguments and set rollout.max_batch_rows"
        )
    return {"max_num_seqs": num_slots, "max_num_active_seqs": num_rows}


def kv_cache_bytes(architecture: PretrainedConfig, *, num_tokens: int, dtype: str, memory_bytes: int) -> int:
    """Bytes of a key-value cache for `num_tokens`, at most a sixteenth of the machine's memory, at least 128 MiB.

    2 (keys, values) x layers x key-value heads x head width x bytes of a number, a token.

    >>> tiny = PretrainedConfig(num_hidden_layers=2, num_attention_heads=4, hidden_size=64)
    >>> kv_cache_bytes(tiny, num_tokens=2**20, dtype="bfloat16", memory_bytes=2**36) == 2**20 * 2 * 2 * 4 * 16 * 2
    True
    """
    heads = architecture.num_attention_heads
    kv_heads = getattr(architecture, "num_key_value_heads", None) or heads
    width = getattr(architecture, "head_dim", None) or architecture.hidden_size // heads
    size = torch.finfo(getattr(torch, dtype)).bits // 8
    wanted = num_tokens * 2 * architecture.num_hidden_layers * kv_heads * width * size
    return max(_KV_SMALLEST_BYTES, min(wanted, int(memory_bytes * _KV_SHARE_OF_MEMORY)))
