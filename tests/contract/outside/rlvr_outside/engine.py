"""A rollout engine without weights: each token is drawn uniformly from the vocabulary."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Sequence

from pydantic import BaseModel, ConfigDict

from rlvr.errors import RolloutError
from rlvr.models.prompting import decode, stop_text
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, FinishReason, WeightsRef
from rlvr.rollout.context import EngineContext


class UniformEngine:
    """Completions one by one, in the run's event loop."""

    has_weights = False

    class Config(BaseModel):
        """max_batch: completions between two turns of the event loop."""

        model_config = ConfigDict(extra="forbid", frozen=True)
        max_batch: int = 8

    def __init__(self, config: Config, context: EngineContext) -> None:
        self._config = config
        self._text = context.text
        self._version = 0
        self._num_open = 0
        self._is_closed = False

    async def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields completions in the order of the requests. Raises RolloutError when it is closed."""
        num_left = len(requests)
        self._num_open += num_left
        try:
            for index, request in enumerate(requests):
                if index % self._config.max_batch == 0:
                    await asyncio.sleep(0)
                if self._is_closed:
                    raise RolloutError("the engine is closed")
                num_left -= 1
                self._num_open -= 1
                yield self._complete(request)
        finally:
            self._num_open -= num_left

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Notes the version."""
        self._version = ref.policy_version
        return LoadReceipt(policy_version=ref.policy_version, has_weights=False)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """-log V at every token but the first."""
        return [[self._logprob] * (len(row) - 1) for row in rows]

    async def health(self) -> EngineHealth:
        """Healthy until it is closed."""
        return EngineHealth(
            is_healthy=not self._is_closed, policy_version=self._version, num_open_requests=self._num_open
        )

    async def close(self) -> None:
        """Open requests fail."""
        self._is_closed = True

    @property
    def _logprob(self) -> float:
        return -math.log(len(self._text.tokenizer))

    def _complete(self, request: GenerationRequest) -> Completion:
        draw = random.Random(request.seed)
        sampling = request.sampling
        ends = {*self._text.stop_token_ids, *sampling.stop_token_ids}
        ids: list[int] = []
        reason = FinishReason.LENGTH
        while len(ids) < sampling.max_tokens and reason is FinishReason.LENGTH:
            ids.append(draw.randrange(len(self._text.tokenizer)))
            text = stop_text(ids, self._text.tokenizer)
            if ids[-1] in ends or any(stop in text for stop in sampling.stop_strings):
                reason = FinishReason.STOP
        return Completion(
            completion_id=request.request_id,
            prompt_id=request.prompt_id,
            sample_index=request.sample_index,
            prompt_token_ids=request.prefix_token_ids,
            token_ids=tuple(ids),
            logprobs=(self._logprob,) * len(ids),
            sampled_mask=(True,) * len(ids),
            text=decode(ids, self._text.tokenizer),
            finish_reason=reason,
            policy_versions=(self._version,) * len(ids),
        )
