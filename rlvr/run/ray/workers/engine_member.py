"""One engine of a fleet: what it has loaded, and the time of its last sign of life."""

import time
from dataclasses import dataclass
from typing import Protocol

from rlvr.errors import RolloutError
from rlvr.processes.members import Member
from rlvr.protocols import LoadReceipt, RolloutEngine
from rlvr.records import WeightsRef
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous


class EngineLost(RolloutError):  # noqa: N818 - names the event
    """The process of an engine is gone or does not answer."""


class MemberEngine(RolloutEngine, Protocol):
    """An engine that can be killed from outside, whatever it is doing."""

    @property
    def place(self) -> str:
        """Its node and process, for messages."""
        ...

    @property
    def node(self) -> str:
        """The id of its node; "" if unknown."""
        ...

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None:
        """Joins the group to which the learner sends weights; see `rlvr.transfer.engines.JoinsTransfers`."""
        ...

    async def feed(self, chunk: Chunk | None) -> None:
        """Passes a chunk to the running `load_weights`; see `JoinsTransfers`."""
        ...

    async def kill(self) -> None:
        """Ends it at once, without waiting for an answer."""
        ...


def number_of(engine_id: str) -> int:
    """The number of an engine.

    >>> number_of("engine-3")
    3
    """
    return int(engine_id.rpartition("-")[2])


@dataclass(slots=True, eq=False)
class EngineMember(Member[MemberEngine]):
    """An engine, what it has loaded, and what it is loading."""

    receipt: LoadReceipt | None = None
    loading: WeightsRef | None = None

    def silence_s(self) -> float:
        """Seconds past the latest deadline of its open requests without a completion."""
        if not self.open:
            return 0.0
        allowed = max(work.item.deadline_s for work in self.open.values())
        return time.monotonic() - self.last_sign - allowed
