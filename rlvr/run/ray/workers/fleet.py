"""Many engines that act as one. Independent of Ray: members are anything that implements `MemberEngine`.

    generate x N --(this turn of the event loop)--> whole groups to the HEALTHY engine with the fewest open tokens
                 --one `generate` per member and turn--> completions, to each caller as they finish
    a lost engine: its in-flight requests are retried on others (same seed); it is restarted, and serves only after it
                   has loaded the current weights and passed the checks of `fleet_weights`

With one engine a turn's requests reach it in one call and in order of arrival, so its batches equal those of an
in-process engine.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from operator import attrgetter

from rlvr.errors import RlvrError, RolloutError
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, WeightsRef
from rlvr.run.ray.workers.fleet_member import (
    Caller,
    EngineLost,
    FleetLimits,
    Member,
    MemberState,
    OpenRequest,
    Spawn,
    end_engine,
)
from rlvr.run.ray.workers.fleet_weights import Loading, fleet_receipt
from rlvr.run.step.failures import LearnerLost

logger = logging.getLogger(__name__)
MAX_ATTEMPTS = 3
OnEvent = Callable[..., None]


class Fleet:
    """Implements RolloutEngine over members that it starts, monitors, replaces and ends."""

    def __init__(self, spawn: Spawn, *, num_engines: int, limits: FleetLimits, on_event: OnEvent) -> None:
        """Args:
        spawn: starts the engine with an id and waits until it answers; raises RolloutError on failure.
        on_event: records an event, as `Recorder.event` does.
        """
        self._spawn = spawn
        self._limits = limits
        self._event = on_event
        self._first_ids = [f"engine-{i}" for i in range(num_engines)]
        self._members: dict[str, Member] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._waiting: deque[list[OpenRequest]] = deque()
        self._fresh: list[list[OpenRequest]] = []  # requests of this turn of the loop
        self._losses: list[str] = []
        self._num_restarts = 0
        self.num_requeued = 0  # requests retried because their engine was lost
        self._num_joined = num_engines
        self._version = 0
        self._ref: WeightsRef | None = None
        self._is_closed = False
        self.is_asleep = False
        self._changed = asyncio.Event()
        self._loading = Loading(limits.sync_s, loads_after_work=limits.loads_after_work)

    async def start(self) -> None:
        """Starts all engines concurrently. Raises RolloutError if one does not start, after ending the others."""
        starts = [asyncio.create_task(self._started(name)) for name in self._first_ids]
        try:
            for member in await asyncio.gather(*starts):
                self._admit(member)
        except BaseException:  # also when cancelled: none may be left running
            for task in starts:
                task.cancel()
            for done in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(done, Member):
                    await done.engine.kill()
            raise

    @property
    def members(self) -> tuple[Member, ...]:
        """The engines that are alive."""
        return tuple(m for m in self._members.values() if m.is_alive)

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes. Raises RolloutError if no engine is left or all fail on it."""
        if self._is_closed:
            raise RolloutError("the engines are closed")
        if not requests:
            return
        caller = Caller()
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._flush)
        self._fresh.append([OpenRequest(request, caller) for request in requests])
        for _ in requests:
            item = await caller.queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    async def load_weights(self, ref: WeightsRef) -> LoadReceipt:
        """All engines load concurrently; one that misses its deadline is lost, and the others continue.

        Raises: RolloutError when none could load, with the reason for each; LearnerLost when the file is gone with it.
        """
        self._ref = ref
        await self.wake()
        targets = [m for m in self.members if m.state is not MemberState.LEAVING and not m.loading]
        await asyncio.gather(*(self._load(member, ref) for member in targets))
        purpose = f"loading the weights of version {ref.policy_version}"
        await self._until_healthy(purpose)
        self._version = ref.policy_version
        self._dispatch_waiting()
        receipts = [
            m.receipt for m in self.members if m.receipt is not None and m.receipt.policy_version == ref.policy_version
        ]
        if not receipts:
            raise RolloutError(self._none_left(purpose))
        return fleet_receipt(receipts)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Scores on the least busy engine; retries on another if it is lost."""
        while True:
            await self._until_healthy("scoring")
            member = self._least_busy()
            task = asyncio.ensure_future(member.engine.score(rows))
            member.serving.add(task)  # cancelled when the member is found to be lost
            task.add_done_callback(member.serving.discard)
            await asyncio.wait({task})
            if task.cancelled():
                continue
            try:
                return task.result()
            except EngineLost as error:
                self._lost(member, error)

    async def health(self) -> EngineHealth:
        """Health from the fleet's own state; no engine is asked, so that callers stay in the same turn of the loop."""
        ailing = [m for m in self._members.values() if m.state is not MemberState.HEALTHY]
        return EngineHealth(
            is_healthy=len(ailing) < len(self._members),
            policy_version=self._version,
            num_open_requests=sum(len(each) for each in (*(m.open for m in self._members.values()), *self._waiting)),
            detail=", ".join(f"{m.engine_id} {m.state}" for m in ailing),
        )

    def add(self) -> str:
        """Starts another engine, which serves as soon as it holds the current weights; returns its id."""
        name = f"engine-{self._num_joined}"
        self._num_joined += 1
        self._starting[name] = asyncio.create_task(self._join(name, why="joined"))
        return name

    async def remove(self, engine_id: str) -> None:
        """Sends the engine no more requests, waits until it has finished, and ends it."""
        member = self._members[engine_id]
        member.state = MemberState.LEAVING
        await asyncio.gather(*member.serving, return_exceptions=True)
        if member.state is MemberState.LEAVING:
            self._forget(member)
            await member.engine.close()
            self._event("engine_left", engine=engine_id)

    async def sleep(self) -> None:
        """Engines that support it release their memory until `wake`."""
        self.is_asleep = True
        await self._all("sleep")

    async def wake(self) -> None:
        """Undoes `sleep`."""
        if self.is_asleep:
            self.is_asleep = False
            await self._all("wake")

    async def close(self) -> None:
        """Ends every engine; open requests fail with RolloutError."""
        self._is_closed = True
        tasks = list(self._starting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        members = list(self._members.values())
        for member in members:
            self._forget(member)
        await asyncio.gather(*(end_engine(m.engine) for m in members), return_exceptions=True)
        self._fail_open("the engines were closed")

    # Requests

    def _flush(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._waiting.extend(fresh)
        self._dispatch_waiting()

    def _dispatch_waiting(self) -> None:
        """Assigns waiting requests to healthy engines: each gets its whole share in one call."""
        if not any(m.state is MemberState.HEALTHY for m in self._members.values()):
            return
        shares: dict[str, list[OpenRequest]] = {}
        while self._waiting:
            group = self._waiting.popleft()
            member = self._least_busy()
            for work in group:
                member.take(work)
            shares.setdefault(member.engine_id, []).extend(group)
        for engine_id, share in shares.items():
            member = self._members[engine_id]
            task = asyncio.create_task(self._serve(member, share), name=f"serve {engine_id}")
            member.serving.add(task)
            task.add_done_callback(member.serving.discard)

    def _least_busy(self) -> Member:
        healthy = [m for m in self._members.values() if m.state is MemberState.HEALTHY]
        return min(healthy, key=attrgetter("open_tokens"))

    async def _serve(self, member: Member, share: Sequence[OpenRequest]) -> None:
        num_left = len(share)
        try:
            async for completion in member.engine.generate([work.request for work in share]):
                member.last_sign = time.monotonic()
                work = member.give_back(completion.completion_id)
                if work is not None:
                    num_left -= 1
                    work.caller.queue.put_nowait(completion)
            if num_left:
                raise RolloutError(f"it ended with {num_left} of {len(share)} requests unanswered")
        except RlvrError as error:
            self._lost(member, error)

    def _lost(self, member: Member, error: BaseException) -> None:
        """Handles a dead engine: retries its requests on others, and restarts it while the budget lasts."""
        if not member.is_alive:
            return
        was_leaving = member.state is MemberState.LEAVING
        open_work = list(member.open.values())
        self._forget(member)
        reason = f"{member.engine_id} ({member.engine.place}): {error}"
        self._losses.append(reason)
        killing = asyncio.create_task(member.engine.kill())
        self._starting[f"end of {member.engine_id}"] = killing
        killing.add_done_callback(lambda _: self._starting.pop(f"end of {member.engine_id}", None))
        self._event(
            "engine_lost",
            engine=member.engine_id,
            place=member.engine.place,
            reason=str(error),
            requeued=len(open_work),
        )
        logger.warning("engine lost: %s; %d requests are retried", reason, len(open_work))
        if not was_leaving:
            self._restart(member.engine_id)
        self._requeue(open_work, reason=reason)

    def _requeue(self, open_work: Sequence[OpenRequest], *, reason: str) -> None:
        by_caller: dict[int, list[OpenRequest]] = {}
        for work in open_work:
            work.last_error = reason
            by_caller.setdefault(id(work.caller), []).append(work)
        for group in by_caller.values():
            spent = next((w for w in group if w.attempts >= MAX_ATTEMPTS), None)
            if spent is not None:
                group[0].caller.queue.put_nowait(
                    RolloutError(
                        f"generation failed: request {spent.request.request_id!r} was tried on {spent.attempts} "
                        f"engines, the last was {spent.last_error}"
                    )
                )
                continue
            self.num_requeued += len(group)
            self._waiting.append(group)
        self._dispatch_waiting()
        if not self._has_hope():
            self._fail_open(self._none_left("generating"))

    # Members

    async def _started(self, name: str) -> Member:
        try:
            async with asyncio.timeout(self._limits.start_s):
                engine = await self._spawn(name)
        except TimeoutError as error:
            raise RolloutError(
                f"{name} did not start within cluster.start_deadline_s={self._limits.start_s:g} s"
            ) from error
        return Member(name, engine)

    def _admit(self, member: Member) -> None:
        self._members[member.engine_id] = member
        member.watching = asyncio.create_task(self._watch(member))

    def _forget(self, member: Member) -> None:
        member.state = MemberState.DEAD
        self._members.pop(member.engine_id, None)
        for task in (*member.serving, *((member.watching,) if member.watching else ())):
            if task is not asyncio.current_task():
                task.cancel()
        for work in member.open.values():
            if self._is_closed:
                work.caller.queue.put_nowait(RolloutError("the engines were closed"))
        member.open = {}
        self._changed.set()

    def _restart(self, name: str) -> None:
        if self._num_restarts >= self._limits.max_restarts or self._is_closed:
            return
        self._num_restarts += 1
        self._starting[name] = asyncio.create_task(self._join(name, why="restarted"))

    async def _join(self, name: str, *, why: str) -> None:
        """Starts the engine and loads the current weights; on failure retries while the budget lasts."""
        try:
            while self.is_asleep:  # the learner is using its device
                await asyncio.sleep(0.2)
            member = await self._started(name)
            self._admit(member)
            while member.is_alive and self._ref is not None:
                ref = self._ref
                await self._load(member, ref)
                if ref is self._ref:
                    break
            if member.is_alive:
                self._event(f"engine_{why}", engine=name, place=member.engine.place)
        except LearnerLost as error:  # callers of the learner raise it too
            logger.warning("%s has no weights: %s", name, error)
        except RlvrError as error:
            self._losses.append(f"{name}: {error}")
            self._event("engine_not_started", engine=name, reason=str(error))
            self._restart(name)
        finally:
            if self._starting.get(name) is asyncio.current_task():
                del self._starting[name]
            self._changed.set()
            self._dispatch_waiting()
            if not self._has_hope():
                self._fail_open(self._none_left("generating"))

    async def _load(self, member: Member, ref: WeightsRef) -> None:
        """Loads `ref` and makes the member HEALTHY, or lost."""
        peers = [m.receipt for m in self.members if m is not member and m.receipt is not None]
        try:
            await self._loading.load(member, ref, peers=peers)
        except LearnerLost:
            raise
        except RlvrError as error:
            self._lost(member, error)
            return
        if member.state is MemberState.STALE and ref is self._ref:
            member.state = MemberState.HEALTHY
            self._changed.set()

    async def _watch(self, member: Member) -> None:
        """Polls the member's health while it is alive; silence means that it is lost."""
        while member.is_alive:
            await asyncio.sleep(self._limits.heartbeat_s)
            try:
                await member.ask_health(answer_s=self._limits.answer_s)
            except RlvrError as error:
                self._lost(member, error)

    async def _until_healthy(self, purpose: str) -> None:
        """Waits for a healthy engine; woken when an engine joins, loads or is lost."""
        while not any(m.state is MemberState.HEALTHY for m in self._members.values()):
            if not self._has_hope():
                raise RolloutError(self._none_left(purpose))
            self._changed.clear()
            await self._changed.wait()

    def _has_hope(self) -> bool:
        return bool(self._members) or any(not n.startswith("end of ") for n in self._starting)

    def _none_left(self, purpose: str) -> str:
        return (
            f"no engine is left for {purpose}: {self._num_restarts} restarts were made and "
            f"cluster.max_engine_restarts is {self._limits.max_restarts}. Lost: " + "; ".join(self._losses[-5:])
        )

    def _fail_open(self, message: str) -> None:
        groups = (*self._waiting, *self._fresh)
        callers = {id(work.caller): work.caller for group in groups for work in group}
        self._waiting.clear()
        self._fresh = []
        for caller in callers.values():
            caller.queue.put_nowait(RolloutError(message))

    async def _all(self, method: str) -> None:
        async def one(member: Member) -> None:
            try:
                await getattr(member.engine, method)()
            except RlvrError as error:
                self._lost(member, error)

        await asyncio.gather(*(one(m) for m in self.members if hasattr(m.engine, method)))
