"""An actor that verifies on its node, with verifier workers and a sandbox there."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence

import ray

from rlvr.config.recipe import Recipe
from rlvr.records import Check
from rlvr.registry import PluginSource
from rlvr.run.ray.streams import in_bunches
from rlvr.run.ray.watch import stacks_here
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts
from rlvr.verification.service import VerifierService


@ray.remote(num_cpus=0, max_concurrency=1000)  # type: ignore # Ray's stub wants every option
class VerifierActor:
    """Runs in an async actor; the work happens in worker processes and sandboxes."""

    def __init__(self, recipe: Recipe, sources: Mapping[str, PluginSource]) -> None:
        """Args: sources: single-file verifiers with their text, by their name in the recipe."""
        self._service = VerifierService(
            recipe.reward.verifier_workers,
            recipe.reward.verifier_deadline_s,
            sandbox=(recipe.sandbox.backend, recipe.sandbox.settings),
            sources=sources,
        )

    async def start(self, checks: Sequence[Check]) -> str:
        """Builds every verifier, starts the sandbox and runs its self-test; returns the node and process."""
        await asyncio.to_thread(self._service.preflight, checks)
        return f"node {ray.util.get_node_ip_address()}, process {os.getpid()}"

    async def verify(self, items: Sequence[Item]) -> AsyncIterator[list[ItemVerdicts]]:
        """Verdicts as they are reached, in bunches."""

        async def each() -> AsyncIterator[ItemVerdicts]:
            for done in asyncio.as_completed([self._judged(item) for item in items]):
                yield await done

        async for bunch in in_bunches(each()):
            yield bunch

    async def verify_one(self, item: Item) -> ItemVerdicts:
        """The verdicts on one item, without a stream."""
        return await self._judged(item)

    async def health(self) -> None:
        """Answers."""

    async def stacks(self) -> str:
        """The stacks of this process's threads."""
        return stacks_here()

    async def close(self) -> None:
        """Ends workers and sandbox."""
        await asyncio.to_thread(self._service.close)

    async def _judged(self, item: Item) -> ItemVerdicts:
        verdicts = await self._service.verify(item.prompt, item.completion, settled=dict(item.settled))
        return ItemVerdicts(number=item.number, verdicts=verdicts)
