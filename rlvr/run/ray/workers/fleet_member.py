"""One engine of a fleet: its state, its open requests, and the time of its last sign of life.

STARTING -> STALE -> HEALTHY -> LEAVING -> gone
    ^         |         |
    +-- DEAD <+---------+          a restart begins at STARTING; only weights and a canary make it HEALTHY again
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from rlvr.errors import RlvrError, RolloutError
from rlvr.protocols import GenerationRequest, LoadReceipt, RolloutEngine
from rlvr.records import Completion, WeightsRef

logger = logging.getLogger(__name__)
CLOSE_S = 10.0


class EngineLost(RolloutError):  # noqa: N818 - names the event
    """The process of an engine is gone or does not answer."""


class MemberEngine(RolloutEngine, Protocol):
    """An engine that can be killed from outside, whatever it is doing."""

    @property
    def place(self) -> str:
        """Its node and process, for messages."""
        ...

    async def kill(self) -> None:
        """Ends it at once, without waiting for an answer."""
        ...


Spawn = Callable[[str], Awaitable[MemberEngine]]


class MemberState(StrEnum):
    """The state of an engine, which decides what it may be sent."""

    STARTING = "starting"  # nothing
    STALE = "stale"  # weights
    HEALTHY = "healthy"  # weights and requests
    LEAVING = "leaving"  # nothing more; it finishes its open requests
    DEAD = "dead"


@dataclass(slots=True)
class Caller:
    """A caller that waits for completions."""

    queue: "asyncio.Queue[Completion | BaseException]" = field(default_factory=asyncio.Queue)


@dataclass(slots=True)
class OpenRequest:
    """An unanswered request. attempts: number of engines that got it; `last_error`: why the latest failed."""

    request: GenerationRequest
    caller: Caller
    attempts: int = 0
    last_error: str = ""

    @property
    def tokens(self) -> int:
        """The most tokens that it may cost an engine."""
        return len(self.request.prefix_token_ids) + self.request.sampling.max_tokens


@dataclass(slots=True, eq=False)
class Member:
    """An engine and its open requests."""

    engine_id: str
    engine: MemberEngine
    state: MemberState = MemberState.STALE
    open: dict[str, OpenRequest] = field(default_factory=dict[str, OpenRequest])
    open_tokens: int = 0
    serving: "set[asyncio.Future[Any]]" = field(default_factory=set)
    watching: "asyncio.Task[None] | None" = None
    last_sign: float = field(default_factory=time.monotonic)
    receipt: LoadReceipt | None = None
    loading: WeightsRef | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it can be sent anything at all."""
        return self.state in (MemberState.STALE, MemberState.HEALTHY, MemberState.LEAVING)

    def take(self, work: OpenRequest) -> None:
        """Adds a request that was sent to it."""
        if not self.open:
            self.last_sign = time.monotonic()
        work.attempts += 1
        self.open[work.request.request_id] = work
        self.open_tokens += work.tokens

    def give_back(self, request_id: str) -> OpenRequest | None:
        """Removes and returns an open request; None if it was not open."""
        work = self.open.pop(request_id, None)
        if work is not None:
            self.open_tokens -= work.tokens
        return work

    def silence_s(self) -> float:
        """Seconds past the latest deadline of its open requests without a completion."""
        if not self.open:
            return 0.0
        allowed = max(work.request.deadline_s for work in self.open.values())
        return time.monotonic() - self.last_sign - allowed

    async def ask_health(self, *, answer_s: float) -> None:
        """Raises EngineLost when it does not answer in time, is not healthy, or is silent past its deadlines."""
        try:
            async with asyncio.timeout(answer_s):
                health = await self.engine.health()
        except TimeoutError as error:
            raise EngineLost(
                f"no answer for cluster.heartbeat_deadline_s={answer_s:g} s: it is hung or frozen"
            ) from error
        if not health.is_healthy:
            raise EngineLost(f"it reports that it is not healthy: {health.detail}")
        if self.silence_s() > answer_s:
            raise EngineLost(
                f"{len(self.open)} requests are past their deadline (rollout.completion_deadline_s) and it is silent"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimits:
    """Time limits of engines, and how often engines are restarted.

    sync_s: for one load. heartbeat_s: between two health checks; answer_s: for the answer to one.
    loads_after_work: engines load only after their open requests, so `sync_s` counts from the end of these.
    """

    start_s: float = 600.0
    sync_s: float = 300.0
    heartbeat_s: float = 5.0
    answer_s: float = 60.0
    max_restarts: int = 10
    loads_after_work: bool = True


async def end_engine(engine: MemberEngine) -> None:
    """Closes the engine, which may end its own processes in time; then kills it."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await engine.close()
    except (TimeoutError, RlvrError) as error:
        logger.debug("engine at %s did not close: %s", engine.place, error)
    finally:
        await engine.kill()
