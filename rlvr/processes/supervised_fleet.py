"""Remote processes that act as one: work goes to the least busy, a lost member's work to the others.

    submit x N --(this turn of the event loop)--> whole groups to the HEALTHY member with the least open work
               --one `serve` per member and turn--> answers, to each waiter as they arrive
    a lost member: its open work is retried on others; it is restarted while the budget lasts, as soon as there is a
                   `place` for it, and serves again once `prepare` has made it HEALTHY
    a drained node: its members get no more work, end when theirs is done or the time is over (what is still open is
                   retried on others), and start again where there is a place

It knows neither Ray nor what the members do: engines and verifiers derive from it. Members are anything that implements
`Remote`. Everything here runs in one event loop.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Generic

from rlvr.errors import RlvrError
from rlvr.processes.least_busy import LeastBusy
from rlvr.processes.members import Member, MemberState, MemberT, Supervision, Work, watch
from rlvr.processes.restarts import Restarts

logger = logging.getLogger(__name__)
CLOSE_S = 10.0
OnEvent = Callable[..., None]


class SupervisedFleet(ABC, Generic[MemberT]):
    """Starts members, gives them work, monitors, replaces and ends them.

    A kind of fleet says what its members are called in events (`kind`) and in messages (`noun`), what they are for
    (`purpose`), which errors its callers expect, and on how many members work is tried (`max_attempts`).
    """

    kind: ClassVar[str]
    noun: ClassVar[str]
    purpose: ClassVar[str]
    error: ClassVar[type[RlvrError]]
    lost: ClassVar[type[RlvrError]]
    max_attempts: ClassVar[int]

    def __init__(
        self, *, names: Sequence[str], supervision: Supervision, on_event: OnEvent, absent: Sequence[str] = ()
    ) -> None:
        """Args:
        absent: members for which there is no place yet; they join as soon as there is.
        on_event: records an event, as `Recorder.event` does.
        """
        self._supervision = supervision
        self._event = on_event
        self._first_names = list(names)
        self._absent_names = list(absent)
        self._members: dict[str, MemberT] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._placeless: set[str] = set()  # of those starting: no place was found within the deadline of a start
        self._ending: set[asyncio.Task[None]] = set()
        self._waiting: deque[list[Work]] = deque()
        self._fresh: list[list[Work]] = []  # work of this turn of the loop
        self._losses: list[str] = []
        self._restarts = Restarts(supervision.max_restarts)
        self.num_requeued = 0  # items retried because their member was lost
        self._is_closed = False
        self._changed = asyncio.Event()

    @abstractmethod
    async def spawn(self, name: str) -> MemberT:
        """Starts a member and waits until it answers. Raises RlvrError."""

    @abstractmethod
    def serve(self, member: MemberT, share: Sequence[Work]) -> AsyncIterator[tuple[Hashable, Any]]:
        """Has the member work: yields key and answer of each item. Raises RlvrError."""

    @abstractmethod
    async def ask_health(self, member: MemberT) -> None:
        """Returns when the member says that it is well. Raises RlvrError."""

    async def prepare(self, member: MemberT) -> bool:
        """Makes a restarted member HEALTHY, or lost; returns whether it may join."""
        member.state = MemberState.HEALTHY
        return True

    async def place(self, name: str) -> None:
        """Returns when there are resources for the member. Waits as long as it takes; raises RlvrError."""

    def vacate(self, name: str) -> None:
        """Called when a member has left a node that is drained: frees its place."""

    def facts(self, member: MemberT) -> dict[str, Any]:
        """What the event of a member that joins says further."""
        return {}

    async def may_start(self) -> None:
        """Returns when a member may be restarted."""

    def is_loss(self, error: RlvrError) -> bool:
        """Whether an error of `serve` means that the member is lost; otherwise it is the answer to its share."""
        return True

    @abstractmethod
    def spent(self, work: Work) -> RlvrError:
        """The error for work that was tried on `max_attempts` members."""

    @property
    def members(self) -> tuple[MemberT, ...]:
        """The members that are alive."""
        return tuple(m for m in self._members.values() if m.is_alive)

    @property
    def places(self) -> list[str]:
        """The node and process of each member."""
        return [member.remote.place for member in self._members.values()]

    async def start(self, *, one_by_one: bool = False) -> None:
        """Starts all members. Raises the error of the first that does not start; the others are ended.

        Args: one_by_one: not concurrently, for members that measure the free memory of a device that they share.
        """
        starts: list[asyncio.Task[MemberT]] = []
        try:
            for name in self._first_names:
                starts.append(asyncio.create_task(self._started(name)))
                if one_by_one:
                    await starts[-1]
            started = await asyncio.gather(*starts)
            if self._is_closed:
                raise self.error(f"the {self.noun}s were closed while they started")
        except BaseException:  # also when cancelled: none may be left running
            for task in starts:
                task.cancel()
            for done in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(done, Member):
                    await done.remote.kill()
            raise
        heartbeat_s = self._supervision.heartbeat_s
        for number, member in enumerate(started, 1):  # spread over a heartbeat: not all are asked in the same turn
            self._admit(member, first_s=heartbeat_s * number / len(started))
        for name in self._absent_names:
            self._begin(name, why="joined")

    def submit(self, group: Sequence[Work]) -> None:
        """Has a group of items done by one member, together with others of this turn of the loop.

        Raises: `error` when the fleet is closed.
        """
        if self._is_closed:
            raise self.error(f"the {self.noun}s are closed")
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._flush)
        self._fresh.append(list(group))

    def drain(self, node: str, *, within_s: float | None = None) -> None:
        """Has the members on this node leave it and start elsewhere, which counts as no restart.

        Args: within_s: after this time their open work is retried on others; None: they finish it.
        """
        for member in self.members:
            if member.remote.node == node and member.state is not MemberState.LEAVING:
                self.move(member, within_s=within_s)

    def move(self, member: MemberT, *, within_s: float | None = None) -> None:
        """Has a member leave its node, as `drain` does for all."""
        member.state = MemberState.LEAVING
        self._starting[member.name] = asyncio.create_task(self._moved(member, within_s))

    def forgive(self, node: str) -> None:
        """Stops counting the restarts of members that were lost together with this node."""
        for name in self._restarts.forgive(node):
            self._begin(name, why="restarted")

    def settle(self) -> None:
        """Called when a node can be used from now on, and when a member has joined, as a node may come meanwhile."""

    async def close(self) -> None:
        """Ends every member; open work fails."""
        self._is_closed = True
        tasks = list(self._starting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        members = list(self._members.values())
        for member in members:
            self._forget(member)
        await asyncio.gather(*(self.end(member) for member in members), *self._ending, return_exceptions=True)
        self._fail_open(self.error(f"the {self.noun}s were closed"))

    async def end(self, member: MemberT) -> None:
        """Ends a member that nobody uses any more."""
        await member.remote.kill()

    # Work

    def _flush(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._waiting.extend(fresh)
        self._dispatch()

    def _dispatch(self) -> None:
        """Assigns waiting work to healthy members: each gets its whole share in one call."""
        healthy = self._healthy()
        if not healthy and not self._has_hope() and not self._is_closed:
            self._fail_open(self._none_left(self.purpose))
        if not healthy or not self._waiting:
            return
        members = LeastBusy(healthy)
        shares: dict[str, list[Work]] = {}
        while self._waiting:
            group = self._waiting.popleft()
            shares.setdefault(members.assign(group).name, []).extend(group)
        for name, share in shares.items():
            self._run(self._members[name], self._serve(self._members[name], share))

    def _run(self, member: MemberT, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Runs work of a member, which is cancelled when the member is found to be lost."""
        task = asyncio.create_task(work, name=f"{self.kind} {member.name}")
        member.serving.add(task)
        task.add_done_callback(member.serving.discard)
        return task

    def _healthy(self) -> list[MemberT]:
        return [m for m in self._members.values() if m.state is MemberState.HEALTHY]

    async def _serve(self, member: MemberT, share: Sequence[Work]) -> None:
        num_left = len(share)
        try:
            async for key, answer in self.serve(member, share):
                member.last_sign = time.monotonic()
                member.has_answered = True
                work = member.give_back(key)
                if work is not None:
                    num_left -= 1
                    work.waiter.answer(answer)
            if num_left:
                raise self.lost(f"it ended with {num_left} of {len(share)} items unanswered")
        except RlvrError as error:
            if self.is_loss(error):
                self._lost(member, error)
                return
            for work in share:
                if member.give_back(work.key) is not None:
                    work.waiter.fail(error)

    def _lost(self, member: MemberT, error: BaseException) -> None:
        """Handles a dead member: retries its work on others, and restarts it while the budget lasts."""
        if not member.is_alive:
            return
        was_leaving = member.state is MemberState.LEAVING
        open_work = list(member.open.values())
        self._forget(member)
        reason = f"{member.name} ({member.remote.place}): {error}"
        self._losses.append(reason)
        self._end_later(member.remote.kill())
        fields = {self.kind: member.name, "place": member.remote.place, "reason": str(error)}
        self._event(f"{self.kind}_lost", **fields, requeued=len(open_work))
        logger.warning("%s lost: %s; %d items are retried", self.noun, reason, len(open_work))
        if not was_leaving:
            self._restart(member.name, node=member.remote.node, had_answered=member.has_answered)
        self._requeue(open_work, reason=reason)

    def _end_later(self, ending: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Ends a member meanwhile; `close` waits for it."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def _requeue(self, open_work: Sequence[Work], *, reason: str) -> None:
        by_waiter: dict[int, list[Work]] = {}
        for work in open_work:
            work.last_error = reason
            by_waiter.setdefault(id(work.waiter), []).append(work)
        for group in by_waiter.values():
            spent = next((work for work in group if work.attempts >= self.max_attempts), None)
            if spent is not None:
                spent.waiter.fail(self.spent(spent))
                continue
            self.num_requeued += len(group)
            self._waiting.append(group)
        self._dispatch()

    def _fail_open(self, error: RlvrError) -> None:
        waiters = {id(work.waiter): work.waiter for group in (*self._waiting, *self._fresh) for work in group}
        self._waiting.clear()
        self._fresh = []
        for waiter in waiters.values():
            waiter.fail(error)

    # Members

    async def _started(self, name: str) -> MemberT:
        try:
            async with asyncio.timeout(self._supervision.start_s):
                return await self.spawn(name)
        except TimeoutError as error:
            limit_s = self._supervision.start_s
            raise self.error(f"{name} did not start within cluster.start_deadline_s={limit_s:g} s") from error

    def _admit(self, member: MemberT, *, first_s: float) -> None:
        """Args: first_s: seconds until its health is first asked for."""
        self._members[member.name] = member
        watching = watch(
            member, ask=self.ask_health, limits=self._supervision, silent=self.lost, lose=self._lost, first_s=first_s
        )
        member.watching = asyncio.create_task(watching)

    def _forget(self, member: MemberT) -> None:
        member.state = MemberState.DEAD
        self._members.pop(member.name, None)
        for task in (*member.serving, *((member.watching,) if member.watching else ())):
            if task is not asyncio.current_task():
                task.cancel()
        if self._is_closed:
            for work in member.open.values():
                work.waiter.fail(self.error(f"the {self.noun}s were closed"))
        member.open = {}
        self._changed.set()

    def _restart(self, name: str, *, node: str = "", had_answered: bool = False) -> None:
        if not self._is_closed and self._restarts.take(name, node=node, had_answered=had_answered):
            self._begin(name, why="restarted")

    async def _moved(self, member: MemberT, within_s: float | None) -> None:
        """Lets a LEAVING member finish, ends it, and starts it again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.wait(member.serving) if member.serving else None
        if member.is_alive:
            open_work = list(member.open.values())
            self._forget(member)
            for work in open_work:
                work.attempts -= 1  # through no fault of its own
            fields = {self.kind: member.name, "place": member.remote.place}
            self._event(f"{self.kind}_left", **fields, requeued=len(open_work))
            self._requeue(open_work, reason=f"{member.name} left its node, which is drained")
            await asyncio.shield(self._end_later(self.end(member)))
        self.vacate(member.name)
        await self._join(member.name, why="returned")

    def _begin(self, name: str, *, why: str) -> None:
        self._starting[name] = asyncio.create_task(self._join(name, why=why))

    async def _join(self, name: str, *, why: str) -> None:
        """Starts and prepares a member; on failure retries while the budget lasts."""
        try:
            await self._until_placed(name)
            await self.may_start()
            member = await self._started(name)
            self._admit(member, first_s=self._supervision.heartbeat_s)
            if await self.prepare(member) and member.is_alive:
                fields = {self.kind: name, "place": member.remote.place}
                self._event(f"{self.kind}_{why}", **fields, **self.facts(member))
                self.settle()
        except RlvrError as error:
            self._losses.append(f"{name}: {error}")
            self._event(f"{self.kind}_not_started", **{self.kind: name, "reason": str(error)})
            self._restart(name)
        finally:
            if self._starting.get(name) is asyncio.current_task():
                del self._starting[name]
            self._changed.set()
            self._dispatch()

    async def _until_placed(self, name: str) -> None:
        """Waits for a place. After the deadline of a start nobody waits for this member any longer, except this task:
        when its node is back days later, it joins."""
        placing = asyncio.create_task(self.place(name))
        try:
            if not (await asyncio.wait({placing}, timeout=self._supervision.heartbeat_s))[0]:
                self._event(f"{self.kind}_waits_for_resources", **{self.kind: name})
                logger.warning("%s waits until the cluster has resources for it", name)
                await asyncio.wait({placing}, timeout=self._supervision.start_s)
            if not placing.done():
                self._placeless.add(name)
                self._changed.set()
                self._dispatch()
            await placing
        finally:
            placing.cancel()
            self._placeless.discard(name)

    async def _until_healthy(self, purpose: str) -> None:
        """Waits for a healthy member; woken when one joins, loads or is lost."""
        while not self._healthy():
            if not self._has_hope():
                raise self._none_left(purpose)
            self._changed.clear()
            await self._changed.wait()

    def _has_hope(self) -> bool:
        return bool(self._members) or bool(self._starting.keys() - self._placeless)

    def _none_left(self, purpose: str) -> RlvrError:
        return self.error(
            f"no {self.noun} is left for {purpose}: {self._restarts.num_made} restarts were made and "
            f"cluster.max_engine_restarts is {self._restarts.most}. Lost: " + "; ".join(self._losses[-5:])
        )
