"""The numbers of engines and verifier pools, counted in their actors."""

import logging
import time
from collections.abc import AsyncIterator, Sequence

from rlvr.records import Completion, WeightsRef
from rlvr.run.record.telemetry import watch_pool
from rlvr.telemetry import logs
from rlvr.telemetry.process import METERS
from rlvr.verification.service import VerifierService

logger = logging.getLogger(__name__)


class EngineMeter:
    """Counts what an engine does. Its policy version is also the step that the actor's log records carry."""

    def __init__(self, engine_id: str) -> None:
        self._engine = engine_id
        for name in ("engine_open_requests", "engine_generated_tokens_total", "engine_completions_total"):
            METERS.set(name, 0.0, engine=engine_id)

    async def generated(
        self, completions: AsyncIterator[Completion], *, num_requests: int
    ) -> AsyncIterator[Completion]:
        """The same completions; while they are awaited, their requests count as open."""
        left = num_requests
        METERS.add("engine_open_requests", left, engine=self._engine)
        try:
            async for completion in completions:
                left -= 1
                METERS.add("engine_open_requests", -1.0, engine=self._engine)
                METERS.add("engine_completions_total", engine=self._engine)
                METERS.add("engine_generated_tokens_total", len(completion.token_ids), engine=self._engine)
                yield completion
        finally:
            METERS.add("engine_open_requests", -left, engine=self._engine)

    def loaded(self, ref: WeightsRef, *, start: float) -> None:
        """Takes note of a load of weights, unless they are a trial. Args: start: of the load, in monotonic seconds."""
        if ref.policy_version < 0:
            return
        METERS.set("engine_policy_version", ref.policy_version, engine=self._engine)
        METERS.set("engine_last_sync_seconds", time.monotonic() - start, engine=self._engine)
        METERS.add("engine_syncs_total", engine=self._engine)
        logs.set_step(ref.policy_version)
        logger.info("holds the weights of version %d after %.3g s", ref.policy_version, time.monotonic() - start)


class PoolMeter:
    """Counts what a pool of verifiers does."""

    def __init__(self, pool: str, service: VerifierService, *, num_workers: int) -> None:
        self._pool = pool
        watch_pool(pool, service, num_workers=num_workers)
        METERS.set("verifier_pool_open_items", 0.0, pool=pool)

    def took(self, completions: Sequence[Completion]) -> None:
        """Takes note of items that have arrived."""
        METERS.add("verifier_pool_open_items", len(completions), pool=self._pool)
        logs.set_step(max((v for c in completions for v in c.policy_versions), default=-1))

    def gave(self, count: int = 1) -> None:
        """Takes note of items that are answered, or given up."""
        METERS.add("verifier_pool_open_items", -count, pool=self._pool)
