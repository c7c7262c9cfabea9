"""Overrides that take less memory, from those that only cost time to those that change what is trained."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from rlvr.config.recipe import EngineDtype, Recipe
from rlvr.config.sections.learner import OptimizerKind

Change = tuple[str, Any]  # a dotted key and its value
_SMALLER = (2, 4, 8)  # divisors of a size


def candidates(recipe: Recipe, *, row_tokens: int, device: str) -> Iterator[Change]:
    """Possible changes of keys, the most harmless first.

    Args: row_tokens: of the longest row; a micro-batch is not smaller. device: the type of the learner's device.
    """
    learner, rollout = recipe.learner, recipe.rollout
    if not learner.gradient_checkpointing:
        yield "learner.gradient_checkpointing", True
    for part in _SMALLER:
        if learner.micro_batch_tokens // part >= row_tokens:
            yield "learner.micro_batch_tokens", learner.micro_batch_tokens // part
    if learner.logits_memory_on(device) > 128:
        yield "learner.logits_memory_mb", 128
    for part in _SMALLER:
        if rollout.max_batch_rows // part >= 8:
            yield "rollout.max_batch_rows", rollout.max_batch_rows // part
    if rollout.engine_dtype is EngineDtype.FLOAT32:
        yield "rollout.engine_dtype", EngineDtype.BFLOAT16
    if rollout.engine_dtype is not EngineDtype.SHARED and rollout.engine.traits.can_share_tensors:
        yield "rollout.engine_dtype", EngineDtype.SHARED
    if learner.optimizer is OptimizerKind.ADAMW:
        yield "learner.optimizer", OptimizerKind.ADAMW_8BIT
    if recipe.model.lora.rank == 0:
        yield "model.lora.rank", 16


def changed(recipe: Recipe, change: Change) -> Recipe | None:
    """The recipe with one leaf changed, or None if it would then contradict itself."""
    key, value = change
    values: dict[str, Any] = recipe.model_dump()
    *parents, leaf = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[leaf] = value
    try:
        return Recipe.model_validate(values)
    except ValidationError:
        return None


def override(change: Change) -> str:
    """The change as a `key=value` of the command line.

    >>> override(("learner.gradient_checkpointing", True)), override(("rollout.engine_dtype", EngineDtype.SHARED))
    ('learner.gradient_checkpointing=true', 'rollout.engine_dtype=shared')
    """
    key, value = change
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{key}={text}"
