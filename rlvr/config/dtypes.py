"""Resolves `learner.dtype: auto` and `rollout.engine_dtype: auto` once it is known which dtype is faster.

The learner computes in bfloat16 where that is faster, else in float32. The engine follows the learner:

    engine          learner in bfloat16     learner in float32
    transformers    a bfloat16 copy         the learner's own tensors; a float32 copy where it cannot share them
    vllm            bfloat16                float32
    toy             it has no weights
    a plugin        as transformers where its class says can_share_tensors, else as vllm
"""

from dataclasses import replace

from rlvr.config.load import LoadedRecipe
from rlvr.config.recipe import Recipe
from rlvr.config.sections.cluster import Backend
from rlvr.config.sections.learner import LearnerDtype
from rlvr.config.sections.rollout import EngineDtype

LEARNER_KEY, ENGINE_KEY = "learner.dtype", "rollout.engine_dtype"


def has_auto(recipe: Recipe) -> bool:
    """Whether a dtype of the recipe is still `auto`."""
    return recipe.learner.dtype is LearnerDtype.AUTO or recipe.rollout.engine_dtype is EngineDtype.AUTO


def with_dtypes(recipe: Recipe, *, learner: LearnerDtype) -> Recipe:
    """The recipe with `auto` resolved; dtypes that it sets are kept.

    Args: learner: the dtype that `learner.dtype: auto` resolves to.
    """
    chosen = learner if recipe.learner.dtype is LearnerDtype.AUTO else recipe.learner.dtype
    engine = recipe.rollout.engine_dtype
    if engine is EngineDtype.AUTO:
        engine = _following(recipe, chosen)
    return _with(recipe, learner=chosen, engine=engine)


def with_stored_dtypes(loaded: LoadedRecipe, stored: Recipe) -> LoadedRecipe:
    """The recipe of a resumed run: `auto` becomes the choice that was made when the run started."""
    recipe = loaded.recipe
    learner, engine = recipe.learner.dtype, recipe.rollout.engine_dtype
    if learner is LearnerDtype.AUTO:
        learner = stored.learner.dtype
    if engine is EngineDtype.AUTO:
        engine = stored.rollout.engine_dtype
    kept = _with(recipe, learner=learner, engine=engine)
    return with_choice(loaded, kept, reason="auto: chosen when the run started")


def with_choice(loaded: LoadedRecipe, recipe: Recipe, *, reason: str) -> LoadedRecipe:
    """`loaded` with this recipe; `reason` is the provenance of the chosen dtypes."""
    before = loaded.recipe
    provenance = dict(loaded.provenance)
    if recipe.learner.dtype is not before.learner.dtype:
        provenance[LEARNER_KEY] = reason
    if recipe.rollout.engine_dtype is not before.rollout.engine_dtype:
        provenance[ENGINE_KEY] = reason
    return replace(loaded, recipe=recipe, provenance=provenance)


def _following(recipe: Recipe, learner: LearnerDtype) -> EngineDtype:
    traits = recipe.rollout.engine.traits
    if not traits.has_weights:
        return EngineDtype.SHARED
    if learner is LearnerDtype.BFLOAT16_AUTOCAST:
        return EngineDtype.BFLOAT16
    needs_copy = recipe.cluster.backend is Backend.RAY or recipe.rollout.max_staleness > 0
    can_share = traits.can_share_tensors and not needs_copy
    return EngineDtype.SHARED if can_share else EngineDtype.FLOAT32


def _with(recipe: Recipe, *, learner: LearnerDtype, engine: EngineDtype) -> Recipe:
    return recipe.model_copy(
        update={
            "learner": recipe.learner.model_copy(update={"dtype": learner}),
            "rollout": recipe.rollout.model_copy(update={"engine_dtype": engine}),
        }
    )
