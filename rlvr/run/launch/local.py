"""The local backend: every part of a run in this process.

Recipe, plugins, data and references are checked before this module is imported (`rlvr.run.launch.preflight`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rlvr.config.recipe import Recipe
from rlvr.errors import Interrupted
from rlvr.models.dtype_speed import DtypeSpeeds, measure_dtypes
from rlvr.models.policy import Policy, PolicyText, load_policy
from rlvr.records import Transport
from rlvr.rollout.build import build_engine, start_engine
from rlvr.run.launch.backend import RunContext, Workers
from rlvr.run.launch.request import RunRequest
from rlvr.run.launch.run import run_recipe
from rlvr.run.launch.start_learner import place_policy, start_learner
from rlvr.run.record.telemetry import watch_pool
from rlvr.stages.supervised import SupervisedReport
from rlvr.telemetry.endpoint import served
from rlvr.verification.service import VerifierService

__all__ = ["LocalBackend", "place_policy", "train"]

_LOOPBACK = "127.0.0.1"


def train(request: RunRequest) -> None:
    """Runs a recipe to its end in this process.

    Raises: RlvrError; Interrupted after a checkpoint when the user asked to stop.
    """
    with served(_LOOPBACK):
        run_recipe(request, backend=LocalBackend(request.loaded.recipe, service=request.service))


class LocalBackend:
    """One policy in this process; the engine reads its tensors, or keeps a copy."""

    def __init__(self, recipe: Recipe, *, service: VerifierService) -> None:
        self._recipe = recipe
        self._service = service
        self._policy: Policy | None = None

    def open(self) -> PolicyText:
        """Loads the policy."""
        self._policy = place_policy(load_policy(self._recipe.model, seed=self._recipe.seed), self._recipe)
        return self._policy.text

    def measure_dtypes(self) -> DtypeSpeeds:
        """Measures in this process, on the policy's device."""
        assert self._policy is not None  # `run_recipe` opens first
        return measure_dtypes(self._policy.model)

    def use(self, recipe: Recipe) -> None:
        """Sets the recipe used from now on."""
        self._recipe = recipe

    @asynccontextmanager
    async def workers(self, context: RunContext) -> AsyncIterator[Workers]:
        """Context in which learner and engine work on the policy of `open`."""
        recipe, policy = self._recipe, self._policy
        assert policy is not None  # `run_recipe` opens first
        started = start_learner(
            recipe,
            policy=policy,
            transport=Transport.IN_PLACE_COPY if recipe.rollout.has_copy else Transport.SHARED,
            faults=context.faults,
            reference_folder=context.reference,
            checkpoint=context.resumed.folder if context.resumed else None,
            progress=lambda step, loss: show_cold_start(context, step, loss),
        )
        learner = started.learner
        watch_pool("verifier-0", self._service, num_workers=recipe.reward.verifier_workers)
        try:
            record_cold_start(context, started.cold_start)
            engine = build_engine(recipe, policy=policy)
            try:
                await start_engine(engine)
                yield Workers(
                    learner=learner, set_correction=learner.set_correction, engine=engine, verifier=self._service
                )
            finally:
                await engine.close()
        finally:
            learner.close()


def show_cold_start(context: RunContext, step: int, loss: float) -> None:
    """Shows the cold start's progress on the console. Raises Interrupted when the user asked to stop."""
    context.console.cold_start(step, context.recipe.cold_start.steps, loss)
    if context.stop.requested:
        raise Interrupted(f"stopped in the cold start at step {step}; nothing was saved, --resume starts over")


def record_cold_start(context: RunContext, report: SupervisedReport | None) -> None:
    """Records the event of a cold start, if there was one."""
    if report is not None:
        context.recorder.event(
            "cold_start", steps=report.steps, first_loss=report.first_loss, last_loss=report.last_loss
        )
