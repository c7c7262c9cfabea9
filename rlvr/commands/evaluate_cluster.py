"""`rlvr eval` with `cluster.backend: ray`: the engines and verifiers of training, on weights that a learner publishes.

An engine on a cluster starts without weights. So a learner actor loads the model and publishes it, and each engine
loads that file and confirms every checksum. Nothing is trained.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rlvr.config.recipe import Recipe
from rlvr.models.policy import PolicyText
from rlvr.processes import watchdog
from rlvr.protocols import RolloutEngine
from rlvr.run.launch.backend import RunContext
from rlvr.run.launch.choose_dtypes import choose_dtypes
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.launch.run import prompt_limit
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recorder import Recorder
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.step.sampler import CompletionVerifier
from rlvr.run.step.stop import StopRequest
from rlvr.run.weights.sync import sync_weights
from rlvr.verification.service import VerifierService

EVERYWHERE = Path(os.sep)  # a folder that the learner's node has too; an evaluation writes nothing there


@asynccontextmanager
async def on_cluster(
    recipe: Recipe, *, data: OpenedData, service: VerifierService
) -> AsyncIterator[tuple[RolloutEngine, CompletionVerifier, PolicyText]]:
    """Context in which the recipe's engines hold the model's weights and its verifiers are running.

    Raises: ConfigError when the cluster is unavailable, RolloutError when an engine does not hold what was sent.
    """
    from rlvr.run.ray.backend import opened_backend

    cold_start = recipe.cold_start.model_copy(update={"steps": 0})
    recipe = recipe.model_copy(update={"cold_start": cold_start})
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rlvr-eval-"))
        watchdog.guard(Path(folder))
        backend = stack.enter_context(opened_backend(recipe, service=service, run_dir=EVERYWHERE))
        text = await asyncio.to_thread(backend.open)
        choice = await asyncio.to_thread(choose_dtypes, recipe, measure=backend.measure_dtypes)
        recipe = recipe if choice is None else choice.recipe
        backend.use(recipe)
        data.limit_prompts(prompt_limit(text=text, recipe=recipe))
        directory = RunDirectory.create(Path(folder) / "run", recipe.name)
        console = Console()
        recorder = Recorder(
            directory,
            console=console,
            sinks=(),
            prompt_text=lambda _: "",
            keep_checkpoints=0,
            show_rollout_every_steps=0,
        )
        stack.callback(recorder.close)
        context = RunContext(
            recipe=recipe, directory=directory, recorder=recorder, console=console, stop=StopRequest(), resumed=None
        )
        workers = await stack.enter_async_context(backend.workers(context))
        thread = LearnerThread()
        stack.callback(thread.close)
        await sync_weights(workers.learner, workers.engine, thread=thread)
        yield workers.engine, workers.verifier, text
