"""The local backend: builds every part of a run in this process, and runs it.

Recipe, plugins, data and references were checked before this module is imported (`rlvr.run.preflight`).
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from rlvr import __version__
from rlvr.algorithms.build import build_advantage, build_loss
from rlvr.config.derived import derived_table
from rlvr.config.load import LoadedRecipe
from rlvr.config.recipe import EngineDtype, EngineKind, LearnerDtype, ModelConfig, Recipe
from rlvr.data.collate import collate
from rlvr.data.load import demonstrations
from rlvr.errors import ConfigError, Interrupted
from rlvr.learner.learner import PolicyLearner
from rlvr.models.export import export_policy
from rlvr.models.policy import Policy, load_policy
from rlvr.models.prompting import encode_prompt, prompt_text
from rlvr.protocols import RolloutEngine, Sampling
from rlvr.records import Prompt, Transport
from rlvr.rollout.toy_engine import ToyEngine
from rlvr.rollout.transformers_engine import TransformersEngine
from rlvr.run.buffer import GroupBuffer
from rlvr.run.console import Console
from rlvr.run.directory import RunDirectory
from rlvr.run.evaluation import Evaluation, evaluate
from rlvr.run.loop import run_loop
from rlvr.run.parts import RunParts
from rlvr.run.preflight import OpenedData
from rlvr.run.recorder import Recorder
from rlvr.run.resume import Resume, find_resume
from rlvr.run.sampler import SamplingPlan, SingleTurnSampler
from rlvr.run.sinks import build_sinks
from rlvr.run.stop import StopRequest, listen_for_stop
from rlvr.stages.supervised import imitate
from rlvr.verify import Judge


def train(
    loaded: LoadedRecipe,
    *,
    judge: Judge,
    data: OpenedData,
    directory: RunDirectory,
    resume: bool,
    console: Console,
) -> None:
    """Runs a recipe to its end in `directory`. `judge` and `data` come from `preflight.opened`.

    Raises: RlvrError; Interrupted after a checkpoint when the user asked to stop.
    """
    recipe = loaded.recipe
    with ExitStack() as stack:
        resumed = find_resume(directory, recipe) if resume else None
        directory.recipe.write_text(loaded.to_yaml(), encoding="utf-8")
        stop = stack.enter_context(
            listen_for_stop(
                lambda: console.note("stopping after this step; once more to stop without saving")
            )
        )
        policy = place_policy(load_policy(recipe.model, seed=recipe.seed), recipe)
        data.limit_prompts(partial(is_too_long, policy=policy, recipe=recipe))
        console.start(
            recipe_name=recipe.name,
            run_dir=directory.path,
            model=f"{recipe.model.path or 'tiny'} ({policy.num_parameters:,} parameters)",
            rows=derived_table(recipe),
            num_steps=recipe.run.steps,
        )
        recorder = Recorder(
            directory,
            console=console,
            sinks=build_sinks(recipe.run.trackers, directory.path, recipe.model_dump(mode="json")),
            prompt_text=lambda prompt: prompt_text(prompt, policy.tokenizer),
            keep_checkpoints=recipe.run.keep_checkpoints,
            sample_every_steps=recipe.run.sample_every_steps,
            elapsed_before_s=float(resumed.state["elapsed_s"]) if resumed else 0.0,
        )
        stack.callback(recorder.close)
        recorder.event(
            "start",
            recipe=recipe.name,
            version=__version__,
            torch=torch.__version__,
            seed=recipe.seed,
        )
        with _recorded(recorder):
            asyncio.run(_run(recipe, policy=policy, judge=judge, data=data, recorder=recorder, stop=stop,
                             console=console, resumed=resumed, directory=directory))  # fmt: skip
        recorder.event("done", step=recipe.run.steps, seconds=round(recorder.elapsed_s, 1))
        console.finish()


async def _run(
    recipe: Recipe,
    *,
    policy: Policy,
    judge: Judge,
    data: OpenedData,
    recorder: Recorder,
    stop: StopRequest,
    console: Console,
    resumed: Resume | None,
    directory: RunDirectory,
) -> None:
    faults = directory.path / "faults"
    if resumed is None and recipe.cold_start.steps:
        _cold_start(
            recipe, policy=policy, console=console, recorder=recorder, faults=faults, stop=stop
        )
    reference = None
    if recipe.algorithm.kl_coef > 0:
        reference = _reference(
            recipe, policy, directory.path / "reference", is_resumed=resumed is not None
        )
    learner = build_learner(recipe, policy=policy, faults=faults, reference=reference)
    if resumed is not None:
        learner.restore(resumed.folder)
        data.stream.restore(resumed.state["stream"])
        recorder.rewind(resumed.step, next_issue=data.stream.num_issued)
        recorder.event("resumed_with", changes=resumed.changed)
    engine = build_engine(recipe, policy=policy)
    sampler = SingleTurnSampler(
        engine=engine,
        judge=judge,
        tokenizer=policy.tokenizer,
        reward=recipe.reward,
        run_seed=recipe.seed,
    )
    advantage, min_judged = build_advantage(recipe.algorithm)
    every, save_every = recipe.run.eval_every_steps, recipe.run.checkpoint_every_steps
    last = recipe.run.steps
    parts = RunParts(
        first_step=resumed.step + 1 if resumed else 1,
        num_steps=last,
        stream=data.stream,
        sampler=sampler,
        plan=training_plan(recipe),
        engine=engine,
        learner=learner,
        buffer=GroupBuffer(prompts_per_step=recipe.rollout.prompts_per_step, min_judged=min_judged),
        advantage=advantage,
        collate=lambda groups, advantages: collate(
            groups, advantages=advantages, pad_token_id=policy.pad_token_id
        ),
        evaluate=_evaluator(recipe, sampler=sampler, data=data),
        is_eval_due=lambda step: (
            bool(data.evals) and (step == last or bool(every and step % every == 0))
        ),
        is_checkpoint_due=lambda step: step == last or bool(save_every and step % save_every == 0),
        recorder=recorder,
        stop=stop,
        max_error_rate=recipe.reward.max_error_rate,
    )
    try:
        await run_loop(parts)
    finally:
        await engine.close()


def build_engine(recipe: Recipe, *, policy: Policy) -> RolloutEngine:
    """The rollout engine of a recipe; the one place that branches on its kind."""
    if recipe.rollout.engine is EngineKind.TOY:
        return ToyEngine(policy)
    return TransformersEngine(
        policy,
        engine_dtype=recipe.rollout.engine_dtype,
        autocast=recipe.learner.dtype is LearnerDtype.BFLOAT16_AUTOCAST,
        max_batch_rows=recipe.rollout.max_batch_rows,
    )


def build_learner(
    recipe: Recipe, *, policy: Policy, faults: Path, reference: PreTrainedModel | None
) -> PolicyLearner:
    """The learner of a recipe; `reference` is the frozen policy of its KL term."""
    is_copy = (
        recipe.rollout.engine is EngineKind.TRANSFORMERS
        and recipe.rollout.engine_dtype is EngineDtype.BFLOAT16
    )
    return PolicyLearner(
        policy,
        config=recipe.learner,
        loss=build_loss(
            recipe.algorithm, max_completion_tokens=recipe.rollout.max_completion_tokens
        ),
        temperature=recipe.rollout.temperature,
        transport=Transport.IN_PLACE_COPY if is_copy else Transport.SHARED,
        reference=reference,
        fault_folder=faults,
    )


def training_plan(recipe: Recipe) -> SamplingPlan:
    """How the recipe samples a training group."""
    sampling = Sampling(
        temperature=recipe.rollout.temperature,
        max_tokens=recipe.rollout.max_completion_tokens,
        stop_strings=tuple(recipe.rollout.stop_strings),
    )
    return SamplingPlan(sampling=sampling, group_size=recipe.rollout.group_size)


def _evaluator(
    recipe: Recipe, *, sampler: SingleTurnSampler, data: OpenedData
) -> Callable[[int, int], Awaitable[list[Evaluation]]]:
    """Evaluates every set: in full at the start and the end, on the first `eval_prompts_between` in between."""

    async def run(step: int, policy_version: int) -> list[Evaluation]:
        between = recipe.run.eval_prompts_between if 0 < step < recipe.run.steps else 0
        return [
            await evaluate(
                name,
                prompts[: between or len(prompts)],
                sampler=sampler,
                max_completion_tokens=recipe.rollout.max_completion_tokens,
                stop_strings=recipe.rollout.stop_strings,
                policy_version=policy_version,
            )
            for name, prompts in data.evals.items()
        ]

    return run


def _reference(
    recipe: Recipe, policy: Policy, folder: Path, *, is_resumed: bool
) -> PreTrainedModel:
    """A frozen copy of the policy before its first RL step; after a cold start it is kept for a resume."""
    if recipe.cold_start.steps and is_resumed:
        kept = load_policy(ModelConfig(path=str(folder)), seed=recipe.seed)
        return place_policy(kept, recipe).model.eval().requires_grad_(False)
    if recipe.cold_start.steps:
        export_policy(policy, folder)
    return copy.deepcopy(policy.model).eval().requires_grad_(False)


def _cold_start(
    recipe: Recipe,
    *,
    policy: Policy,
    console: Console,
    recorder: Recorder,
    faults: Path,
    stop: StopRequest,
) -> None:
    def progress(step: int, loss: float) -> None:
        console.cold_start(step, recipe.cold_start.steps, loss)
        if stop.requested:
            raise Interrupted(
                f"stopped in the cold start at step {step}; it is too short to resume: start anew"
            )

    pairs: Iterator[tuple[Prompt, str]] = demonstrations(recipe.data.train, seed=recipe.seed)
    report = imitate(
        policy,
        config=recipe.cold_start,
        learner_config=recipe.learner,
        demonstrations=pairs,
        fault_folder=faults,
        progress=progress,
    )
    recorder.event(
        "cold_start", steps=report.steps, first_loss=report.first_loss, last_loss=report.last_loss
    )


def place_policy(policy: Policy, recipe: Recipe) -> Policy:
    """The policy on its device, with the threads the recipe asks for."""
    if recipe.learner.num_threads:
        torch.set_num_threads(recipe.learner.num_threads)
    device = recipe.learner.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        policy.model.to(device)  # type: ignore[arg-type] # the stub of transformers wants a torch.device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"learner.device={recipe.learner.device!r} cannot be used: {error}; `rlvr doctor` lists the devices"
        ) from error
    return policy


def is_too_long(prompt: Prompt, *, policy: Policy, recipe: Recipe) -> bool:
    """Whether prompt and completion would not fit the recipe's limit or the model's positions."""
    length = len(encode_prompt(prompt, policy.tokenizer))
    room = policy.max_positions - recipe.rollout.max_completion_tokens
    return length > min(recipe.data.max_prompt_tokens, room)


@contextmanager
def _recorded(recorder: Recorder) -> Iterator[None]:
    """Notes in events.jsonl how the run ended when it did not end well."""
    try:
        yield
    except BaseException as error:
        recorder.event("stopped", error=type(error).__name__, message=str(error))
        raise
