"""Verifiers on many nodes that act as one service: a supervised fleet of pools, one pool per node.

verify(prompt, completion) --prejudge in the driver--> settled at once, or --> the pool with the fewest open items
A lost pool's items are retried on another or on its replacement; the loss is never an ERROR. Independent of Ray: a pool
is any `RemoteVerifier`.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.errors import RlvrError, VerifierError
from rlvr.processes.members import Member, MemberState, Work
from rlvr.processes.supervised_fleet import OnEvent, SupervisedFleet, Supervision
from rlvr.records import Completion, Prompt, Verdict
from rlvr.verification.service import VerifierService

logger = logging.getLogger(__name__)


class PoolLost(VerifierError):  # noqa: N818 - names the event
    """The process of a pool is gone or does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One pair to verify; `settled`: verdicts that the driver could give at once."""

    number: int
    prompt: Prompt
    completion: Completion
    settled: Mapping[str, Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemVerdicts:
    """The verdicts of an item, by check name."""

    number: int
    verdicts: Mapping[str, Verdict]


class RemoteVerifier(Protocol):
    """Verifies in another process."""

    @property
    def place(self) -> str:
        """Its node and process, for messages."""
        ...

    @property
    def node(self) -> str:
        """The id of its node; "" if unknown."""
        ...

    def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
        """The verdicts, as they are reached. Raises PoolLost."""
        ...

    async def health(self) -> None:
        """Returns when it answers. Raises PoolLost."""
        ...

    async def kill(self) -> None:
        """Ends it at once."""
        ...


class _Caller:
    """Waits for the verdicts on one completion."""

    def __init__(self) -> None:
        self.future: asyncio.Future[dict[str, Verdict]] = asyncio.get_running_loop().create_future()

    def answer(self, value: Mapping[str, Verdict]) -> None:
        if not self.future.done():
            self.future.set_result(dict(value))

    def fail(self, error: RlvrError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class VerifierFleet(SupervisedFleet[Member[RemoteVerifier]]):
    """Implements `CompletionVerifier` over pools that it starts, monitors and replaces."""

    kind = "verifier"
    noun = "verifier pool"
    purpose = "verifying"
    error = VerifierError
    lost = PoolLost
    max_attempts = 4

    def __init__(
        self,
        spawn: Callable[[str], Awaitable[RemoteVerifier]],
        *,
        names: Sequence[str],
        here: VerifierService,
        supervision: Supervision,
        on_event: OnEvent,
        nodes: Callable[[], Sequence[str]] = tuple,
        has_one_per_node: bool = False,
    ) -> None:
        """Args:
        here: gives the verdicts in the driver that need no waiting (`prejudge`).
        nodes: ids of the nodes on which pools may run now.
        has_one_per_node: a node that joins gets a pool of its own.
        """
        super().__init__(names=names, supervision=supervision, on_event=on_event)
        self._spawn = spawn
        self._here = here
        self._nodes = nodes
        self._has_one_per_node = has_one_per_node
        self._numbers = itertools.count()

    async def verify(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        """One verdict for each check. Raises VerifierError when no pool is left, or an item ends every pool."""
        settled = self._here.prejudge(prompt, completion)
        if len(settled) == len(prompt.checks):
            return {check.name: settled[check.name] for check in prompt.checks}
        item = Item(number=next(self._numbers), prompt=prompt, completion=completion, settled=settled)
        caller = _Caller()
        self.submit([Work(item.number, item, caller)])
        return await caller.future

    def settle(self) -> None:
        """Moves pools from crowded nodes to empty ones, and starts further ones if each node is to have one."""
        if self._is_closed:
            return
        pools: dict[str, list[Member[RemoteVerifier]]] = {node: [] for node in self._nodes()}
        for member in self.members:
            if member.state is not MemberState.LEAVING:
                pools.setdefault(member.remote.node, []).append(member)
        for node in [node for node, there in pools.items() if not there]:
            crowded = max(pools.values(), key=len)
            names = self._members.keys() | self._starting.keys()
            if len(crowded) > 1:
                self.move(crowded.pop())
            elif self._has_one_per_node and len(names) < len(pools):
                free = next(name for i in itertools.count() if (name := f"verifier-{i}") not in names)
                self._begin(free, why="joined")
            else:
                logger.debug("node %s has no verifier pool", node)

    # What a supervised fleet asks of its kind

    async def spawn(self, name: str) -> Member[RemoteVerifier]:
        return Member(name, await self._spawn(name), state=MemberState.HEALTHY)

    async def serve(self, member: Member[RemoteVerifier], share: Sequence[Work]) -> AsyncIterator[tuple[Hashable, Any]]:
        async for found in member.remote.verify([work.item for work in share]):
            yield found.number, found.verdicts

    async def ask_health(self, member: Member[RemoteVerifier]) -> None:
        await member.remote.health()

    def is_loss(self, error: RlvrError) -> bool:
        return isinstance(error, PoolLost)  # anything else is what the pool answers

    def spent(self, work: Work) -> RlvrError:
        name = work.item.completion.completion_id
        return VerifierError(
            f"completion {name!r} was open in {work.attempts} verifier pools when they were lost, the last "
            f"{work.last_error}; run `rlvr verify` on it alone to see why"
        )
