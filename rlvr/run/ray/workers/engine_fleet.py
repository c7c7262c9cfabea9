"""Many engines that act as one: a supervised fleet whose members also hold weights.

A restarted engine serves only after it has loaded the current weights and passed the checks of `fleet_weights`. With
one engine a turn's requests reach it in one call and in order of arrival, so its batches equal those of an in-process
engine. Independent of Ray: members are anything that implements `MemberEngine`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import RlvrError, RolloutError, TransferError
from rlvr.processes.members import MemberState, Work
from rlvr.processes.supervised_fleet import CLOSE_S, OnEvent, SupervisedFleet, Supervision
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt, SupportsSleep
from rlvr.records import Completion, WeightsRef
from rlvr.run.ray.transfer import Transfer
from rlvr.run.ray.workers.engine_member import EngineLost, EngineMember, MemberEngine
from rlvr.run.ray.workers.fleet_weights import Loading, fleet_receipt
from rlvr.run.step.failures import LearnerLost

logger = logging.getLogger(__name__)
_AWAKE_POLL_S = 0.2


@dataclass(slots=True)
class _Caller:
    """Waits for the completions of one `generate`."""

    queue: "asyncio.Queue[Completion | RlvrError]" = field(default_factory=asyncio.Queue)

    def answer(self, value: Completion) -> None:
        self.queue.put_nowait(value)

    def fail(self, error: RlvrError) -> None:
        self.queue.put_nowait(error)


class EngineFleet(SupervisedFleet[EngineMember]):
    """Implements RolloutEngine over engines that it starts, monitors, replaces and ends."""

    kind = "engine"
    noun = "engine"
    purpose = "generating"
    error = RolloutError
    lost = EngineLost
    max_attempts = 3

    def __init__(
        self,
        spawn: Callable[[str], Awaitable[MemberEngine]],
        *,
        num_engines: int,
        num_absent: int = 0,
        place: Callable[[str], Awaitable[None]] | None = None,
        vacate: Callable[[str], None] | None = None,
        supervision: Supervision,
        sync_s: float = 300.0,
        loads_after_work: bool = True,
        transfer: Transfer | None = None,
        on_event: OnEvent,
    ) -> None:
        """Args:
        spawn: starts the engine with an id and waits until it answers; raises RolloutError on failure.
        num_absent: further engines, which join when there are resources for them.
        place: waits until the cluster has resources for the engine with an id; raises RlvrError.
        vacate: gives up the resources of the engine with an id, which has left a node that is drained.
        sync_s: deadline of one load.
        loads_after_work: engines load only after their open requests, so `sync_s` counts from the end of these.
        transfer: brings weights that are sent without a file; None if every reference is to a file.
        """
        names = [f"engine-{i}" for i in range(num_engines + num_absent)]
        super().__init__(
            names=names[:num_engines], absent=names[num_engines:], supervision=supervision, on_event=on_event
        )
        self._spawn = spawn
        self._place = place
        self._vacate = vacate
        self._num_joined = len(names)
        self._version = 0
        self._ref: WeightsRef | None = None
        self._canary: Sequence[Sequence[int]] = ()
        self.is_asleep = False
        self._transfer = transfer
        self._loading = Loading(sync_s, loads_after_work=loads_after_work)

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes. Raises RolloutError if no engine is left or all fail on it."""
        caller = _Caller()
        if not requests:
            return
        self.submit([Work(r.request_id, r, caller, cost=_most_tokens(r)) for r in requests])
        for _ in requests:
            answer = await caller.queue.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """All engines load concurrently; one that misses its deadline is lost, and the others continue.

        Raises: RolloutError when none could load, with the reason for each; LearnerLost when the file is gone with it.
        """
        self._ref, self._canary = ref, canary
        await self.wake()
        if self._transfer is not None and ref.transport.is_sent:
            sent = await self._transfer.deliver(ref, targets=self._targets, load=self._load, lose=self._lost)
        else:
            sent = ref
            await asyncio.gather(*(self._load(member, ref) for member in self._targets()))
        purpose = f"loading the weights of version {ref.policy_version}"
        await self._until_healthy(purpose)
        self._version = ref.policy_version
        self._dispatch()
        receipts = [m.receipt for m in self.members if m.receipt and m.receipt.policy_version == ref.policy_version]
        if not receipts:
            raise self._none_left(purpose)
        return fleet_receipt(receipts, sent=sent)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Scores on the least busy engine; retries on another if it is lost."""
        while True:
            await self._until_healthy("scoring")
            member = self._least_busy()
            task = self._run(member, member.remote.score(rows))
            await asyncio.wait({task})
            if task.cancelled():
                continue
            try:
                return task.result()
            except EngineLost as error:
                self._lost(member, error)

    async def health(self) -> EngineHealth:
        """Health from the fleet's own state; no engine is asked, so that callers stay in the same turn of the loop."""
        members = self._members.values()
        ailing = [m for m in members if m.state is not MemberState.HEALTHY]
        return EngineHealth(
            is_healthy=len(ailing) < len(members),
            policy_version=self._version,
            num_open_requests=sum(map(len, (*(m.open for m in members), *self._waiting))),
            detail=", ".join(f"{m.name} {m.state}" for m in ailing),
        )

    def add(self) -> str:
        """Starts another engine, which serves as soon as it holds the current weights; returns its id."""
        name = f"engine-{self._num_joined}"
        self._num_joined += 1
        self._begin(name, why="joined")
        return name

    async def remove(self, engine_id: str) -> None:
        """Sends the engine no more requests, waits until it has finished, and ends it."""
        member = self._members[engine_id]
        member.state = MemberState.LEAVING
        await asyncio.gather(*member.serving, return_exceptions=True)
        if member.state is MemberState.LEAVING:
            self._forget(member)
            await member.remote.close()
            self._event("engine_left", engine=engine_id)

    async def sleep(self) -> None:
        """Engines that support it release their memory until `wake`."""

        async def one(member: EngineMember) -> None:
            if isinstance(member.remote, SupportsSleep):
                await member.remote.sleep()

        self.is_asleep = True
        await self._each(one)

    async def wake(self) -> None:
        """Undoes `sleep`."""

        async def one(member: EngineMember) -> None:
            if isinstance(member.remote, SupportsSleep):
                await member.remote.wake()

        if self.is_asleep:
            self.is_asleep = False
            await self._each(one)

    async def _each(self, method: Callable[[EngineMember], Awaitable[None]]) -> None:
        """Calls the method for every member; one that fails is lost."""

        async def one(member: EngineMember) -> None:
            try:
                await method(member)
            except RlvrError as error:
                self._lost(member, error)

        await asyncio.gather(*(one(member) for member in self.members))

    # What a supervised fleet asks of its kind

    async def spawn(self, name: str) -> EngineMember:
        return EngineMember(name, await self._spawn(name))

    async def serve(self, member: EngineMember, share: Sequence[Work]) -> AsyncIterator[tuple[Hashable, Any]]:
        async for completion in member.remote.generate([work.item for work in share]):
            yield completion.completion_id, completion

    async def ask_health(self, member: EngineMember) -> None:
        health = await member.remote.health()
        if not health.is_healthy:
            raise EngineLost(f"it reports that it is not healthy: {health.detail}")
        if member.silence_s() > self._supervision.answer_s:
            raise EngineLost(
                f"{len(member.open)} requests are past their deadline (rollout.completion_deadline_s) and it is silent"
            )

    async def place(self, name: str) -> None:
        if self._place is not None:
            await self._place(name)

    def vacate(self, name: str) -> None:
        if self._vacate is not None:
            self._vacate(name)

    def facts(self, member: EngineMember) -> dict[str, Any]:
        return {} if member.receipt is None else {"policy_version": member.receipt.policy_version}

    async def may_start(self) -> None:
        while self.is_asleep:  # the learner is using its device
            await asyncio.sleep(_AWAKE_POLL_S)

    async def prepare(self, member: EngineMember) -> bool:
        """Loads the current weights, again if newer ones came meanwhile."""
        ref = None
        try:
            while member.is_alive and ref is not self._ref:
                ref = self._ref
                assert ref is not None
                file = await self._alone(member, ref)
                if file is not None:
                    await self._load(member, file)
                elif ref is self._ref:  # it gets the next weights together with the others
                    return False
        except LearnerLost as error:  # callers of the learner raise it too
            logger.warning("%s has no weights: %s", member.name, error)
            return False
        return True

    def spent(self, work: Work) -> RlvrError:
        return RolloutError(
            f"generation failed: request {work.key!r} was tried on {work.attempts} engines, the last was "
            f"{work.last_error}"
        )

    async def end(self, member: EngineMember) -> None:
        """Closes the engine, which may end its own processes in time; then kills it."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await member.remote.close()
        except (TimeoutError, RlvrError) as error:
            logger.debug("engine at %s did not close: %s", member.remote.place, error)
        finally:
            await member.remote.kill()

    def _targets(self) -> list[EngineMember]:
        """The members that can load now."""
        return [m for m in self.members if m.state is not MemberState.LEAVING and not m.loading]

    async def _alone(self, member: EngineMember, ref: WeightsRef) -> WeightsRef | None:
        """What a member loads that starts while the others serve `ref`; None if the learner no longer has it."""
        if self._transfer is None or not ref.transport.is_sent:
            return ref
        member.loading = ref
        try:
            return await self._transfer.file(ref)
        finally:
            member.loading = None

    async def _load(
        self, member: EngineMember, ref: WeightsRef, sent: "asyncio.Future[WeightsRef] | None" = None
    ) -> None:
        """Loads `ref` and makes the member HEALTHY, or lost. Args: sent: see `Loading.load`."""
        peers = [m.receipt for m in self.members if m is not member and m.receipt is not None]
        try:
            await self._loading.load(member, ref, canary=self._canary, peers=peers, sent=sent)
        except LearnerLost:
            raise
        except TransferError as error:
            logger.warning("%s: %s", member.name, error)
            if member.state is MemberState.HEALTHY:
                member.state = MemberState.STALE
            return
        except RlvrError as error:
            if sent is not None and sent.done() and not sent.cancelled() and sent.exception() is error:
                raise  # the learner's failure, not this engine's
            self._lost(member, error)
            return
        is_latest = self._ref is not None and ref.policy_version == self._ref.policy_version
        if member.state is MemberState.STALE and is_latest:
            member.state = MemberState.HEALTHY
            self._changed.set()


def _most_tokens(request: GenerationRequest) -> int:
    """The most tokens that a request may cost an engine."""
    return len(request.prefix_token_ids) + request.sampling.max_tokens
