"""The parts of a run: handles that implement Protocols, so that the loop is the same locally and on a cluster."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.algorithms.corrections import Correction
from rlvr.batch import Learner
from rlvr.data.order import Issue
from rlvr.protocols import RolloutEngine
from rlvr.run.monitor.alarms import AlarmWatch
from rlvr.run.monitor.governor import Governor
from rlvr.run.record.recorder import Recorder
from rlvr.run.step.buffer import GroupBuffer
from rlvr.run.step.difficulty import SolveRates
from rlvr.run.step.evaluation import Evaluation
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.step.sampler import SamplingPlan, SingleTurnSampler
from rlvr.run.step.stop import StopRequest
from rlvr.run.step.update import Updater
from rlvr.run.weights.proof import WeightProof


class PromptSource(Protocol):
    """The training prompts in order; can resume at any of them."""

    @property
    def num_passed(self) -> int:
        """Number of draws skipped so far because of their solve rate."""
        ...

    @property
    def num_issued(self) -> int:
        """The issue index of the next prompt to be handed out."""
        ...

    def take(self) -> Issue:
        """The next prompt and its issue index. Raises PoolExhausted when all prompts are retired."""
        ...

    def is_exhausted(self) -> bool:
        """Whether `take` would raise PoolExhausted."""
        ...

    def settle(self, index: int) -> None:
        """Marks the prompt of this issue as trained or dropped."""
        ...

    def state(self) -> dict[str, Any]:
        """The position and the unsettled issues, JSON-able."""
        ...


class Evaluator(Protocol):
    """Evaluates the weights that the engine serves, on all prompts or on the subset for intermediate evaluations."""

    def __call__(self, step: int, policy_version: int, *, in_full: bool) -> Awaitable[list[Evaluation]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The steps of a run, and after which of them it evaluates and saves.

    first_step: 1, or one past the checkpoint that was resumed. eval_every_steps, checkpoint_every_steps: 0 is never.
    """

    first_step: int
    num_steps: int
    eval_every_steps: int
    checkpoint_every_steps: int

    def is_eval_due(self, step: int) -> bool:
        """Whether to evaluate after this step."""
        return bool(self.eval_every_steps and step % self.eval_every_steps == 0)

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether to save a checkpoint after this step."""
        return bool(self.checkpoint_every_steps and step % self.checkpoint_every_steps == 0)


@dataclass(slots=True, kw_only=True)
class RunParts:
    """The parts of a run.

    proof: None where no weights travel.
    solve_rates: None when the recipe does not use data.difficulty.
    """

    schedule: Schedule
    stream: PromptSource
    sampler: SingleTurnSampler
    plan: SamplingPlan
    engine: RolloutEngine
    learner: Learner
    thread: LearnerThread
    proof: WeightProof | None
    buffer: GroupBuffer
    updater: Updater
    governor: Governor
    alarms: AlarmWatch
    set_correction: Callable[[Correction], None]
    solve_rates: SolveRates | None
    evaluate: Evaluator
    recorder: Recorder
    stop: StopRequest
    max_error_rate: float

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint keeps in addition to the learner's, JSON-able."""
        return {
            "stream": self.stream.state(),
            "governor": self.governor.state(),
            "alarms": self.alarms.state(),
            "solve_rates": None if self.solve_rates is None else self.solve_rates.state(),
        }
