"""An actor that verifies on its node, with verifier workers and a sandbox there."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import ray

from rlvr.config.recipe import Recipe
from rlvr.records import Check
from rlvr.registry import PluginSource
from rlvr.run.ray.streams import in_bunches
from rlvr.run.ray.watch import stacks_here
from rlvr.run.ray.workers.meters import PoolMeter
from rlvr.run.ray.workers.place import ActorPlace, place_here
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts
from rlvr.telemetry.process import begin_process
from rlvr.verification.service import VerifierService


@ray.remote(num_cpus=0, max_concurrency=1000)  # type: ignore # Ray's stub wants every option
class VerifierActor:
    """Runs in an async actor; the work happens in worker processes and sandboxes."""

    def __init__(self, name: str, recipe: Recipe, sources: Mapping[str, PluginSource]) -> None:
        """Args: name: of the pool. sources: single-file verifiers with their text, by their name in the recipe."""
        begin_process(name, node=ray.util.get_node_ip_address())
        self._service = VerifierService(
            recipe.reward.verifier_workers,
            recipe.reward.verifier_deadline_s,
            sandbox=(recipe.sandbox.backend, recipe.sandbox.settings),
            sources=sources,
        )
        self._meter = PoolMeter(name, self._service, num_workers=recipe.reward.verifier_workers)

    async def start(self, checks: Sequence[Check]) -> ActorPlace:
        """Builds every verifier, starts the sandbox and runs its self-test; returns its place."""
        await asyncio.to_thread(self._service.preflight, checks)
        return place_here()

    async def verify(self, items: Sequence[Item]) -> AsyncIterator[list[ItemVerdicts]]:
        """Verdicts as they are reached, in bunches."""

        async def one(item: Item) -> ItemVerdicts:
            try:
                verdicts = await self._service.verify(item.prompt, item.completion, settled=dict(item.settled))
            finally:
                self._meter.gave()
            return ItemVerdicts(number=item.number, verdicts=verdicts)

        async def each() -> AsyncIterator[ItemVerdicts]:
            self._meter.took([item.completion for item in items])
            for done in asyncio.as_completed([one(item) for item in items]):
                yield await done

        async for bunch in in_bunches(each()):
            yield bunch

    async def health(self) -> None:
        """Answers."""

    async def stacks(self) -> str:
        """The stacks of this process's threads."""
        return stacks_here()

    async def close(self) -> None:
        """Ends workers and sandbox."""
        await asyncio.to_thread(self._service.close)
