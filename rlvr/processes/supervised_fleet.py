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
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rlvr.errors import RlvrError
from rlvr.processes.fleet_kind import FleetKind
from rlvr.processes.least_busy import LeastBusy
from rlvr.processes.leaving import DrainedNodes, Endings
from rlvr.processes.members import Member, MemberState, MemberT, Supervision, Work, watch
from rlvr.processes.restarts import Restarts

logger = logging.getLogger(__name__)
CLOSE_S = 10.0
OnEvent = Callable[..., None]


class SupervisedFleet(FleetKind[MemberT]):
    """Starts members, gives them work, monitors, replaces and ends them."""

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
        self._endings = Endings()
        self._drained = DrainedNodes()
        self._waiting: deque[list[Work]] = deque()
        self._fresh: list[list[Work]] = []  # work of this turn of the loop
        self._losses: list[str] = []
        self._restarts = Restarts(supervision.max_restarts)
        self.num_requeued = 0  # items retried because their member was lost
        self._is_closed = False
        self._changed = asyncio.Event()

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

        A member that is still starting there leaves as soon as it has started.

        Args: within_s: after this time their open work is retried on others; None: they finish it.
        """
        self._drained.add(node, within_s=within_s)
        for member in self.members:
            if member.remote.node == node and member.state is not MemberState.LEAVING:
                self.move(member, within_s=within_s)

    def move(self, member: MemberT, *, within_s: float | None = None) -> None:
        """Has a member leave its node, as `drain` does for all."""
        member.state = MemberState.LEAVING
        self._begin(member.name, why="returned", first=partial(self._leave, member, within_s))

    def forgive(self, node: str) -> None:
        """Stops counting the restarts of members that were lost together with this node."""
        for name in self._restarts.forgive(node):
            self._begin(name, why="restarted")

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
        for member in members:
            self._endings.begin(self.end(member))
        await self._endings.wait()
        self._fail_open(self.error(f"the {self.noun}s were closed"))

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
        except Exception as caught:  # noqa: BLE001 - nobody awaits this task, and whoever waits for answers must hear
            error = self._meaning(caught)
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
        self._endings.begin(member.remote.kill())
        fields = {self.kind: member.name, "place": member.remote.place, "reason": str(error)}
        self._event(f"{self.kind}_lost", **fields, requeued=len(open_work))
        logger.warning("%s lost: %s; %d items are retried", self.noun, reason, len(open_work))
        if not was_leaving:
            self._restart(member.name, node=member.remote.node, had_answered=member.has_answered)
        self._requeue(open_work, reason=reason)

    def _meaning(self, error: Exception) -> RlvrError:
        """The error to report. One that is not an RlvrError is a fault of the program: the log has its traceback."""
        if isinstance(error, RlvrError):
            return error
        logger.warning("an unexpected error in the %s fleet", self.kind, exc_info=error)
        return self.error(f"{type(error).__name__}: {error}")

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
            member, ask=self.ask_health, limits=self._supervision, lost=self.lost, lose=self._lost, first_s=first_s
        )
        member.watching = asyncio.create_task(watching)
        if (node := member.remote.node) in self._drained:  # it was drained while the member started
            self.move(member, within_s=self._drained.remaining_s(node))

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

    async def _leave(self, member: MemberT, within_s: float | None) -> None:
        """Lets a LEAVING member finish, ends it, and frees its place."""
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
            await asyncio.wait({self._endings.begin(self.end(member))})
        self.vacate(member.name)

    def _begin(self, name: str, *, why: str, first: Callable[[], Awaitable[None]] | None = None) -> None:
        """Starts a member in the background. Args: first: awaited before."""
        if not self._is_closed:
            self._starting[name] = asyncio.create_task(self._join(name, why=why, first=first))

    async def _join(self, name: str, *, why: str, first: Callable[[], Awaitable[None]] | None) -> None:
        """Starts and prepares a member; on failure retries while the budget lasts."""
        member: MemberT | None = None
        try:
            if first is not None:
                await first()
            await self._until_placed(name)
            await self.may_start()
            member = await self._started(name)
            self._admit(member, first_s=self._supervision.heartbeat_s)
            if member.state is not MemberState.LEAVING and await self.prepare(member) and member.is_alive:
                fields = {self.kind: name, "place": member.remote.place}
                self._event(f"{self.kind}_{why}", **fields, **self.facts(member))
                self.settle()
        except Exception as caught:  # noqa: BLE001 - nobody awaits this task: the member would be gone without a word
            error = self._meaning(caught)
            if member is not None:
                self._lost(member, error)
            else:
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
