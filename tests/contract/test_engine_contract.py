"""Each clause of `check_engine` catches an engine that breaks it; the engines of rlvr keep them all."""

import asyncio
import inspect
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.contracts import check_engine, engine_generation, engine_trial
from rlvr.errors import RolloutError
from rlvr.plugin import EmptyConfig
from rlvr.protocols import EngineHealth, GenerationRequest, LoadReceipt
from rlvr.records import Completion, FinishReason, WeightsRef
from rlvr.rollout.context import EngineContext

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


def test_a_built_in_engine_has_no_settings() -> None:
    assert check_engine("toy", settings={"max_batch": 8}) == [
        "settings={'max_batch': 8}: toy has none; other keys of rollout configure it"
    ]


@pytest.mark.parametrize("engine", ["toy", "transformers"])
def test_built_in_engines_keep_the_contract(engine: str) -> None:
    assert check_engine(engine) == []


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


def test_draws_that_depend_on_the_batch_are_caught_unless_the_engine_says_so(uniform: type[Any]) -> None:
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


def test_an_optional_start_is_seen_without_getattr(uniform: type[Any]) -> None:
    """As by isinstance with a Protocol from Python 3.12 on; the engine would be used without having been started."""

    class Started(uniform):
        async def start(self) -> None: ...

    engine = Started.__new__(Started)
    assert inspect.getattr_static(engine_trial.WatchedEngine(engine), "start", None) is not None
    assert not hasattr(engine_trial.WatchedEngine(uniform.__new__(uniform)), "start")


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
    assert check_engine(Hangs) == [
        "generate: `generate` did not return within 0.2 s; what comes after it was not checked"
    ]


def test_an_engine_that_never_returns_is_named_with_the_method(
    uniform: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_trial, "DEADLINE_S", 0.3)
    monkeypatch.setattr(engine_trial, "START_DEADLINE_S", 0.4)
    monkeypatch.setattr(engine_trial, "GRACE_S", 0.1)

    class Born(uniform):
        def __init__(self, config: Any, context: EngineContext) -> None:
            time.sleep(2)

    class Started(uniform):
        async def start(self) -> None:
            await asyncio.sleep(100)

    class Loads(uniform):
        async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
            await asyncio.sleep(100)
            raise AssertionError

    class Stubborn(uniform):
        async def load_weights(self, ref: WeightsRef, *, canary: Rows = ()) -> LoadReceipt:
            while ref.policy_version > 0:
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    continue
            return await super().load_weights(ref, canary=canary)

    class Blocks(uniform):
        async def score(self, rows: Rows) -> list[list[float]]:
            time.sleep(2)
            return await super().score(rows)

    class Closes(uniform):
        async def close(self) -> None:
            await asyncio.sleep(100)

    async def within_a_loop(engine: type[Any]) -> list[str]:
        return check_engine(engine)

    rest = "what comes after it was not checked"
    no_reaction = f"blocks its thread and reacts to no cancellation; {rest}"
    assert check_engine(Born) == [f"constructor: `__init__` {no_reaction}"]
    assert check_engine(Started) == [f"start: `start` did not return within 0.4 s; {rest}"]
    assert check_engine(Loads) == [f"start: `load_weights` did not return within 0.4 s; {rest}"]
    assert check_engine(Stubborn) == [f"load_weights: `load_weights` did not return within 0.3 s; {rest}"]
    assert check_engine(Blocks) == [f"load_weights: `score` {no_reaction}"]
    assert asyncio.run(within_a_loop(Closes)) == [f"close: `close` did not return within 0.3 s; {rest}"]


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


def test_requests_that_stay_open_after_a_cancellation_are_caught(
    uniform: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_generation, "_ANSWER_S", 0.1)

    class Leaks(uniform):
        async def generate(self, requests: Requests) -> AsyncIterator[Completion]:
            self._num_open += len(requests)
            async for completion in super().generate(requests):
                yield completion
            self._num_open -= len(requests)

    found = check_engine(Leaks)
    assert any(line.startswith("cancellation: num_open_requests is still ") for line in found), found


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
