"""The rollout engine of a recipe; the one place that branches on its kind."""

from rlvr.config.recipe import EngineKind, Recipe
from rlvr.config.sections.learner import LearnerDtype
from rlvr.models.policy import Policy
from rlvr.protocols import RolloutEngine
from rlvr.rollout.toy_engine import ToyEngine
from rlvr.rollout.transformers_engine import TransformersEngine


def build_engine(recipe: Recipe, *, policy: Policy) -> RolloutEngine:
    """An engine that runs in this process on `policy`, or on a copy of it."""
    if recipe.rollout.engine is EngineKind.TOY:
        return ToyEngine(policy.text)
    if recipe.rollout.engine is EngineKind.VLLM:
        from rlvr.rollout.vllm.build import build_vllm_engine  # needs the extra `vllm`

        return build_vllm_engine(recipe, text=policy.text)
    return TransformersEngine(
        policy,
        engine_dtype=recipe.rollout.engine_dtype,
        autocast=recipe.learner.dtype is LearnerDtype.BFLOAT16_AUTOCAST,
        max_batch_rows=recipe.rollout.max_batch_rows,
    )
