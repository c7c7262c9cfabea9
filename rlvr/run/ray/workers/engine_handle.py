"""The fleet's handle of an engine in an actor."""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ray import exceptions as ray_errors

from rlvr.config.recipe import Recipe
from rlvr.models.policy import PolicyText
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, Transport, WeightsRef
from rlvr.run.ray.calls import Calls, PutOnce
from rlvr.run.ray.connect import end_actor
from rlvr.run.ray.watch import WaitBoard, WaitExpired
from rlvr.run.ray.weight_files import WeightSource
from rlvr.run.ray.workers.engine_actor import EngineActor
from rlvr.run.ray.workers.engine_member import EngineLost, number_of
from rlvr.run.ray.workers.fleet_weights import GRACE_S
from rlvr.run.ray.workers.place import ActorPlace
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous

logger = logging.getLogger(__name__)


class EngineHandle:
    """Implements `MemberEngine` with an actor. The fleet enforces the deadlines; the wait board lists them too."""

    def __init__(
        self, actor: Any, *, engine_id: str, recipe: Recipe, source: WeightSource, board: WaitBoard, weights: PutOnce
    ) -> None:
        """Args: weights: shares the reference to the weights among the engines of a fleet."""
        self.place = "starting"
        self.node = ""
        self._engine_id = engine_id
        self._deadlines = recipe.cluster
        self._request_s = recipe.rollout.completion_deadline_s
        self._source = source
        self._board = board
        self._weights = weights
        self._calls = Calls(actor, name=engine_id, owner="the fleet", board=board, lost=EngineLost)

    async def start(self) -> None:
        """Waits until the engine is built."""
        limit_s = self._deadlines.start_deadline_s
        place: ActorPlace = await self._calls.later("start", what="its start", deadline_s=limit_s)
        self.node, self.place = place.node, place.text

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields completions as they finish, from one actor call. The fleet watches for silence."""
        stream = self._calls.actor.generate.options(num_returns="streaming").remote(list(requests))
        limit_s = self._request_s + self._deadlines.step_deadline_s
        what = f"{len(requests)} completions"
        with self._board.wait("the fleet", on=self._engine_id, what=what, deadline_s=limit_s):
            try:
                async for reference in stream:
                    for completion in await reference:
                        yield completion
            except ray_errors.RayError as error:
                raise await self._calls.meaning_later(error) from error

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Loads the weights; the file is fetched if the node does not see it."""
        limit_s = self._deadlines.step_deadline_s + self._deadlines.sync_deadline_s
        return await self._calls.later(
            "load_weights",
            self._weights.of(ref),
            self._source,
            canary,
            what=f"the weights of version {ref.policy_version} to be loaded",
            deadline_s=limit_s,
        )

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None:
        """Joins the group to which the learner sends weights."""
        limit_s = self._deadlines.step_deadline_s + self._deadlines.sync_deadline_s
        await self._calls.later(
            "join", rendezvous, first_rank, what="it to join the transfer of weights", deadline_s=limit_s
        )

    async def feed(self, chunk: Chunk | None) -> None:
        """Passes a chunk to the running load."""
        limit_s = self._deadlines.sync_deadline_s + GRACE_S
        await self._calls.later("feed", chunk, what="it to read a chunk of weights", deadline_s=limit_s)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probs (nats) of each row's tokens after the first."""
        return await self._calls.later(
            "score", rows, what=f"scores of {len(rows)} rows", deadline_s=self._deadlines.step_deadline_s
        )

    async def health(self) -> EngineHealth:
        """Whether the engine is healthy, and details if not."""
        return await self._calls.later("health", what="its health", deadline_s=self._deadlines.step_deadline_s)

    async def sleep(self) -> None:
        """Does nothing if the engine cannot sleep."""
        await self._calls.later("sleep", what="it to sleep", deadline_s=self._deadlines.sync_deadline_s)

    async def wake(self) -> None:
        """Does nothing if the engine cannot sleep."""
        await self._calls.later("wake", what="it to wake", deadline_s=self._deadlines.sync_deadline_s)

    async def close(self) -> None:
        """Closes the engine and ends the actor."""
        try:
            await self._calls.later("close", what="its end", deadline_s=30.0)
        except (EngineLost, WaitExpired) as error:
            logger.debug("%s did not close: %s", self._engine_id, error)
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Ends the actor at once, even a frozen one."""
        end_actor(self._calls.actor)


def engine_spawner(
    recipe: Recipe,
    *,
    text: PolicyText,
    source: WeightSource,
    options_of: Callable[[int], dict[str, Any]],
    transport: Transport,
    board: WaitBoard,
    devices_of: Callable[[int], Sequence[str]] = lambda _: (),
) -> Callable[[str], Any]:
    """Returns the function that starts the fleet's engines.

    Args:
        options_of: actor options by engine number.
        devices_of: GPUs of the learner that an engine shares, by engine number.
    """

    shared_text, weights = PutOnce(), PutOnce()

    async def spawn(engine_id: str) -> EngineHandle:
        number = number_of(engine_id)
        start: Any = EngineActor
        actor = start.options(**options_of(number)).remote(
            engine_id, recipe, shared_text.of(text), transport, devices_of(number)
        )
        handle = EngineHandle(actor, engine_id=engine_id, recipe=recipe, source=source, board=board, weights=weights)
        try:
            await handle.start()
        except BaseException:  # also when cancelled: nothing else can end the actor
            await handle.kill()
            raise
        return handle

    return spawn
