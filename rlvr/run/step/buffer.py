"""Between producer and learner: admits prompts, collects groups, and hands over one step's groups in issue order.

    producer --admit()--> [at most prompts_per_step * (1 + max_staleness) in flight] --put()--> take() learner

The producer waits in `admit` and is woken by `advance`, or by `take` when it wants replacements; the learner waits in
`take` and is woken by `put`, `fail` or `close`. The bound is on admitted prompts, so nothing is ever dropped for lack
of room.

Groups are consumed in issue order, never in order of arrival, and prompts are admitted only by the learner's side: at
`advance`, and in `take` when nothing is in flight. So timing affects neither which prompts are issued at which version
nor which share a batch in the engine.

With staleness k the first admission is (1 + k) steps' worth; after that each `advance` replaces what one step
consumed. A group waits for at most k earlier steps, so its staleness is at most k, and k in the steady state.

A dropped group is replaced by the next one in flight, and that one at the next `advance`; only when nothing is in
flight are replacements admitted within the step, all missing ones at once. A step takes at most
`prompts_per_step + max_refills` groups, then continues with those it has.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from rlvr.records import Group
from rlvr.run.step.shaping import DropReason, GroupFilter, Screened


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step's groups in issue order: the kept ones, and (group, reason) of the dropped ones.

    num_wanted: the number that the step asked for. More groups mean replacements, fewer kept ones a smaller step.
    """

    kept: list[Group]
    dropped: list[tuple[Group, DropReason]]
    num_wanted: int

    @classmethod
    def of(cls, items: Iterable[tuple[Group, DropReason | None]], *, num_wanted: int) -> "Taken":
        """Built from groups, each with the reason it was dropped or None."""
        items = list(items)
        kept = [group for group, reason in items if reason is None]
        dropped = [(group, reason) for group, reason in items if reason is not None]
        return cls(kept=kept, dropped=dropped, num_wanted=num_wanted)

    @property
    def groups(self) -> list[Group]:
        """All groups sorted by group id; reward metrics are computed over them."""
        return sorted([*self.kept, *(group for group, _ in self.dropped)], key=lambda group: group.group_id)

    @property
    def num_refilled(self) -> int:
        """The number of groups that replaced dropped ones."""
        return max(0, len(self.kept) + len(self.dropped) - self.num_wanted)


class GroupBuffer:
    """A bounded buffer of groups. One producer, one learner, one event loop."""

    def __init__(
        self, *, prompts_per_step: int, screen: GroupFilter, max_refills: int = 0, max_staleness: int = 0
    ) -> None:
        """Args: max_refills: the most groups of one step that may replace dropped ones."""
        self.prompts_per_step = prompts_per_step
        self._screen = screen
        self.max_groups = prompts_per_step + max_refills
        self.max_staleness = max_staleness
        self._tickets = 0
        self._expected: deque[str] = deque()
        self._ready: dict[str, Group] = {}
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._is_closed = False
        self.advance()

    @property
    def num_in_flight(self) -> int:
        """Number of admitted prompts whose groups were not consumed yet."""
        return self._tickets + len(self._expected)

    async def admit(self) -> None:
        """Waits until there is room for another prompt; does not yield if there is room already."""
        while not self._tickets:
            self._room.clear()
            await self._room.wait()
        self._tickets -= 1

    def expect(self, group_id: str) -> None:
        """Registers the group id of the admitted prompt; called in issue order."""
        self._expected.append(group_id)

    def put(self, group: Group) -> None:
        """Adds a finished group."""
        self._ready[group.group_id] = group
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Makes `take` raise, because the producer failed."""
        self._error = error
        self._changed.set()

    def close(self) -> None:
        """Signals that the prompts ran out: `take` returns what is in flight, then nothing."""
        self._is_closed = True
        self._tickets = 0
        self._changed.set()

    async def take(self) -> Taken:
        """Waits for one step's groups. Raises the producer's error."""
        items = [(item.group, item.reason) async for item in self.stream()]
        return Taken.of(items, num_wanted=self.prompts_per_step)

    async def stream(self) -> AsyncIterator[Screened]:
        """One step's groups as they finish, in issue order, each with the reason to drop it or None.

        Raises: the producer's error.
        """
        num_kept = num_seen = 0
        while num_kept < self.prompts_per_step and num_seen < self.max_groups:
            if not self.num_in_flight:
                lacking = self.prompts_per_step - num_kept
                self._admit_more(min(lacking, self.max_groups - num_seen))
            group = await self._next()
            if group is None:
                return
            screened = self._screen(group)
            num_seen += 1
            num_kept += screened.reason is None
            yield screened

    def advance(self) -> None:
        """Call when the engine serves the next version: admits up to (1 + max_staleness) steps' worth in flight."""
        self._admit_more(self.prompts_per_step * (1 + self.max_staleness) - self.num_in_flight)

    def set_max_staleness(self, max_staleness: int) -> None:
        """Sets the bound from the next `advance` on; groups in flight beyond it are still consumed."""
        self.max_staleness = max_staleness

    def _admit_more(self, count: int) -> None:
        if not self._is_closed and count > 0:
            self._tickets += count
            self._room.set()

    async def _next(self) -> Group | None:
        """The oldest group in flight once it is finished; None when there are no more."""
        while True:
            if self._error is not None:
                raise self._error
            if self._expected and self._expected[0] in self._ready:
                return self._ready.pop(self._expected.popleft())
            if self._is_closed and not self._expected:
                return None
            self._changed.clear()
            await self._changed.wait()
