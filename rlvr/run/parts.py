"""What a run is made of: handles that fulfil Protocols, so that a laptop and a cluster look the same to the loop."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlvr.batch import Batch, Learner
from rlvr.protocols import RolloutEngine
from rlvr.records import Group, Prompt
from rlvr.run.buffer import GroupBuffer
from rlvr.run.evaluation import Evaluation
from rlvr.run.recorder import Recorder
from rlvr.run.sampler import SamplingPlan, SingleTurnSampler
from rlvr.run.stop import StopRequest


class PromptSource(Protocol):
    """The training prompts in their order, resumable at any of them."""

    def take(self) -> tuple[int, Prompt]:
        """The next issue index and its prompt."""
        ...

    def state(self) -> dict[str, Any]:
        """The position, JSON-able."""
        ...


@dataclass(slots=True, kw_only=True)
class RunParts:
    """What a run is made of. `first_step` is 1, or one past the checkpoint that was resumed."""

    first_step: int
    num_steps: int
    stream: PromptSource
    sampler: SingleTurnSampler
    plan: SamplingPlan
    engine: RolloutEngine
    learner: Learner
    buffer: GroupBuffer
    advantage: Callable[[Sequence[float | None]], list[float | None]]
    collate: Callable[[Sequence[Group], Mapping[str, float]], Batch]
    evaluate: Callable[[int, int], Awaitable[list[Evaluation]]]
    is_eval_due: Callable[[int], bool]
    is_checkpoint_due: Callable[[int], bool]
    recorder: Recorder
    stop: StopRequest
    max_error_rate: float
    learner_thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="rlvr-learner")
    )
