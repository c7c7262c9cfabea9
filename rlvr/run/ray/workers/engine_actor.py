"""An actor that holds one rollout engine."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray
import torch

from rlvr.config.recipe import Recipe
from rlvr.models.allocator import keep_freed_memory
from rlvr.models.policy import PolicyText
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt, RolloutEngine, SupportsSleep
from rlvr.records import Completion, Transport, WeightsRef
from rlvr.rollout.build import build_engine_alone, start_engine
from rlvr.run.ray.streams import in_bunches
from rlvr.run.ray.watch import stacks_here
from rlvr.run.ray.weight_files import WeightFiles
from rlvr.run.ray.workers.meters import EngineMeter
from rlvr.run.ray.workers.place import ActorPlace, place_here
from rlvr.telemetry.process import begin_process
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.engines import JoinsTransfers
from rlvr.transfer.rendezvous import Rendezvous


@ray.remote(max_concurrency=1000)  # type: ignore # Ray's stub wants every option
class EngineActor:
    """Runs in an async actor; slow work happens in the engine's own thread or process."""

    def __init__(
        self, engine_id: str, recipe: Recipe, text: PolicyText, transport: Transport, devices: Sequence[str] = ()
    ) -> None:
        """Args: devices: GPUs of the learner that it uses too; () if Ray assigned it its own, or none."""
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        keep_freed_memory()
        begin_process(engine_id, node=ray.util.get_node_ip_address())
        self._meter = EngineMeter(engine_id)
        self._engine_id = engine_id
        self._recipe = recipe
        self._text = text
        self._transport = transport
        self._engine: RolloutEngine | None = None
        self._files = WeightFiles()

    async def start(self) -> ActorPlace:
        """Builds the engine; returns its place."""
        threads = max(1, int(self._recipe.cluster.cpus_per_engine))
        torch.set_num_threads(threads)
        self._engine = await asyncio.to_thread(
            build_engine_alone, self._recipe, text=self._text, engine_id=self._engine_id, transport=self._transport
        )
        await start_engine(self._engine)
        return place_here()

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[list[Completion]]:
        """Completions as they finish, in bunches."""
        completions = self._meter.generated(self._served.generate(requests), num_requests=len(requests))
        async for bunch in in_bunches(completions):
            yield bunch

    async def load_weights(self, ref: WeightsRef, source: Any, canary: Sequence[Sequence[int]]) -> LoadReceipt:
        """Loads from the file, which is fetched once per node. source: the learner's actor and its node."""
        start = time.monotonic()
        local = await asyncio.to_thread(self._files.here, ref, source)
        receipt = await self._served.load_weights(local, canary=canary)
        self._meter.loaded(ref, start=start)
        return receipt

    async def join(self, rendezvous: Rendezvous, first_rank: int) -> None:
        """Joins the group to which the learner sends weights."""
        assert isinstance(self._served, JoinsTransfers)  # the recipe's transport is refused for others
        await self._served.join(rendezvous, first_rank=first_rank)

    async def feed(self, chunk: Chunk | None) -> None:
        """Passes a chunk to the running load."""
        assert isinstance(self._served, JoinsTransfers)
        await self._served.feed(chunk)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probs (nats) of each row's tokens after the first."""
        return await self._served.score(rows)

    async def health(self) -> EngineHealth:
        """Whether the engine is healthy, and details if not."""
        return await self._served.health()

    async def sleep(self) -> None:
        """Does nothing if the engine cannot sleep."""
        if isinstance(self._served, SupportsSleep):
            await self._served.sleep()

    async def wake(self) -> None:
        """Does nothing if the engine cannot sleep."""
        if isinstance(self._served, SupportsSleep):
            await self._served.wake()

    async def stacks(self) -> str:
        """The stacks of this process's threads."""
        return stacks_here()

    async def close(self) -> None:
        """Closes the engine, and removes copies of weights that no other engine of the node uses."""
        if self._engine is not None:
            await self._engine.close()
        await asyncio.to_thread(self._files.close)

    @property
    def _served(self) -> RolloutEngine:
        assert self._engine is not None  # the handle awaits `start` first
        return self._engine
