"""vLLM's scheduler with one more rule: a scored row gets its own step.

The bits of a log-prob depend on the shape of the batch. A row that is scored alone always has the same shape, so equal
weights give equal bits, whatever else the engine does; requests in flight wait during those steps. They keep their
places in `running`, and vLLM admits the scored row without counting them: `running` may hold one request more than
`max_num_active_seqs`, and the runner needs as many slots (`settings.slot_arguments`). Imported only by vLLM's core
process.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from rlvr.rollout.vllm.mapping import SCORE_PREFIX


def is_scored(request: Request) -> bool:
    """Whether the request asks for teacher-forced log-probs."""
    return request.request_id.startswith(SCORE_PREFIX)


class AloneScheduler(Scheduler):
    """Runs one scored row at a time, before all others; if it does not fit in memory, the others get the next step."""

    _others_first = False

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """The next step's batch: one scored row, or everything else."""
        return schedule_alone(self, super().schedule, *args, **kwargs)


class AloneAsyncScheduler(AsyncScheduler):
    """The same rule over vLLM's asynchronous scheduler."""

    _others_first = False

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """The next step's batch: one scored row, or everything else."""
        return schedule_alone(self, super().schedule, *args, **kwargs)


def schedule_alone(
    scheduler: AloneScheduler | AloneAsyncScheduler, schedule: Callable[..., SchedulerOutput], *args: Any, **kwargs: Any
) -> SchedulerOutput:
    """Calls `schedule` with all requests but the chosen ones set aside, and puts them back."""
    scored = [r for r in chain(scheduler.running, scheduler.waiting) if is_scored(r)]
    if not scored or scheduler.pause_state != PauseState.UNPAUSED:
        return schedule(*args, **kwargs)
    aside = set(scored) if scheduler._others_first else None

    def is_kept(request: Request) -> bool:
        return request is scored[0] if aside is None else request not in aside

    held_running = [r for r in scheduler.running if not is_kept(r)]
    held_waiting = [r for r in scheduler.waiting if not is_kept(r)]
    scheduler.running = [r for r in scheduler.running if is_kept(r)]
    scheduler.waiting.remove_requests(held_waiting)
    try:
        output = schedule(*args, **kwargs)
    finally:
        scheduler.running = held_running + scheduler.running
        left = list(scheduler.waiting)
        scheduler.waiting.remove_requests(left)
        for request in (*left, *held_waiting):
            scheduler.waiting.add_request(request)
    scheduler._others_first = aside is None and output.total_num_scheduled_tokens == 0
    return output
