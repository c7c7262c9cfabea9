"""The clauses of `check_engine` about weights catch each engine that breaks them."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from rlvr.config.recipe import EngineDtype
from rlvr.contracts import check_engine, engine_trial, engines
from rlvr.errors import RolloutError
from rlvr.models.policy import build_tiny
from rlvr.plugin import EmptyConfig
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt, Sampling
from rlvr.records import Completion, Transport, WeightsRef
from rlvr.rollout.context import EngineContext
from rlvr.rollout.transformers_engine import TransformersEngine

Requests = Sequence[GenerationRequest]
Rows = Sequence[Sequence[int]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Sound:
    """The transformers engine as a plugin would hold it, on a copy of the weights."""

    Config = EmptyConfig

    def __init__(self, config: EmptyConfig, context: EngineContext) -> None:
        assert context.policy is not None
        self.engine = TransformersEngine(
            context.policy, engine_dtype=EngineDtype.FLOAT32, autocast=False, max_batch_rows=64
        )

    def generate(self, requests: Requests) -> AsyncIterator[Completion]:
        return self.engine.generate(requests)

    async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
        return await self.engine.load_weights(ref, canary=canary)

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self.engine.score(rows)

    async def health(self) -> EngineHealth:
        return await self.engine.health()

    async def close(self) -> None:
        await self.engine.close()


class Stale(Sound):
    """Says what it should, and keeps its first weights."""

    async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
        self.engine._version = ref.policy_version
        return LoadReceipt(
            policy_version=ref.policy_version,
            checksums={entry.name: entry.checksum for entry in ref.manifest},
            canary_logprobs=tuple(map(tuple, await self.score(canary))),
        )


class Silent(Sound):
    """Loads, and says nothing of it."""

    async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
        receipt = await super().load_weights(ref, canary=canary)
        return replace(receipt, checksums={}, canary_logprobs=())


class Credulous(Sound):
    """Takes what comes, and repeats the manifest."""

    async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
        try:
            return await super().load_weights(ref, canary=canary)
        except RolloutError:
            sent = {entry.name: entry.checksum for entry in ref.manifest}
            return LoadReceipt(policy_version=ref.policy_version, checksums=sent)


class Writes(Sound):
    """Rounds the learner's own tensors."""

    def __init__(self, config: EmptyConfig, context: EngineContext) -> None:
        super().__init__(config, context)
        self.given = context.policy

    async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        assert self.given is not None
        with torch.no_grad():
            for weight in self.given.model.parameters():
                weight.copy_(weight.bfloat16())
        return await super().score(rows)


class Another(Sound):
    """Begins with a model of its own."""

    def __init__(self, config: EmptyConfig, context: EngineContext) -> None:
        super().__init__(config, replace(context, policy=build_tiny(engine_trial.MODEL, seed=9)))


def _at(temperature: Callable[[Sampling], float]) -> type[Sound]:
    class Resampled(Sound):
        """Samples at another temperature than asked for, and reports its log-probs."""

        def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            return super().generate(
                [replace(r, sampling=replace(r.sampling, temperature=temperature(r.sampling))) for r in requests]
            )

    return Resampled


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        (Stale, "score does not give the log-probs of the weights that were sent last"),
        (Stale, "the receipt's canary_logprobs are not those of the weights that were sent"),
        (Silent, "the receipt's checksums differ from the manifest at"),
        (Silent, "the receipt's canary_logprobs are not those of the weights that were sent"),
        (Credulous, "is not noticed; compare checksums"),
        (Writes, "it writes to the tensors of context.policy, which are the learner's; copy them first"),
        (Another, "before its first load it must compute with the policy"),
        (_at(lambda s: 1.0), "at temperature 0.5 log-probs begin"),
        (_at(lambda s: s.temperature or 1.0), "temperature 0 takes a token that is not the likel"),
    ],
)
def test_wrong_weights_are_caught(engine: type[Sound], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_transports", lambda traits: [Transport.IN_PLACE_COPY])
    found = check_engine(engine)
    assert any(problem in line for line in found), found


def test_a_sound_plugin_keeps_the_contract() -> None:
    assert check_engine(Sound) == []
