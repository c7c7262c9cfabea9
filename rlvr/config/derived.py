"""Counts derived from a recipe, shown before a run starts."""

import math

from rlvr.config.presets import PRESETS
from rlvr.config.recipe import EngineDtype, Recipe
from rlvr.config.sections.learner import LearnerDtype

_MOST_SHOWN = 8


def due_steps(steps: int, *, every: int) -> tuple[int, ...]:
    """The steps, from 1, at which something happens every `every` steps (0 = never) and at the last.

    >>> due_steps(10, every=4)
    (4, 8, 10)
    >>> due_steps(10, every=0)
    (10,)
    """
    regular = tuple(range(every, steps + 1, every)) if every else ()
    return regular if steps in regular else (*regular, steps)


def num_due(steps: int, *, every: int) -> int:
    """The number of steps in `due_steps`, without building the tuple.

    >>> num_due(10, every=4), num_due(8, every=4), num_due(10**9, every=1)
    (3, 2, 1000000000)
    """
    return -(-steps // every) if every else 1


def derived_table(recipe: Recipe, *, dtype_reason: str = "") -> list[tuple[str, str, str]]:
    """Rows (quantity, value, how it was computed).

    Args: dtype_reason: how `auto` dtypes were resolved; empty when the recipe sets them.
    """
    rollout, learner, run = recipe.rollout, recipe.learner, recipe.run
    prompts, group = rollout.prompts_per_step, rollout.group_size
    completions = prompts * group
    minibatches = learner.minibatches_per_step
    per_minibatch = prompts // minibatches
    cold = recipe.cold_start
    return [
        *_parts(recipe),
        _arithmetic(recipe, dtype_reason),
        ("completions per step", f"{completions:,}", f"{prompts:,} prompts x {group:,} each"),
        (
            "prompts per minibatch",
            f"{per_minibatch:,}",
            f"{prompts:,} prompts in {minibatches:,} {'minibatch' if minibatches == 1 else 'minibatches'}",
        ),
        ("completions per minibatch", f"{per_minibatch * group:,}", f"{per_minibatch:,} prompts x {group:,} each"),
        ("optimiser steps per training step", f"{minibatches:,}", "one per minibatch"),
        ("total prompts", f"{run.steps * prompts:,}", f"{run.steps:,} steps x {prompts:,}"),
        ("total completions", f"{run.steps * completions:,}", f"{run.steps:,} steps x {completions:,}"),
        (
            "max completion tokens per step",
            f"{completions * rollout.max_completion_tokens:,}",
            f"{completions:,} completions x {rollout.max_completion_tokens:,} tokens",
        ),
        ("cold-start steps", f"{cold.steps:,}", f"{cold.batch_size:,} demonstrations each" if cold.steps else "none"),
        (
            "evaluations at steps",
            _listed((0,), run.steps, run.eval_every_steps) if recipe.data.eval else "none",
            _interval(run.eval_every_steps, "before training, ") if recipe.data.eval else "data.eval is empty",
        ),
        (
            "checkpoints at steps",
            _listed((), run.steps, run.checkpoint_every_steps),
            _interval(run.checkpoint_every_steps, ""),
        ),
    ]


def speed_rows(recipe: Recipe, *, device: str) -> list[tuple[str, str, str]]:
    """Rows about settings of speed, with defaults that depend on the learner's type of device resolved.

    Args: device: `cpu` or `cuda`.
    """
    learner = recipe.learner
    source = "as the recipe says" if learner.logits_memory_mb else f"the default on {device}"
    layers = "compiled layers" if learner.compile else "eager layers"
    return [
        ("logits held at once", f"{learner.logits_memory_on(device):,} MiB", f"in float32, by the LM head; {source}"),
        ("kernels", f"{learner.kernels.value}, {layers}", "learner.kernels, learner.compile"),
    ]


def _parts(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Rows about features that are off by default: preset, adapters, learners, staleness, replacements."""
    rollout, algorithm, lora = recipe.rollout, recipe.algorithm, recipe.model.lora
    prompts = rollout.prompts_per_step
    rows: list[tuple[str, str, str]] = []
    if algorithm.preset in PRESETS:
        rows.append(("preset", algorithm.preset, PRESETS[algorithm.preset].paper))
    if lora.rank:
        targets = ", ".join(lora.target_modules)
        rows.append(("adapters", f"rank {lora.rank:,}", f"alpha {lora.alpha:g}, on {targets}"))
    learners = recipe.cluster.learners
    if learners > 1:
        share = prompts // recipe.learner.minibatches_per_step * rollout.group_size / learners
        rows.append(("learners", f"{learners:,}", f"about {share:,.0f} completions of each minibatch per learner"))
    if rollout.max_staleness:
        versions = rollout.max_staleness + 1
        rows.append(
            (
                "completions in flight",
                f"{versions * prompts * rollout.group_size:,}",
                f"at most {versions:,} steps' worth, up to {_versions(rollout.max_staleness)} old",
            )
        )
    dynamic = algorithm.dynamic_sampling
    if dynamic.enabled:
        refills = math.floor(dynamic.max_refill_factor * prompts)
        rows.append(
            (
                "groups per step at most",
                f"{prompts + refills:,}",
                f"{prompts:,} prompts and {refills:,} replacements of groups without a signal",
            )
        )
    return rows


def _arithmetic(recipe: Recipe, reason: str) -> tuple[str, str, str]:
    learner, engine = recipe.learner.dtype, recipe.rollout.engine_dtype
    is_open = learner is LearnerDtype.AUTO or engine is EngineDtype.AUTO
    how = reason or ("auto is chosen when the run starts" if is_open else "as the recipe says")
    return ("arithmetic", f"learner {learner.value}, engine {engine.value}", how)


def _versions(number: int) -> str:
    return "1 version" if number == 1 else f"{number:,} versions"


def _listed(before: tuple[int, ...], steps: int, every: int) -> str:
    """The steps `before` and the due steps; a long list is cut to its first three and its last."""
    count = len(before) + num_due(steps, every=every)
    if count <= _MOST_SHOWN:
        return ", ".join(map(str, (*before, *due_steps(steps, every=every))))
    first = ", ".join(map(str, (*before, every, 2 * every, 3 * every)[:3]))
    return f"{first}, ..., {steps} ({count} in all)"


def _interval(every: int, before: str) -> str:
    regular = f"every {every:,} and " if every else ""
    return f"{before}{regular}at the last step"
