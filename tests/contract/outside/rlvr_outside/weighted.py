"""A rollout engine with weights of its own, which arrive as a file where it runs behind Ray."""

from collections.abc import AsyncIterator, Sequence

from pydantic import BaseModel, ConfigDict

from rlvr.config.recipe import EngineDtype
from rlvr.errors import RolloutError
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, WeightsRef
from rlvr.rollout.context import EngineContext
from rlvr.rollout.transformers_engine import TransformersEngine


class WeightedEngine:
    """Lets the transformers engine compute, on a float32 copy of the policy."""

    class Config(BaseModel):
        """max_batch: completions that are decoded at once."""

        model_config = ConfigDict(extra="forbid", frozen=True)
        max_batch: int = 8

    def __init__(self, config: Config, context: EngineContext) -> None:
        if context.policy is None:
            raise RolloutError("the policy is needed in the engine's process")
        self._inner = TransformersEngine(
            context.policy,
            engine_dtype=EngineDtype.FLOAT32,
            autocast=context.has_autocast,
            max_batch_rows=config.max_batch,
            engine_id=context.engine_id,
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields each completion as it finishes."""
        return self._inner.generate(requests)

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Loads what the learner published; the receipt has its checksums and the log-probs of the canary."""
        return await self._inner.load_weights(ref, canary=canary)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of each row's tokens but the first."""
        return await self._inner.score(rows)

    async def health(self) -> EngineHealth:
        """The version that it serves, and how many requests are open."""
        return await self._inner.health()

    async def close(self) -> None:
        """Ends the engine's thread."""
        await self._inner.close()
