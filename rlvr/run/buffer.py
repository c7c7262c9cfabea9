"""Between producer and learner: admits prompts, collects groups, hands over one step's worth.

    producer --admit()--> [at most prompts_per_step * (1 + max_staleness) ahead] --put()--> take() learner

The producer waits in `admit` and is woken by `advance`; the learner waits in `take` and is woken by `put` or `fail`.
The bound is on admitted prompts, so nothing is ever dropped for lack of room.
"""

import asyncio
from dataclasses import dataclass

from rlvr.records import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step's groups: kept ones sorted by group id, and (group, reason) of those that were dropped."""

    kept: list[Group]
    dropped: list[tuple[Group, str]]

    @property
    def groups(self) -> list[Group]:
        """All of them, sorted by group id: what reward metrics are computed over."""
        return sorted(
            [*self.kept, *(group for group, _ in self.dropped)], key=lambda group: group.group_id
        )


class GroupBuffer:
    """A bounded buffer of groups. One producer, one learner, one event loop."""

    def __init__(self, *, prompts_per_step: int, min_judged: int, max_staleness: int = 0) -> None:
        """Args: min_judged: a group with fewer judged rollouts is dropped (its advantage is undefined)."""
        self._prompts_per_step = prompts_per_step
        self._min_judged = min_judged
        self._tickets = asyncio.Semaphore(prompts_per_step * (1 + max_staleness))
        self._ready: list[Group] = []
        self._arrived = asyncio.Event()
        self._error: BaseException | None = None

    async def admit(self) -> None:
        """Waits until the learner is close enough behind; does not yield when there is room at once."""
        await self._tickets.acquire()

    def put(self, group: Group) -> None:
        """Adds a finished group."""
        self._ready.append(group)
        self._arrived.set()

    def fail(self, error: BaseException) -> None:
        """Makes `take` raise: the producer cannot go on."""
        self._error = error
        self._arrived.set()

    async def take(self) -> Taken:
        """Waits for one step's groups (the oldest by id). Raises what the producer failed with."""
        while len(self._ready) < self._prompts_per_step:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        self._ready.sort(key=lambda group: group.group_id)
        step, self._ready = (
            self._ready[: self._prompts_per_step],
            self._ready[self._prompts_per_step :],
        )
        kept = [group for group in step if group.num_judged >= self._min_judged]
        few = f"fewer than {self._min_judged} judged rollouts"
        dropped = [(group, few) for group in step if group.num_judged < self._min_judged]
        return Taken(kept=kept, dropped=dropped)

    def advance(self) -> None:
        """The engines serve the next version: as many prompts may be admitted as a step takes."""
        for _ in range(self._prompts_per_step):
            self._tickets.release()
