"""The verifier fleet's handle of a pool in an actor."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.config.recipe import Recipe
from rlvr.records import Check
from rlvr.registry import PluginSource
from rlvr.run.ray.calls import Calls
from rlvr.run.ray.connect import end_actor
from rlvr.run.ray.watch import WaitBoard, WaitExpired
from rlvr.run.ray.workers.place import ActorPlace
from rlvr.run.ray.workers.verifier_actor import VerifierActor
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts, PoolLost, RemoteVerifier

CLOSE_S = 5.0
_POLL_S = 0.5
_KNOWN_S = 5.0


class VerifierHandle:
    """Implements `RemoteVerifier` with an actor."""

    def __init__(self, actor: Any, *, name: str, recipe: Recipe, board: WaitBoard) -> None:
        self.place = "starting"
        self.node = ""
        self._name = name
        self._deadlines = recipe.cluster
        self._board = board
        self._calls = Calls(actor, name=name, owner="the verifiers", board=board, lost=PoolLost)

    async def start(self, checks: Sequence[Check]) -> None:
        """Waits until verifiers and sandbox are ready on the node."""
        place: ActorPlace = await self._calls.later(
            "start", list(checks), what="its verifiers and its sandbox", deadline_s=self._deadlines.start_deadline_s
        )
        self.node, self.place = place.node, place.text

    async def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
        """Verdicts as they are reached, from one actor call.

        One item is the usual case, because completions finish one by one; a plain call costs the driver a third of
        the time of a stream.
        """
        limit_s = self._deadlines.step_deadline_s
        what = f"verdicts on {len(items)} completions"
        with self._board.wait("the verifiers", on=self._name, what=what, deadline_s=limit_s):
            try:
                if len(items) == 1:
                    yield await self._calls.actor.verify_one.remote(items[0])
                    return
                stream = self._calls.actor.verify.options(num_returns="streaming").remote(list(items))
                async for reference in stream:
                    for judged in await reference:
                        yield judged
            except ray_errors.RayError as error:
                raise await self._calls.meaning_later(error) from error

    async def health(self) -> None:
        """Returns when the actor answers."""
        await self._calls.later("health", what="its health", deadline_s=self._deadlines.step_deadline_s)

    async def kill(self) -> None:
        """Ends the actor, its workers and sandboxes; closes it first if it answers in time."""
        try:
            with contextlib.suppress(PoolLost, WaitExpired):
                await self._calls.later("close", what="its end", deadline_s=CLOSE_S)
        finally:
            end_actor(self._calls.actor)


def verifier_spawner(
    recipe: Recipe,
    *,
    checks: Sequence[Check],
    sources: Mapping[str, PluginSource],
    nodes: Callable[[], Sequence[str]],
    board: WaitBoard,
) -> Callable[[str], Awaitable[RemoteVerifier]]:
    """Returns the function that starts the fleet's pools, each on the node with the fewest of them.

    Args: nodes: ids of the nodes on which pools may run now.
    """
    chosen: dict[str, str] = {}

    async def spawn(name: str) -> VerifierHandle:
        while True:
            others = Counter(node for pool, node in chosen.items() if pool != name)
            while not (usable := nodes()):
                await asyncio.sleep(_POLL_S)
            node = chosen[name] = min(usable, key=lambda node: others[node])
            try:
                return await started(name, node)
            except PoolLost:
                if not await leaves(node):
                    raise

    async def started(name: str, node: str) -> VerifierHandle:
        start: Any = VerifierActor
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = start.options(scheduling_strategy=strategy).remote(name, recipe, dict(sources))
        handle = VerifierHandle(actor, name=name, recipe=recipe, board=board)
        try:
            await handle.start(checks)
        except BaseException:  # also when cancelled: nothing else can end the actor
            end_actor(actor)
            raise
        return handle

    async def leaves(node: str) -> bool:
        """Whether the node is gone, which is known a moment after an actor on it is lost."""
        end = time.monotonic() + _KNOWN_S
        while node in nodes():
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    return spawn
