"""From a recipe to a `VllmEngine` that has not started yet."""

import math
import os

import psutil

from rlvr.config.recipe import Recipe
from rlvr.models.policy import PolicyText
from rlvr.records import Transport
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.rollout.vllm.environment import engine_environment, installed_vllm, prepare_environment
from rlvr.rollout.vllm.outline import Outline, read_outline
from rlvr.rollout.vllm.settings import EXTENSION, EngineSettings, engine_arguments


def build_vllm_engine(
    recipe: Recipe,
    *,
    text: PolicyText,
    engine_id: str = "",
    run: str = "",
    outline: Outline | None = None,
    extension: str = EXTENSION,
    transport: Transport = Transport.FILE,
) -> VllmEngine:
    """The vLLM engine of a recipe. Sets unset variables of vLLM's environment; loads no weights and starts nothing.

    Args:
        text: tokenizer, stop tokens and limits of the policy.
        engine_id: put into receipts. run: part of every cache salt.
        outline: of the model; read from the recipe when None.
        extension: the class that vLLM's workers are given.
        transport: how weights arrive.

    Raises: ConfigError when vLLM is not installed or not tested, or the recipe's `engine_args` are invalid.
    """
    found = installed_vllm()
    has_kv_variable = bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))
    outline = outline or read_outline(recipe.model)
    arguments = engine_arguments(
        recipe,
        architecture=outline.architecture,
        max_positions=text.max_positions,
        is_cpu=found.is_cpu,
        memory_bytes=psutil.virtual_memory().total,
        has_kv_variable=has_kv_variable,
        transport=transport,
        adapted=outline.adapted,
    )
    variables = engine_environment(is_cpu=found.is_cpu, threads=max(1, math.floor(recipe.cluster.cpus_per_engine)))
    prepare_environment(variables)
    return VllmEngine(
        EngineSettings(
            arguments=arguments,
            environment=variables,
            weight_shapes=outline.weight_shapes,
            max_model_len=arguments["max_model_len"],
            is_cpu=found.is_cpu,
            run=run,
            engine_id=engine_id,
            extension=extension,
            lora=recipe.model.lora if recipe.sends_adapters else None,
        ),
        text=text,
        architecture=outline.architecture,
    )
