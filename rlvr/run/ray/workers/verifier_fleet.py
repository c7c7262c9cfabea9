"""Verifiers on many nodes that act as one service. Independent of Ray: a pool is any `RemoteVerifier`.

verify(prompt, completion) --prejudge in the driver--> settled at once, or
    --(this turn of the event loop)--> the pool with the fewest open items --> verdicts as they are reached
a lost pool: its items are retried on another, or on its replacement; the loss is never an ERROR
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlvr.errors import RlvrError, VerifierError
from rlvr.records import Completion, Json, Prompt, Verdict
from rlvr.run.ray.workers.verifier_items import Item, Judged
from rlvr.verification.service import VerifierService

logger = logging.getLogger(__name__)
MAX_ATTEMPTS = 4


class PoolLost(VerifierError):  # noqa: N818 - names the event
    """The process of a pool is gone or does not answer."""


class RemoteVerifier(Protocol):
    """Verifies in another process."""

    @property
    def place(self) -> str:
        """Its node and process, for messages."""
        ...

    def verify(self, items: Sequence[Item]) -> AsyncIterator[Judged]:
        """The verdicts, as they are reached. Raises PoolLost."""
        ...

    async def health(self) -> None:
        """Returns when it answers. Raises PoolLost."""
        ...

    async def kill(self) -> None:
        """Ends it at once."""
        ...


@dataclass(slots=True)
class _Open:
    item: Item
    future: "asyncio.Future[dict[str, Verdict]]"
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Pool:
    name: str
    pool: RemoteVerifier
    open: dict[int, _Open] = field(default_factory=dict[int, _Open])
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set)


class VerifierFleet:
    """Implements `CompletionVerifier` over pools that it starts, monitors and replaces."""

    def __init__(
        self,
        spawn: Callable[[str], Awaitable[RemoteVerifier]],
        *,
        names: Sequence[str],
        here: VerifierService,
        heartbeat_s: float,
        answer_s: float,
        max_restarts: int,
        on_event: Callable[..., None],
    ) -> None:
        """Args: here: gives the verdicts in the driver that need no waiting (`prejudge`)."""
        self._spawn = spawn
        self._names = list(names)
        self._here = here
        self._heartbeat_s = heartbeat_s
        self._answer_s = answer_s
        self._restarts_left = max_restarts
        self._event = on_event
        self._numbers = itertools.count()
        self._pools: list[_Pool] = []
        self._background: set[asyncio.Task[None]] = set()
        self._num_starting = 0
        self._waiting: list[_Open] = []
        self._fresh: list[_Open] = []
        self._last_loss = ""

    @property
    def places(self) -> list[str]:
        """The node and process of each pool."""
        return [pool.pool.place for pool in self._pools]

    async def start(self) -> None:
        """Starts all pools concurrently, each with its preflight. Raises the first one's error."""
        for name, pool in zip(
            self._names,
            await asyncio.gather(*(self._spawn(name) for name in self._names)),
            strict=True,
        ):
            self._admit(_Pool(name, pool))

    async def verify(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        """One verdict for each check. Raises VerifierError when no pool is left, or an item kills every pool."""
        settled = self._here.prejudge(prompt, completion)
        if len(settled) == len(prompt.checks):
            return {check.name: settled[check.name] for check in prompt.checks}
        loop = asyncio.get_running_loop()
        work = _Open(
            item=Item(
                number=next(self._numbers),
                prompt=prompt,
                completion=completion,
                settled=settled,
            ),
            future=loop.create_future(),
        )
        if not self._fresh:
            loop.call_soon(self._flush)
        self._fresh.append(work)
        return await work.future

    async def close(self) -> None:
        """Ends every pool."""
        pools, self._pools = self._pools, []
        tasks = [*self._background, *(task for pool in pools for task in pool.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(pool.pool.kill() for pool in pools), return_exceptions=True)

    def _flush(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._waiting += fresh
        self._dispatch()

    def _dispatch(self) -> None:
        if not self._pools:
            if not self._num_starting:
                self._fail(VerifierError(f"no verifier pool is left; the last was lost: {self._last_loss}"))
            return
        waiting, self._waiting = self._waiting, []
        shares: dict[int, list[_Open]] = {}
        for work in waiting:
            index = min(range(len(self._pools)), key=lambda i: len(self._pools[i].open))
            work.attempts += 1
            self._pools[index].open[work.item.number] = work
            shares.setdefault(index, []).append(work)
        pools = list(self._pools)
        for index, share in shares.items():
            self._begin(pools[index], self._serve(pools[index], share))

    async def _serve(self, pool: _Pool, share: Sequence[_Open]) -> None:
        try:
            async for judged in pool.pool.verify([work.item for work in share]):
                work = pool.open.pop(judged.number, None)
                if work is not None and not work.future.done():
                    work.future.set_result(dict(judged.verdicts))
        except PoolLost as error:
            self._lost(pool, error)
        except RlvrError as error:  # the pool answers with an error
            for work in share:
                if pool.open.pop(work.item.number, None) and not work.future.done():
                    work.future.set_exception(error)

    async def _watch(self, pool: _Pool) -> None:
        while pool in self._pools:
            await asyncio.sleep(self._heartbeat_s)
            try:
                async with asyncio.timeout(self._answer_s):
                    await pool.pool.health()
            except TimeoutError:
                error = PoolLost(f"no answer for cluster.heartbeat_deadline_s={self._answer_s:g} s")
                self._lost(pool, error)
            except RlvrError as error:
                self._lost(pool, error)

    def _lost(self, pool: _Pool, error: RlvrError) -> None:
        if pool not in self._pools:
            return
        self._pools.remove(pool)
        current = asyncio.current_task()
        for task in pool.tasks:
            if task is not current:
                task.cancel()
        self._last_loss = f"{pool.name} ({pool.pool.place}): {error}"
        again = list(pool.open.values())
        fields: dict[str, Json] = {"verifier": pool.name, "reason": str(error), "again": len(again)}
        self._event("verifier_lost", **fields)
        logger.warning("verifier pool lost: %s; %d items are retried", self._last_loss, len(again))
        self._background_task(pool.pool.kill())
        if self._restarts_left > 0:
            self._restarts_left -= 1
            self._num_starting += 1
            self._background_task(self._restart(pool.name))
        for work in again:
            if work.attempts < MAX_ATTEMPTS:
                self._waiting.append(work)
            elif not work.future.done():
                name = work.item.completion.completion_id
                work.future.set_exception(
                    VerifierError(
                        f"completion {name!r} was open in {work.attempts} verifier pools when they were lost, the last "
                        f"{self._last_loss}; run `rlvr verify` on it alone to see why"
                    )
                )
        self._dispatch()

    async def _restart(self, name: str) -> None:
        try:
            self._admit(_Pool(name, await self._spawn(name)))
            self._event("verifier_restarted", verifier=name)
        except RlvrError as error:
            self._last_loss = f"{name} did not restart: {error}"
        finally:
            self._num_starting -= 1
            self._dispatch()

    def _admit(self, pool: _Pool) -> None:
        self._pools.append(pool)
        self._begin(pool, self._watch(pool))

    def _begin(self, pool: _Pool, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        pool.tasks.add(task)
        task.add_done_callback(pool.tasks.discard)

    def _background_task(self, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _fail(self, error: VerifierError) -> None:
        for work in self._waiting:
            if not work.future.done():
                work.future.set_exception(error)
        self._waiting = []
