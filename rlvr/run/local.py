"""The local backend: builds every part of a run in this process, and runs it.

Recipe, plugins, data and references were checked before this module is imported (`rlvr.run.preflight`).
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from rlvr import __version__
from rlvr.algorithms.build import build_loss
from rlvr.config.algorithm import RatioBase
from rlvr.config.derived import derived_table
from rlvr.config.learner import LearnerDtype
from rlvr.config.load import LoadedRecipe
from rlvr.config.recipe import EngineDtype, EngineKind, ModelConfig, Recipe
from rlvr.data.load import demonstrations
from rlvr.errors import ConfigError, Interrupted
from rlvr.learner.group import LearnerGroup
from rlvr.learner.learner import PolicyLearner
from rlvr.models import lora
from rlvr.models.export import export_policy
from rlvr.models.policy import Policy, load_policy
from rlvr.models.prompting import encode_prompt, prompt_text
from rlvr.protocols import RolloutEngine
from rlvr.records import Prompt, Transport
from rlvr.rollout.toy_engine import ToyEngine
from rlvr.rollout.transformers_engine import COPY_DTYPES, TransformersEngine
from rlvr.run.assemble import assemble
from rlvr.run.console import Console
from rlvr.run.directory import RunDirectory
from rlvr.run.loop import run_loop
from rlvr.run.preflight import OpenedData
from rlvr.run.recorder import Recorder
from rlvr.run.resume import Resume, find_resume
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
            last_step = asyncio.run(_run(
                recipe, policy=policy, judge=judge, data=data, recorder=recorder, stop=stop,
                console=console, resumed=resumed, directory=directory,
            ))  # fmt: skip
        recorder.event("done", step=last_step, seconds=round(recorder.elapsed_s, 1))
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
) -> int:
    """Returns the last step."""
    faults = directory.path / "faults"
    if resumed is None and recipe.cold_start.steps:
        _cold_start(
            recipe, policy=policy, console=console, recorder=recorder, faults=faults, stop=stop
        )
    folder = directory.path / "reference"
    learner = build_learner(  # it alone holds the reference: ranks free the parent's copy
        recipe,
        policy=policy,
        faults=faults,
        reference=_reference(recipe, policy, folder, is_resumed=resumed is not None),
    )
    engine: RolloutEngine | None = None
    try:
        if resumed is not None:
            learner.restore(resumed.folder)
        engine = build_engine(recipe, policy=policy)
        parts = assemble(
            recipe,
            policy=policy,
            engine=engine,
            learner=learner,
            set_correction=learner.set_correction,
            judge=judge,
            data=data,
            recorder=recorder,
            stop=stop,
            resumed=resumed,
        )
        if resumed is not None:
            recorder.rewind(resumed.step, next_issue=parts.stream.num_issued)
            recorder.event("resumed_with", changes=resumed.changed)
        return await run_loop(parts)
    finally:
        if engine is not None:
            await engine.close()
        learner.close()


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
) -> PolicyLearner | LearnerGroup:
    """The learner of a recipe: in this process, or over `cluster.learners` ranks that its `close` ends.

    Args: reference: the frozen policy of its KL term.
    """
    rollout = recipe.rollout
    is_copy = (
        rollout.engine is EngineKind.TRANSFORMERS and rollout.engine_dtype is not EngineDtype.SHARED
    )
    ratio_base = recipe.algorithm.correction.ratio_base
    if ratio_base is RatioBase.AUTO:
        is_own = not is_copy and rollout.max_staleness == 0
        ratio_base = RatioBase.BEHAVIOR if is_own else RatioBase.PROXIMAL
    start = PolicyLearner
    if recipe.cluster.learners > 1:
        start = partial(LearnerGroup, num_ranks=recipe.cluster.learners)
    return start(
        policy,
        config=recipe.learner,
        loss=build_loss(
            recipe.algorithm,
            max_completion_tokens=rollout.max_completion_tokens,
            uses_proximal=ratio_base is RatioBase.PROXIMAL,
        ),
        temperature=recipe.rollout.temperature,
        transport=Transport.IN_PLACE_COPY if is_copy else Transport.SHARED,
        reference=reference,
        fault_folder=faults,
        published_dtype=COPY_DTYPES.get(rollout.engine_dtype, torch.float32),
    )


def _reference(
    recipe: Recipe, policy: Policy, folder: Path, *, is_resumed: bool
) -> PreTrainedModel | None:
    """The policy before its first RL step, frozen, where there is a KL term; after a cold start kept for a resume.

    With adapters it is the policy's own model, which the learner runs without them; a cold start has trained them, so
    then it is a copy too.
    """
    if recipe.algorithm.kl_coef == 0:
        return None
    if recipe.cold_start.steps and is_resumed:
        kept = load_policy(ModelConfig(path=str(folder)), seed=recipe.seed)
        return place_policy(kept, recipe).model.eval().requires_grad_(False)
    if recipe.cold_start.steps:
        export_policy(policy, folder)
    elif recipe.model.lora.rank:
        return policy.model
    return lora.plain_copy(policy.model, dtype=policy.model.dtype)


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
