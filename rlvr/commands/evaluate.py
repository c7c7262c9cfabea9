"""`rlvr eval`: a model, a run or a checkpoint, on a recipe's evaluation sets or on a source of prompts."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rlvr.commands.evaluate_cluster import on_cluster
from rlvr.commands.evaluate_server import ServerChoice, served
from rlvr.commands.run_checkpoint import locate_checkpoint
from rlvr.commands.train import require_backend
from rlvr.config.load import load_recipe
from rlvr.config.recipe import Backend, Recipe
from rlvr.errors import ConfigError
from rlvr.models.dtype_speed import measure_dtypes
from rlvr.models.policy import PolicyText, load_policy
from rlvr.models.prompting import prompt_text
from rlvr.protocols import RolloutEngine
from rlvr.rollout.build import build_engine, start_engine
from rlvr.run.activity import Activity
from rlvr.run.launch.choose_dtypes import choose_dtypes
from rlvr.run.launch.preflight import OpenedData, opened
from rlvr.run.launch.prompt_check import check_prompts
from rlvr.run.launch.run import prompt_limit
from rlvr.run.launch.start_learner import place_policy
from rlvr.run.monitor.broken_checkers import NEARLY_ALL, broken_checkers, is_any_judged, unjudged
from rlvr.run.step.evaluation import Evaluation, evaluate
from rlvr.run.step.sampler import CompletionVerifier, SingleTurnSampler
from rlvr.verification.service import VerifierService

logger = logging.getLogger(__name__)


def evaluate_model(
    model: str,
    *,
    recipe: str | None,
    prompts: str | None,
    overrides: Sequence[str],
    samples_per_prompt: int,
    output: Path | None,
    server: ServerChoice | None = None,
    activity: Activity | None = None,
) -> list[tuple[str, str, str]]:
    """Rows (metric, value, interval) of each evaluation set.

    Args:
        activity: the status line for loading and evaluation.
        model: anything that `model.path` accepts, a run directory (its newest intact checkpoint) or a checkpoint.
        recipe: by default the recipe of the run.
        prompts: a source instead of `data.eval`; uses columns and verifier of the first evaluation set.
        server: generates; `model` then only gives tokenizer, chat template and limits, and its weights are not loaded.

    Raises: ConfigError, DataError, PluginError, RolloutError; VerifierError when no completion could be judged.
    """
    path, own_recipe = locate_checkpoint(model)
    if recipe is None and own_recipe is None:
        run = next((str(p) for p in Path(model).parents if (p / "recipe.yaml").is_file()), "")
        raise ConfigError(
            f"{model!r} is not a run directory, so rlvr eval needs --recipe NAME for data and sampling"
            + (f"; did you mean the run {run!r}?" if run else "")
        )
    # A checkpoint holds merged weights: the run's adapters are in them.
    merged = [f"model.path={path}", "model.tiny=null", "model.lora.rank=0", "model.lora.sends_alone=false"]
    changes = [*overrides, *([] if path is None else merged)]
    resolved = load_recipe(str(recipe or own_recipe), changes).recipe
    if prompts is not None:
        resolved = _on_source(resolved, prompts)
    if not resolved.data.eval:
        raise ConfigError(f"recipe {resolved.name!r} has no data.eval; name a source with --prompts")
    if server is None:
        require_backend(resolved)
    evaluations = asyncio.run(
        _evaluate(
            resolved,
            alias=model,
            samples_per_prompt=samples_per_prompt,
            output=output,
            server=server,
            activity=activity,
        )
    )
    _require_judged(evaluations)
    return [row for evaluation in evaluations for row in _rows(evaluation)]


def _require_judged(evaluations: Sequence[Evaluation]) -> None:
    """Warns of checkers that broke. Raises VerifierError when nothing was judged, because there is no figure then."""
    for evaluation in evaluations:
        for broken in broken_checkers(evaluation.groups):
            if broken.rate > NEARLY_ALL:
                logger.warning("evaluation %r: %s", evaluation.name, broken.message())
    groups = [group for evaluation in evaluations for group in evaluation.groups]
    if not any(map(is_any_judged, groups)):
        count = sum(len(group.rollouts) for group in groups)
        raise unjudged(groups, what=f"{count:,} completions")


async def _evaluate(
    recipe: Recipe,
    *,
    alias: str,
    samples_per_prompt: int,
    output: Path | None,
    server: ServerChoice | None,
    activity: Activity | None,
) -> list[Evaluation]:
    if activity is not None:
        activity.begin("loading")
    with opened(recipe) as (service, data):
        if server is None:  # a server has its own tokenizer
            for note in check_prompts(recipe, data).notes:
                logger.warning(note.removeprefix("warning: "))
        if server is not None:
            workers = served(recipe, choice=server, alias=alias, data=data, service=service)
        elif recipe.cluster.backend is Backend.RAY:
            workers = on_cluster(recipe, data=data, service=service)
        else:
            workers = _here(recipe, data=data, service=service)
        async with workers as (engine, verifiers, text):
            sampler = SingleTurnSampler(
                engine=engine,
                verifier=verifiers,
                tokenizer=text.tokenizer,
                reward=recipe.reward,
                run_seed=recipe.seed,
                completion_deadline_s=recipe.rollout.completion_deadline_s,
            )
            evaluations = [
                await evaluate(
                    name,
                    found,
                    sampler=sampler,
                    max_completion_tokens=recipe.rollout.max_completion_tokens,
                    stop_strings=recipe.rollout.stop_strings,
                    stop_token_ids=recipe.rollout.stop_token_ids,
                    policy_version=0,
                    samples_per_prompt=samples_per_prompt,
                    temperature=0.0 if samples_per_prompt == 1 else recipe.rollout.temperature,
                    activity=activity,
                )
                for name, found in data.evals.items()
            ]
    if output is not None:
        with output.open("w", encoding="utf-8") as file:
            for evaluation in evaluations:
                for row in _rollout_rows(evaluation, text.tokenizer):
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    return evaluations


@asynccontextmanager
async def _here(
    recipe: Recipe, *, data: OpenedData, service: VerifierService
) -> AsyncIterator[tuple[RolloutEngine, CompletionVerifier, PolicyText]]:
    """Context in which this process generates and verifies."""
    policy = place_policy(load_policy(recipe.model, seed=recipe.seed), recipe)
    choice = choose_dtypes(recipe, measure=lambda: measure_dtypes(policy.model))
    recipe = recipe if choice is None else choice.recipe
    data.limit_prompts(prompt_limit(text=policy.text, recipe=recipe))
    engine = build_engine(recipe, policy=policy)
    try:
        await start_engine(engine)
        yield engine, service, policy.text
    finally:
        await engine.close()


def _on_source(recipe: Recipe, source: str) -> Recipe:
    template = (recipe.data.eval or recipe.data.train)[0]
    settings = template.settings if source == template.source else {}  # they are a generator's
    changed = template.model_copy(update={"source": source, "name": "", "settings": settings})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"eval": [changed]})})


def _rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    interval = f"95 % interval {evaluation.low:.3f} to {evaluation.high:.3f}, n={evaluation.num_prompts}"
    rows: list[tuple[str, str, str]] = []
    for name, value in evaluation.metrics.items():
        if "_ci_" not in name:
            rows.append((name, f"{value:.4g}", interval if not rows else ""))
    return rows


def _rollout_rows(evaluation: Evaluation, tokenizer: Any) -> list[dict[str, Any]]:
    return [
        {
            "evaluation": evaluation.name,
            "prompt_id": group.prompt.prompt_id,
            "prompt": prompt_text(group.prompt, tokenizer),
            "completion": rollout.completion.text,
            "finish_reason": rollout.completion.finish_reason.value,
            "reference": group.prompt.checks[0].reference,  # all checks of a row have the same
            "reward": rollout.reward,
            "verdicts": {
                name: {
                    "role": roles.get(name),
                    "status": v.status.value,
                    "score": v.score,
                    "extracted": v.extracted,
                    "reason": v.reason,
                }
                for name, v in rollout.verdicts.items()
            },
        }
        for group in evaluation.groups
        for roles in [{check.name: check.role.value for check in group.prompt.checks}]
        for rollout in group.rollouts
    ]
