"""An engine without a model, for tests of everything around it: tokens are drawn uniformly from the vocabulary.

Its log-probs are exact (-log V at every token), so the learner's mathematics holds; it cannot learn.
"""

import math
from collections.abc import AsyncIterator, Sequence

from rlvr.models.policy import PolicyText
from rlvr.models.prompting import decode, stop_text
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, FinishReason, WeightsRef
from rlvr.rollout.decode import ends_with_stop, uniforms
from rlvr.rollout.waves import Emit, WaveScheduler


class ToyEngine:
    """Uniform tokens, seeded like in any other engine; ends at a stop token or the limit."""

    def __init__(self, text: PolicyText) -> None:
        self._text = text
        self._vocab_size = len(text.tokenizer)
        self._version = 0
        self._waves = WaveScheduler(self._run_wave, name="rlvr-toy-engine")

    def generate(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """Yields completions in the order of the requests."""
        return self._waves.generate(requests)

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        """Sets the version after earlier waves; there are no weights, and so no canary."""
        return await self._waves.call(lambda: self._load(ref))

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """-log V at every token but the first."""
        return await self._waves.call(lambda: [[-math.log(self._vocab_size)] * (len(row) - 1) for row in rows])

    async def health(self) -> EngineHealth:
        """Always healthy."""
        return EngineHealth(is_healthy=True, policy_version=self._version, num_open_requests=self._waves.num_open)

    async def close(self) -> None:
        """Ends the engine's thread."""
        self._waves.close()

    def _load(self, ref: WeightsRef) -> LoadReceipt:
        self._version = ref.policy_version
        return LoadReceipt(policy_version=ref.policy_version, has_weights=False)

    def _run_wave(self, requests: Sequence[GenerationRequest], emit: Emit) -> None:
        for request in requests:
            token_ids: list[int] = []
            ends = {*self._text.stop_token_ids, *request.sampling.stop_token_ids}
            reason = FinishReason.LENGTH
            for u in uniforms(request.seed, request.sampling.max_tokens):
                token_ids.append(min(int(u * self._vocab_size), self._vocab_size - 1))
                if token_ids[-1] in ends or ends_with_stop(token_ids, request.sampling.stop_strings, self._stop_text):
                    reason = FinishReason.STOP
                    break
            count = len(token_ids)
            emit(
                Completion(
                    completion_id=request.request_id,
                    prompt_id=request.prompt_id,
                    sample_index=request.sample_index,
                    prompt_token_ids=request.prefix_token_ids,
                    token_ids=tuple(token_ids),
                    logprobs=(-math.log(self._vocab_size),) * count,
                    sampled_mask=(True,) * count,
                    text=decode(token_ids, self._text.tokenizer),
                    finish_reason=reason,
                    policy_versions=(self._version,) * count,
                )
            )

    def _stop_text(self, token_ids: Sequence[int]) -> str:
        return stop_text(token_ids, self._text.tokenizer)
