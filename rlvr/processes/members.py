"""The members of a supervised fleet: remote processes, their state and their open work.

STALE -> HEALTHY -> LEAVING -> gone
  |         |
  +-> DEAD <+            a restart begins at STALE
"""

import asyncio
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from rlvr.errors import RlvrError


class Remote(Protocol):
    """A process elsewhere that can be killed from outside, whatever it is doing."""

    @property
    def place(self) -> str:
        """Its node and process, for messages."""
        ...

    async def kill(self) -> None:
        """Ends it, without waiting long for an answer."""
        ...


class Waiter(Protocol):
    """Whoever waits for answers."""

    def answer(self, value: Any) -> None:
        """Takes one answer."""
        ...

    def fail(self, error: RlvrError) -> None:
        """Ends the waiting with an error; may be called again."""
        ...


class MemberState(StrEnum):
    """The state of a member, which decides what it may be sent."""

    STALE = "stale"  # only what `prepare` sends
    HEALTHY = "healthy"  # work
    LEAVING = "leaving"  # nothing more; it finishes its open work
    DEAD = "dead"


@dataclass(slots=True)
class Work:
    """An unanswered item. attempts: number of members that got it; `last_error`: why the latest failed.

    cost: how busy it keeps a member, in a unit of the fleet's.
    """

    key: Hashable
    item: Any
    waiter: Waiter
    cost: int = 1
    attempts: int = 0
    last_error: str = ""


RemoteT = TypeVar("RemoteT", bound=Remote)


@dataclass(slots=True, eq=False)
class Member(Generic[RemoteT]):
    """A member and its open work."""

    name: str
    remote: RemoteT
    state: MemberState = MemberState.STALE
    open: dict[Hashable, Work] = field(default_factory=dict[Hashable, Work])
    open_cost: int = 0
    serving: "set[asyncio.Future[Any]]" = field(default_factory=set["asyncio.Future[Any]"])
    watching: "asyncio.Task[None] | None" = None
    last_sign: float = field(default_factory=time.monotonic)

    @property
    def is_alive(self) -> bool:
        """Whether it can be sent anything at all."""
        return self.state is not MemberState.DEAD

    def take(self, work: Work) -> None:
        """Adds work that is sent to it."""
        if not self.open:
            self.last_sign = time.monotonic()
        work.attempts += 1
        self.open[work.key] = work
        self.open_cost += work.cost

    def give_back(self, key: Hashable) -> Work | None:
        """Removes and returns open work; None if it was not open."""
        work = self.open.pop(key, None)
        if work is not None:
            self.open_cost -= work.cost
        return work
