"""The driver's side of weights that are sent without a file: who takes part, and what happens when someone fails.

    deliver:  the same members as before?  -- no -->  learner and engines join a new group (new port, new size)
              learner.send  |  every engine's load_weights          side by side, each within the deadline
              a failure: engines that are gone are replaced, the others and the learner try again in a new group
              a second failure: files for the rest of the run (before the first success: an error)

An engine that starts alone gets the file of the weights that the others have (`file`), and joins at the next sync.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from rlvr.errors import RlvrError, RolloutError, TransferError
from rlvr.processes.supervised_fleet import OnEvent
from rlvr.records import Transport, WeightsRef
from rlvr.run.ray.workers.engine_member import EngineMember
from rlvr.run.ray.workers.fleet_weights import GRACE_S
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import BUFFER_BYTES, LEARNER, Rendezvous

logger = logging.getLogger(__name__)
_ATTEMPTS = 2
_TOKEN_BITS = 62

Load = Callable[[EngineMember, WeightsRef, "asyncio.Future[WeightsRef] | None"], Awaitable[None]]
Lose = Callable[[EngineMember, RlvrError], None]


class RemoteSender(Protocol):
    """The learner in another process; see `rlvr.learner.weights.sending.SendingLearner`."""

    @property
    def address(self) -> str:
        """Under which engines reach it."""
        ...

    async def meet(self) -> int: ...
    async def join(self, rendezvous: Rendezvous) -> None: ...
    async def send(self, ref: WeightsRef) -> WeightsRef: ...
    async def next_chunk(self, ref: WeightsRef, *, is_first: bool, buffer_bytes: int) -> Chunk | WeightsRef: ...
    async def leave(self) -> None: ...
    async def write_file(self, ref: WeightsRef) -> WeightsRef | None: ...


class Transfer:
    """The group of a run, and its deliveries."""

    def __init__(
        self,
        learner: RemoteSender,
        *,
        transport: Transport,
        width: int,
        deadline_s: float,
        on_event: OnEvent,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        """Args: width: workers of one engine, each of which is a rank."""
        self._learner = learner
        self._transport = transport
        self._width = width
        self._deadline_s = deadline_s
        self._event = on_event
        self._buffer_bytes = buffer_bytes
        self._group: tuple[EngineMember, ...] = ()
        self._num_sent = 0
        self._is_given_up = False

    async def deliver(
        self, ref: WeightsRef, *, targets: Callable[[], Sequence[EngineMember]], load: Load, lose: Lose
    ) -> WeightsRef:
        """Brings the weights to all targets; returns the reference with checksums, of a file if one was used.

        Args:
            targets: the members that can be sent weights now; asked again before each attempt.
            load: has a member load the reference; the future gives the checksums of what was sent.
            lose: ends a member that failed.

        Raises: RolloutError when nothing could ever be sent, LearnerError when the learner failed.
        """
        reasons: list[str] = []
        while not self._is_given_up and len(reasons) < _ATTEMPTS:
            members = tuple(targets())
            if not members:  # all are starting, each with a file
                return await self._file(ref)
            try:
                return await self._attempt(ref, members, load=load, lose=lose)
            except TransferError as error:
                reasons.append(str(error))
                self._group = ()
                self._event(
                    "transfer_failed", policy_version=ref.policy_version, attempt=len(reasons), reason=str(error)
                )
                logger.warning("weights of version %d were not sent: %s", ref.policy_version, error)
        if reasons and not self._num_sent:
            raise RolloutError(
                f"the weights of version {ref.policy_version} could not be sent by {ref.transport}: {reasons[-1]}. Set "
                "cluster.weight_transport=file"
            )
        if reasons:
            self._is_given_up = True
            self._event("transfer_given_up", policy_version=ref.policy_version, reason=reasons[-1])
            logger.warning(
                "weights travel as files for the rest of this run: %s failed %d times", ref.transport, len(reasons)
            )
        file = await self._file(ref)
        await asyncio.gather(*(load(member, file, None) for member in targets()))
        return file

    async def file(self, ref: WeightsRef) -> WeightsRef | None:
        """The same weights as a file; None when the learner has others by now, and the next sync is near."""
        return await self._learner.write_file(ref)

    async def _file(self, ref: WeightsRef) -> WeightsRef:
        file = await self._learner.write_file(ref)
        if file is None:
            raise RolloutError(f"the learner no longer has the weights of version {ref.policy_version}")
        return file

    async def _attempt(
        self, ref: WeightsRef, members: tuple[EngineMember, ...], *, load: Load, lose: Lose
    ) -> WeightsRef:
        """One broadcast to these members. Raises TransferError when some that are alive did not get it."""
        if self._group != members:
            await self._meet(members, lose=lose)
        sending = asyncio.ensure_future(self._send(ref, members))
        loads = [asyncio.ensure_future(load(member, ref, sending)) for member in members]
        everything: list[asyncio.Future[Any]] = [*loads, sending]
        try:
            await asyncio.wait(everything, return_when=asyncio.FIRST_EXCEPTION)
            if sending.done() and not isinstance(sending.exception(), TransferError | None):
                await sending  # the learner is gone: no reason to wait until the engines have noticed
            await asyncio.gather(*loads)
            sent = await sending
        finally:
            for task in everything:
                task.cancel()
            await asyncio.gather(*everything, return_exceptions=True)
        missing = [
            m.name
            for m in members
            if m.is_alive and (m.receipt is None or m.receipt.policy_version != ref.policy_version)
        ]
        if missing:
            raise TransferError(f"{', '.join(missing)} did not get all of the weights")
        self._num_sent += 1
        return sent

    async def _send(self, ref: WeightsRef, members: Sequence[EngineMember]) -> WeightsRef:
        """The reference with checksums, once the learner has sent everything. Raises TransferError."""
        if ref.transport is Transport.NCCL:
            return await self._learner.send(ref)
        try:
            async with asyncio.timeout(self._deadline_s):
                found = await self._learner.next_chunk(ref, is_first=True, buffer_bytes=self._buffer_bytes)
                while isinstance(found, Chunk):
                    await asyncio.gather(*(member.remote.feed(found) for member in members))
                    found = await self._learner.next_chunk(ref, is_first=False, buffer_bytes=self._buffer_bytes)
                await asyncio.gather(*(member.remote.feed(None) for member in members))
        except (TimeoutError, RolloutError) as error:
            reason = str(error) or f"they were not read within {self._deadline_s:g} s (cluster.sync_deadline_s)"
            raise TransferError(f"the chunks of the weights did not pass: {reason}") from error
        return found

    async def _meet(self, members: tuple[EngineMember, ...], *, lose: Lose) -> None:
        """Makes a new group of the learner and these members; engines that do not answer are lost."""
        self._group = ()
        is_broadcast = self._transport is Transport.NCCL
        rendezvous = Rendezvous(
            address=self._learner.address,
            port=await self._learner.meet() if is_broadcast else 0,
            names=(LEARNER, *(member.name for member in members for _ in range(self._width))),
            token=secrets.randbits(_TOKEN_BITS),
            deadline_s=self._deadline_s,
            buffer_bytes=self._buffer_bytes,
        )

        async def enter(member: EngineMember, first_rank: int) -> None:
            try:
                async with asyncio.timeout(self._deadline_s + GRACE_S):
                    await member.remote.join(rendezvous, first_rank=first_rank)
            except TransferError:
                raise
            except (RlvrError, TimeoutError) as error:
                reason = (
                    error if isinstance(error, RlvrError) else RolloutError("it did not answer when it was to join")
                )
                lose(member, reason)
                raise TransferError(f"{member.name} could not join: {reason}") from error

        entering: list[Coroutine[None, None, None]] = [
            enter(member, 1 + index * self._width) for index, member in enumerate(members)
        ]
        if is_broadcast:
            entering.append(self._learner.join(rendezvous))
        outcomes = await asyncio.gather(*entering, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        other = next((failure for failure in failures if not isinstance(failure, TransferError)), None)
        if other is not None:
            raise other
        if failures:
            raise TransferError("; ".join(dict.fromkeys(map(str, failures))))
        self._group = members
