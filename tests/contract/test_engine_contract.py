"""Each clause of `check_engine` catches an engine that breaks it; the engines of rlvr keep them all."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.config.recipe import EngineDtype
from rlvr.contracts import check_engine, engine_generation, engine_trial, engines
from rlvr.errors import RolloutError
from rlvr.models.policy import build_tiny
from rlvr.plugin import EmptyConfig
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt, Sampling
from rlvr.records import Completion, FinishReason, Transport, WeightsRef
from rlvr.rollout.context import EngineContext
from rlvr.rollout.transformers_engine import TransformersEngine

Requests = Sequence[GenerationRequest]
Rows = Sequence[Sequence[int]]
Change = Callable[[Completion], Completion]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uniform(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """A sound engine without weights."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "outside"))
    from rlvr_outside.engine import UniformEngine  # type: ignore[import-not-found]

    return UniformEngine


@pytest.mark.parametrize("engine", ["toy", "transformers", "plugin"])
def test_sound_engines_keep_the_contract(engine: str) -> None:
    assert check_engine(Sound if engine == "plugin" else engine) == []


def test_the_shape_comes_first() -> None:
    class Empty:
        pass

    found = check_engine(Empty)
    assert found[0] == "Config=None is no pydantic model"
    assert "there is no method load_weights" in found

    class Raises(Empty):
        Config = EmptyConfig
        generate = load_weights = score = health = close = lambda self: None

        def __init__(self, config: EmptyConfig, context: EngineContext) -> None:
            raise KeyError("no GPU")

    assert "constructor (weights by file): raised KeyError: 'no GPU'" in check_engine(Raises)


def _longer(completion: Completion) -> Completion:
    extra = 20
    return replace(
        completion,
        token_ids=completion.token_ids + (9,) * extra,
        logprobs=completion.logprobs + (-1.0,) * extra,
        sampled_mask=completion.sampled_mask + (True,) * extra,
        policy_versions=completion.policy_versions + completion.policy_versions[:1] * extra,
    )


def _every(field: str, value: Any) -> Change:
    return lambda c: replace(c, **{field: (value,) * len(c.token_ids)})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_longer, "generate: max_tokens=7 gave"),
        (_every("token_ids", 10**6), "generate: a token is outside the vocabulary"),
        (_every("logprobs", float("nan")), "generate: a log-prob is not finite, or above 0"),
        (_every("logprobs", 0.5), "generate: a log-prob is not finite, or above 0"),
        (_every("sampled_mask", False), "generate: sampled_mask is not True"),
        (_every("policy_versions", 7), "generate: policy_versions are [7], and version 0 is"),
        (lambda c: replace(c, text=c.text + "!"), "generate: text is"),
        (lambda c: replace(c, sample_index=c.sample_index + 1), "generate: sample_index is"),
        (lambda c: replace(c, prompt_token_ids=(1,)), "generate: prompt_token_ids is"),
        (lambda c: replace(c, completion_id="x"), "generate: 13 requests gave 13 completions, or"),
        (lambda c: replace(c, finish_reason=FinishReason.STOP), "finish_reason is stop and not le"),
        (lambda c: replace(c, finish_reason=FinishReason.LENGTH), "finish_reason is length and no"),
        (lambda c: replace(c, finish_reason=FinishReason.ABORT), "finish_reason is abort, long b"),
    ],
)
def test_a_wrong_completion_is_caught(uniform: type[Any], change: Change, problem: str) -> None:
    class Faulty(uniform):
        def _complete(self, request: GenerationRequest) -> Completion:
            return change(super()._complete(request))

    found = check_engine(Faulty)
    assert any(problem in line for line in found), found


def _with(request: GenerationRequest, **sampling: Any) -> GenerationRequest:
    return replace(request, sampling=replace(request.sampling, **sampling))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: _with(r, stop_token_ids=()), "stops: it goes on after a stop"),
        (lambda r: _with(r, stop_strings=()), "stops: it goes on after a stop"),
        (lambda r: _with(r, max_tokens=max(1, r.sampling.max_tokens - 1)), "without a stop"),
        (lambda r: replace(r, seed=0), "seeds: 12 seeds gave 1 completions"),
        (lambda r: replace(r, seed=random.getrandbits(32)), "seeds: equal seeds gave other"),
    ],
)
def test_a_wrong_use_of_the_request_is_caught(
    uniform: type[Any], change: Callable[[GenerationRequest], GenerationRequest], problem: str
) -> None:
    class Faulty(uniform):
        def _complete(self, request: GenerationRequest) -> Completion:
            return super()._complete(change(request))

    found = check_engine(Faulty)
    assert any(problem in line for line in found), found


def test_draws_that_depend_on_the_batch_are_caught_unless_the_engine_says_so(
    uniform: type[Any],
) -> None:
    class Faulty(uniform):
        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            mixed = [replace(r, seed=r.seed + 1000 * len(requests)) for r in requests]
            async for completion in super().generate(mixed):
                yield completion

    class Honest(Faulty):
        is_deterministic = False

    found = check_engine(Faulty)
    assert any("equal seeds gave another completion in another batch" in line for line in found)
    assert check_engine(Honest) == []


def test_a_lost_completion_and_a_hang_are_caught(uniform: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_trial, "DEADLINE_S", 0.2)

    class Loses(uniform):
        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            async for completion in super().generate(requests[1:]):
                yield completion

    class Hangs(uniform):
        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            await asyncio.sleep(100)
            yield self._complete(requests[0])

    assert "generate: 13 requests gave 12 completions, or others than asked for" in check_engine(Loses)
    assert check_engine(Hangs) == ["generate: hangs; nothing that comes after it was checked"]


def test_wrong_health_is_caught(uniform: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_generation, "_ANSWER_S", 0.1)
    monkeypatch.setattr(engine_trial, "DEADLINE_S", 2.0)

    class Says(uniform):
        says: EngineHealth

        async def health(self) -> EngineHealth:
            return self.says

    class Broken(Says):
        says = EngineHealth(is_healthy=False, policy_version=5, num_open_requests=3, detail="ill")

    class Waits(uniform):
        async def health(self) -> EngineHealth:
            while self._num_open:
                await asyncio.sleep(0.2)
            return await super().health()

        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            self._num_open += 1
            await asyncio.sleep(0.3)
            self._num_open -= 1
            async for completion in super().generate(requests):
                yield completion

    found = check_engine(Broken)
    assert "health: is_healthy is False: 'ill'" in found
    assert "health: policy_version is 5 and not 0" in found
    assert "health: num_open_requests is 3 with nothing open" in found
    assert "load_weights: health says version 5 after a load of 1" in found
    assert "health: no answer within 0.1 s while it generates" in check_engine(Waits)


def test_a_cancelled_caller_that_takes_others_with_it_is_caught(
    uniform: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_trial, "DEADLINE_S", 2.0)

    class Faulty(uniform):
        num_cancelled = 0

        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                type(self).num_cancelled += 1
                raise
            if self.num_cancelled:
                return
            async for completion in super().generate(requests):
                yield completion

    found = check_engine(Faulty)
    assert "cancellation: the other caller got 0 of 12 completions" in found
    assert "cancellation: afterwards 0 of 3 requests are answered" in found


def test_a_load_that_is_not_followed_is_caught(uniform: type[Any]) -> None:
    class Forgets(uniform):
        async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
            return LoadReceipt(policy_version=0)

        async def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
            return [[-1.0] * len(row) for row in rows]

    found = check_engine(Forgets)
    assert "load_weights: the receipt is of version 0, not 1" in found
    assert "load_weights: the receipt has has_weights=True; the engine's is False" in found
    assert "load_weights: completions after a load of version 1 are of [0]" in found
    assert any("score must give one log-prob for each token" in line for line in found)


def test_a_load_that_drops_open_requests_or_blurs_versions_is_caught(uniform: type[Any]) -> None:
    class Drops(uniform):
        num_loads = 0

        async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
            self.num_loads += 1
            return await super().load_weights(ref, canary=canary)

        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            began = self.num_loads
            async for completion in super().generate(requests):
                if self.num_loads == began:
                    yield completion

    class Blurs(uniform):
        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            began = self._version
            async for completion in super().generate(requests):
                blurred = self._version != began
                count = len(completion.token_ids)
                yield replace(completion, policy_versions=(99,) * count) if blurred else completion

    found = check_engine(Drops)
    assert any(line.startswith("load while generating: ") and "are answered" in line for line in found)
    assert any("policy_versions of an open request are [99" in line for line in check_engine(Blurs))


def test_a_bad_end_is_caught(uniform: type[Any]) -> None:
    class Twice(uniform):
        async def close(self) -> None:
            if self._is_closed:
                raise ValueError("closed")
            self._is_closed = True

    class Goes(uniform):
        async def close(self) -> None:
            return

    class Raises(uniform):
        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            try:
                async for completion in super().generate(requests):
                    yield completion
            except RolloutError as error:
                raise ValueError("closed") from error

    assert "close: a second close raised ValueError: closed" in check_engine(Twice)
    assert "close: a closed engine still generates; it must raise RolloutError" in check_engine(Goes)
    found = check_engine(Raises)
    assert "close: an open request fails with ValueError and not RolloutError" in found
    assert "close: a closed engine raises ValueError and not RolloutError" in found


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


class Another(Sound):
    """Begins with a model of its own."""

    def __init__(self, config: EmptyConfig, context: EngineContext) -> None:
        super().__init__(config, replace(context, policy=build_tiny(engine_trial.MODEL, seed=9)))


def _at(temperature: Callable[[Sampling], float]) -> type[Sound]:
    class Resampled(Sound):
        """Samples at another temperature than asked for, and reports its log-probs."""

        def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            return super().generate([_with(r, temperature=temperature(r.sampling)) for r in requests])

    return Resampled


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        (Stale, "score does not give the log-probs of the weights that were sent last"),
        (Stale, "the receipt's canary_logprobs are not those of the weights that were sent"),
        (Silent, "the receipt's checksums differ from the manifest at"),
        (Silent, "the receipt's canary_logprobs are not those of the weights that were sent"),
        (Credulous, "is not noticed; compare checksums"),
        (Another, "before its first load it must compute with the policy"),
        (_at(lambda s: 1.0), "at temperature 0.5 log-probs begin"),
        (_at(lambda s: s.temperature or 1.0), "temperature 0 takes a token that is not the likel"),
    ],
)
def test_wrong_weights_are_caught(engine: type[Sound], problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_transports", lambda traits: [Transport.IN_PLACE_COPY])
    found = check_engine(engine)
    assert any(problem in line for line in found), found
