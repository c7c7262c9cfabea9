"""Builds the rollout engine of a recipe; apart from this module, code asks an engine's traits and not its kind."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from rlvr.config.recipe import PluginEngine, Recipe
from rlvr.config.sections.engines import engine_class
from rlvr.config.sections.learner import LearnerDtype
from rlvr.errors import RolloutError
from rlvr.models.policy import Policy, PolicyText, load_policy
from rlvr.protocols import RolloutEngine, SupportsStart
from rlvr.records import Transport
from rlvr.registry import ENGINES, check_settings, find
from rlvr.rollout.context import EngineContext
from rlvr.rollout.toy_engine import ToyEngine
from rlvr.rollout.transformers_engine import COPY_DTYPES, TransformersEngine


def build_engine(recipe: Recipe, *, policy: Policy) -> RolloutEngine:
    """An engine that works in this process on `policy`, or on a copy of it. Raises PluginError, RolloutError."""
    transport = Transport.IN_PLACE_COPY if recipe.rollout.has_copy else Transport.SHARED
    return engine_from(recipe, context_of(recipe, text=policy.text, policy=policy, transport=transport))


async def start_engine(engine: RolloutEngine) -> None:
    """Waits for the optional `start` of an engine, which engines with processes of their own have."""
    if isinstance(engine, SupportsStart):
        await engine.start()


def build_engine_alone(
    recipe: Recipe, *, text: PolicyText, engine_id: str, transport: Transport = Transport.FILE
) -> RolloutEngine:
    """An engine in a process of its own, which gets its weights by `transport`. Raises as `build_engine`."""
    traits = recipe.rollout.engine.traits
    policy = None
    if traits.has_weights and not traits.needs_own_process:
        policy = load_policy(recipe.model, seed=recipe.seed)
        if torch.cuda.is_available():
            policy.model.to("cuda")  # type: ignore[arg-type] # the stub of transformers wants a torch.device
    if not traits.has_weights:
        transport = Transport.SHARED
    context = context_of(recipe, text=text, policy=policy, transport=transport, engine_id=engine_id)
    return engine_from(recipe, context)


def context_of(
    recipe: Recipe, *, text: PolicyText, policy: Policy | None, transport: Transport, engine_id: str = ""
) -> EngineContext:
    """What the recipe says to an engine."""
    rollout = recipe.rollout
    has_policy = rollout.engine.traits.has_weights
    return EngineContext(
        text=text,
        policy=policy if has_policy else None,
        model=recipe.model,
        seed=recipe.seed,
        transport=transport,
        dtype=COPY_DTYPES.get(rollout.engine_dtype) if rollout.has_copy else None,
        has_autocast=recipe.learner.dtype is LearnerDtype.BFLOAT16_AUTOCAST,
        max_batch_rows=rollout.max_batch_rows,
        engine_id=engine_id,
    )


def engine_from(recipe: Recipe, context: EngineContext) -> RolloutEngine:
    """The engine of a recipe in this context. Raises PluginError, RolloutError."""
    engine = recipe.rollout.engine
    if isinstance(engine, PluginEngine):
        loaded = engine_class(engine.name)
        return loaded(check_settings(find(ENGINES, engine.name), loaded, engine.settings), context)
    return BUILDERS[engine](recipe, context)


def _transformers(recipe: Recipe, context: EngineContext) -> RolloutEngine:
    if context.policy is None:
        raise RolloutError("the transformers engine needs the policy in its process")
    return TransformersEngine(
        context.policy,
        engine_dtype=recipe.rollout.engine_dtype,
        autocast=context.has_autocast,
        max_batch_rows=context.max_batch_rows,
        engine_id=context.engine_id,
    )


def _vllm(recipe: Recipe, context: EngineContext) -> RolloutEngine:
    from rlvr.rollout.vllm.build import build_vllm_engine  # needs what the extra `vllm` brings

    return build_vllm_engine(recipe, text=context.text, engine_id=context.engine_id, transport=context.transport)


def _toy(recipe: Recipe, context: EngineContext) -> RolloutEngine:
    return ToyEngine(context.text)


# One for each EngineKind, by its value.
BUILDERS: Mapping[str, Callable[[Recipe, EngineContext], Any]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "toy": _toy,
}
