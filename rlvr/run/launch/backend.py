"""What a backend is given for a run, and what it provides: the workers, wherever they live."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlvr.algorithms.corrections import Correction
from rlvr.batch import Learner
from rlvr.config.recipe import Recipe
from rlvr.models.dtype_speed import DtypeSpeeds
from rlvr.models.policy import PolicyText
from rlvr.protocols import RolloutEngine
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recorder import Recorder
from rlvr.run.record.resume import Resume
from rlvr.run.step.learner_thread import Hook
from rlvr.run.step.sampler import CompletionVerifier
from rlvr.run.step.stop import StopRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The data that a backend uses while it starts the workers.

    resumed: the checkpoint to restore; None: the recipe's policy, after its cold start.
    """

    recipe: Recipe
    directory: RunDirectory
    recorder: Recorder
    console: Console
    stop: StopRequest
    resumed: Resume | None

    @property
    def faults(self) -> Path:
        """The folder for micro-batches with a non-finite gradient."""
        return self.directory.path / "faults"

    @property
    def reference(self) -> Path:
        """The folder of the policy after a cold start, for the KL term of a resumed run."""
        return self.directory.path / "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The objects that do a run's work: in this process, or handles of actors.

    before_training: awaited before the learner trains; it sends engines on the learner's devices to sleep.
    """

    learner: Learner
    set_correction: Callable[[Correction], None]
    engine: RolloutEngine
    verifier: CompletionVerifier
    before_training: Hook | None = None


class Backend(Protocol):
    """Where the parts of a run live."""

    def open(self) -> PolicyText:
        """Loads the policy and returns facts about it; called again after a LearnerLost."""
        ...

    def measure_dtypes(self) -> DtypeSpeeds:
        """Measures which dtype is faster on the learner's device; call after `open`."""
        ...

    def use(self, recipe: Recipe) -> None:
        """Sets the recipe used from now on, which differs from the previous one in its dtypes."""
        ...

    def workers(self, context: RunContext) -> AbstractAsyncContextManager[Workers]:
        """Context with running learner (cold start done, or restored), engine and verifiers. May raise LearnerLost."""
        ...
