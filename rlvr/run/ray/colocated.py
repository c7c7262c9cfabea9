"""Learner and engines on the same devices take turns: engines sleep while the learner works.

annotate, accumulate, step, apply: engines asleep            load_weights: the fleet wakes them first
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvr.algorithms.corrections import Correction
from rlvr.batch import Batch, Denominators, Learner, StepReport
from rlvr.records import WeightsRef
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.ray.workers.learner_handle import LearnerHandle


class TurnTaker:
    """A ProvableLearner that sends the engines to sleep before it works. Call it from a thread, never from `loop`."""

    def __init__(self, learner: LearnerHandle, fleet: EngineFleet, *, loop: asyncio.AbstractEventLoop) -> None:
        self._learner = learner
        self._fleet = fleet
        self._loop = loop

    def annotate(self, batch: Batch) -> Batch:
        """The batch with the proximal and reference log-probs that the algorithm needs; the engines sleep meanwhile."""
        return self._turn().annotate(batch)

    def accumulate(self, batch: Batch) -> None:
        """Adds the un-normalised gradient of these rows; the engines sleep meanwhile."""
        self._turn().accumulate(batch)

    def apply(self, denominators: Denominators) -> StepReport:
        """Applies the accumulated gradient, divided by the denominators; the engines sleep meanwhile."""
        return self._turn().apply(denominators)

    def step(self, batch: Batch) -> StepReport:
        """Trains on all minibatches of one step; the engines sleep meanwhile."""
        return self._turn().step(batch)

    def publish(self) -> WeightsRef:
        """A reference by which engines load the current weights."""
        return self._learner.publish()

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The engines stay awake, because they score the same rows."""
        return self._learner.score(rows)

    def tensor_groups(self, *, most: int) -> Mapping[str, tuple[str, ...]]:
        """The trained tensors in about `most` groups."""
        return self._learner.tensor_groups(most=most)

    def perturb(self, names: Sequence[str], *, scale: float) -> None:
        """Adds noise to these tensors; `publish` then gives a trial."""
        self._learner.perturb(names, scale=scale)

    def unperturb(self) -> None:
        """Restores the weights from before `perturb`, bit for bit."""
        self._learner.unperturb()

    def save(self, folder: Path) -> None:
        """Writes the policy and the optimiser state to `folder`."""
        self._learner.save(folder)

    def restore(self, folder: Path) -> None:
        """Reads what `save` wrote."""
        self._learner.restore(folder)

    def set_correction(self, correction: Correction) -> None:
        """Sets the loss's correction from the next rows on."""
        self._learner.set_correction(correction)

    def _turn(self) -> Learner:
        if not self._fleet.is_asleep:
            asyncio.run_coroutine_threadsafe(self._fleet.sleep(), self._loop).result()
        return self._learner
