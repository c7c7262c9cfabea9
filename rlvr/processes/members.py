"""The members of a supervised fleet: remote processes, their state and their open work.

STALE -> HEALTHY -> LEAVING -> gone
  |         |          |
  +-> DEAD <+----------+     a restart begins at STALE
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
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

    @property
    def node(self) -> str:
        """The id of its node; "" if unknown."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """Time limits of members, in seconds, and how often members are restarted in all.

    heartbeat_s: between two health checks; answer_s: for the answer to one.
    """

    start_s: float = 600.0
    heartbeat_s: float = 5.0
    answer_s: float = 60.0
    max_restarts: int = 10


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
    has_answered: bool = False

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


MemberT = TypeVar("MemberT", bound=Member[Any])


async def watch(
    member: MemberT,
    *,
    ask: Callable[[MemberT], Awaitable[None]],
    limits: Supervision,
    lost: Callable[[str], RlvrError],
    lose: Callable[[MemberT, RlvrError], None],
    first_s: float,
) -> None:
    """Polls the member's health while it is alive; silence means that it is lost.

    Args:
        ask: returns when the member says that it is well; raises RlvrError.
        lost: makes the error of a member that is lost, from the reason.
        lose: handles a lost member.
        first_s: seconds until it is first asked.
    """
    pause_s = first_s
    while member.is_alive:
        await asyncio.sleep(pause_s)
        pause_s = limits.heartbeat_s
        try:
            async with asyncio.timeout(limits.answer_s):
                await ask(member)
        except TimeoutError:
            limit = f"cluster.heartbeat_deadline_s={limits.answer_s:g} s"
            lose(member, lost(f"no answer for {limit}: it is hung or frozen"))
        except RlvrError as error:
            lose(member, error)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task: the member would no longer be monitored
            lose(member, lost(f"{type(error).__name__}: {error}"))
