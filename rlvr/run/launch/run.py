"""The part of a run that all backends share: directory, console, recorder, stop, resume, loss of the learner.

    run_recipe:  find the checkpoint (--resume) -> backend.open: facts about the policy -> dtypes that the recipe
                 leaves to the machine -> data, console, recorder
                 -> backend.workers: learner, engine, verifiers -> assemble -> run_loop
                 LearnerLost: again from the newest intact checkpoint, as --resume does, up to the recipe's limit

A backend only provides the workers, so a run leaves the same files wherever its parts live.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from rlvr import __version__
from rlvr.config.derived import derived_table
from rlvr.config.recipe import Recipe
from rlvr.data.order import LONG_ADVICE
from rlvr.errors import ConfigError, Interrupted, StorageError
from rlvr.models.policy import PolicyText
from rlvr.models.prompting import encode_prompt, prompt_text
from rlvr.run.launch.assemble import assemble
from rlvr.run.launch.backend import Backend, RunContext, Workers
from rlvr.run.launch.choose_dtypes import DtypeChoice, apply_choice, choose_dtypes
from rlvr.run.launch.preflight import OpenedData, PromptLimit
from rlvr.run.launch.reentry import finish_trained, start_over, warn
from rlvr.run.launch.request import RunRequest
from rlvr.run.loop import run_loop
from rlvr.run.record.checkpoints import choose_checkpoint, read_run_state
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.inputs import input_digests
from rlvr.run.record.recipe_file import signed, write_recipe
from rlvr.run.record.recorder import Recorder
from rlvr.run.record.resume import BEFORE_EVERYTHING, Resume, find_resume
from rlvr.run.record.sinks import build_sinks
from rlvr.run.record.telemetry import note_start
from rlvr.run.step.failures import LearnerLost
from rlvr.run.step.stop import StopRequest, listen_for_stop

logger = logging.getLogger(__name__)


def run_recipe(request: RunRequest, *, backend: Backend) -> None:
    """Runs a recipe to its end on the backend's workers.

    Raises: RlvrError; Interrupted after a checkpoint when the user asked to stop.
    """
    loaded, data, directory, console = request.loaded, request.data, request.directory, request.console
    with ExitStack() as stack:
        inputs = input_digests(loaded.recipe, opener=data.opener)
        resumed = None
        if request.resume is not None:
            found = find_resume(directory, loaded, inputs=inputs, choice=request.resume)
            loaded, resumed = found.loaded, found.resume
        if resumed is not None and resumed.step == loaded.recipe.run.steps:
            finish_trained(directory, resumed, console=console)
            return
        write_recipe(directory, loaded.to_yaml())
        stop = stack.enter_context(
            listen_for_stop(
                grace_s=loaded.recipe.run.grace_s,
                max_hours=loaded.recipe.run.max_hours,
                note=console.note,
                final_message=directory.resume_hint,
            )
        )
        stack.enter_context(_interrupted_with_hint(directory, stop))
        stack.callback(console.activity.end)
        console.activity.begin("loading the policy")
        text = backend.open()
        _stop_early(stop)
        console.activity.begin("choosing dtypes")
        dtypes = choose_dtypes(loaded.recipe, measure=backend.measure_dtypes)
        if dtypes is not None:
            loaded = apply_choice(loaded, dtypes)
            write_recipe(directory, loaded.to_yaml())
        recipe = loaded.recipe
        backend.use(recipe)
        console.activity.begin("reading the data")
        data.limit_prompts(prompt_limit(text=text, recipe=recipe))
        console.start(
            recipe_name=recipe.name,
            run_dir=directory.path,
            model=f"{recipe.model.path or 'tiny'} ({text.num_parameters:,} parameters)",
            rows=derived_table(recipe, dtype_reason="" if dtypes is None else dtypes.reason),
            num_steps=recipe.run.steps,
        )
        recorder = Recorder(
            directory,
            console=console,
            sinks=build_sinks(recipe.run.trackers, directory.path, recipe.model_dump(mode="json")),
            prompt_text=lambda prompt: prompt_text(prompt, text.tokenizer),
            keep_checkpoints=recipe.run.keep_checkpoints,
            show_rollout_every_steps=recipe.run.show_rollout_every_steps,
            elapsed_before_s=float(resumed.state["elapsed_s"]) if resumed else 0.0,
            recipe=signed(loaded.to_yaml()),
            inputs=inputs,
        )
        stack.enter_context(_closing(recorder))
        _record_start(recorder, recipe, inputs=inputs, dtypes=dtypes, resumed=resumed)
        if request.resume is not None and resumed is None:
            start_over(recorder)
        context = RunContext(
            recipe=recipe, directory=directory, recorder=recorder, console=console, stop=stop, resumed=resumed
        )
        with _recorded(recorder), _interrupted_with_hint(directory, stop):
            last_step = _run_with_restarts(context, backend=backend, text=text, data=data)
        recorder.event("done", step=last_step, seconds=round(recorder.elapsed_s, 1))
        console.finish()


def _record_start(
    recorder: Recorder, recipe: Recipe, *, inputs: dict[str, str], dtypes: DtypeChoice | None, resumed: Resume | None
) -> None:
    recorder.event("start", recipe=recipe.name, version=__version__, torch=torch.__version__, seed=recipe.seed)
    recorder.event("inputs", **inputs)
    note_start(recipe)
    if dtypes is not None:
        recorder.event("dtypes", **dtypes.event)
    for warning in resumed.warnings if resumed else ():
        warn(recorder.event, warning)


def _run_with_restarts(context: RunContext, *, backend: Backend, text: PolicyText, data: OpenedData) -> int:
    """Returns the last step. A lost learner is started again while the recipe allows it. Raises as `run_recipe`."""
    num_lost = 0
    while True:
        try:
            if num_lost:
                text = backend.open()
                data.limit_prompts(prompt_limit(text=text, recipe=context.recipe))
            _stop_early(context.stop)
            return asyncio.run(_run(context, backend=backend, text=text, data=data))
        except LearnerLost as error:
            num_lost += 1
            if num_lost > context.recipe.cluster.max_learner_restarts:
                raise
            context = replace(context, resumed=_after_loss(context, error, number=num_lost))


async def _run(context: RunContext, *, backend: Backend, text: PolicyText, data: OpenedData) -> int:
    """Returns the last step. Raises CancelledError when the current step is dropped."""
    context.console.activity.begin("starting learner and engines")
    with context.stop.droppable():
        async with backend.workers(context) as workers:
            return await _loop_with(workers, context, text=text, data=data)


async def _loop_with(workers: Workers, context: RunContext, *, text: PolicyText, data: OpenedData) -> int:
    parts = assemble(context, workers, text=text, data=data)
    if context.resumed is not None:
        context.recorder.rewind(context.resumed.step, next_issue=parts.stream.num_issued)
        context.recorder.event("resumed_with", changes=context.resumed.changed)
    return await run_loop(parts)


def _after_loss(context: RunContext, error: LearnerLost, *, number: int) -> Resume | None:
    """Where the run continues: the newest intact checkpoint; None: from the start, discarding everything."""
    context.recorder.salvage_checkpoint()
    chosen = choose_checkpoint(context.directory)
    step = chosen.step if chosen else 0
    context.recorder.remark(
        "learner_restart",
        f"the learner was lost ({error}); continuing from "
        + (f"the checkpoint of step {step}" if chosen else "the start: there is no checkpoint yet"),
        message=str(error),
        from_step=step,
        restart=number,
        max_restarts=context.recipe.cluster.max_learner_restarts,
    )
    if chosen is None:
        context.recorder.rewind(BEFORE_EVERYTHING, next_issue=0)
        return None
    for warning in chosen.passed_over:
        warn(context.recorder.event, warning)
    return Resume(step=step, folder=chosen.folder, state=read_run_state(chosen.folder), changed={})


def prompt_limit(*, text: PolicyText, recipe: Recipe) -> PromptLimit:
    """The prompt length that, with the completion, fits the recipe's limit and the model's positions.

    Raises: ConfigError when the completion alone takes all positions.
    """
    completion = recipe.rollout.max_completion_tokens
    room = text.max_positions - completion
    of_model = (
        f"the model has {text.max_positions} positions, of which rollout.max_completion_tokens={completion} leaves "
        f"{room} for the prompt"
    )
    if room < 1:
        raise ConfigError(f"{of_model}; lower rollout.max_completion_tokens")
    is_of_model = room < recipe.data.max_prompt_tokens
    longest = min(recipe.data.max_prompt_tokens, room)
    return PromptLimit(
        is_too_long=lambda prompt: len(encode_prompt(prompt, text.tokenizer)) > longest,
        advice=f"{of_model}: lower it or shorten the prompts" if is_of_model else LONG_ADVICE,
    )


def _stop_early(stop: StopRequest) -> None:
    """Raises KeyboardInterrupt if a stop was requested before the first step."""
    if stop.requested:
        raise KeyboardInterrupt


@contextmanager
def _interrupted_with_hint(directory: RunDirectory, stop: StopRequest) -> Iterator[None]:
    """Turns an interruption into Interrupted, with the newest checkpoint and the command to resume."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and not stop.is_dropped:
            raise
        raise Interrupted(directory.resume_hint()) from None


@contextmanager
def _recorded(recorder: Recorder) -> Iterator[None]:
    """Records in events.jsonl how the run ended if it was stopped or failed."""
    try:
        yield
    except BaseException as error:
        try:
            recorder.event("stopped", error=type(error).__name__, message=str(error))
        except StorageError as second:  # the first error matters more
            logger.warning("how the run ended could not be recorded: %s", second)
        raise


@contextmanager
def _closing(recorder: Recorder) -> Iterator[None]:
    """Closes the recorder at the end; if the run failed, an error from closing does not replace the run's error."""
    try:
        yield
    except BaseException:
        try:
            recorder.close()
        except StorageError as second:
            logger.warning("%s", second)
        raise
    recorder.close()
