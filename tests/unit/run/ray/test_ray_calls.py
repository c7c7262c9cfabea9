"""What the handles send to actors: arguments that are shared, and one item without a stream. No Ray."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rlvr.config.recipe import Recipe
from rlvr.errors import RlvrError
from rlvr.protocols import LoadReceipt
from rlvr.records import Transport
from rlvr.run.ray import calls
from rlvr.run.ray.calls import PutOnce
from rlvr.run.ray.streams import in_bunches
from rlvr.run.ray.watch import WaitBoard
from rlvr.run.ray.weight_files import WeightSource
from rlvr.run.ray.workers import verifier_handle
from rlvr.run.ray.workers.engine_handle import EngineHandle
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts
from rlvr.run.ray.workers.verifier_handle import VerifierHandle
from tests.unit.run.ray.fleets.fleet_engines import weights
from tests.unit.run.ray.fleets.test_ray_verifiers import pairs


class Method:
    """An actor's method that answers with what `answer` makes of its arguments."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def remote(self, *arguments: Any) -> Any:
        return self._answer(*arguments)


class Actor:
    """An actor with these methods."""

    class _actor_id:  # noqa: N801 - Ray's name
        @staticmethod
        def hex() -> str:
            return "00"

    def __init__(self, **methods: Any) -> None:
        for name, answer in methods.items():
            setattr(self, name, Method(answer))


def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "name": "calls",
            "model": {"tiny": {"layers": 1, "hidden_size": 16, "heads": 2, "characters": "01"}},
            "data": {"train": [{"source": "generator:sort_digits", "template": "plain", "verifier": "text_match"}]},
            "rollout": {"engine": "toy"},
        }
    )


def test_engines_of_a_fleet_share_the_reference_to_the_weights_that_ray_pickles(monkeypatch: pytest.MonkeyPatch):
    puts: list[Any] = []
    monkeypatch.setattr(calls.ray, "put", lambda value: puts.append(value) or f"object {len(puts)}")
    got: list[Any] = []

    def load(shared: Any, *_: Any) -> LoadReceipt:
        got.append(shared)
        return LoadReceipt(policy_version=0)

    shared = PutOnce()
    handles = [
        EngineHandle(
            Actor(load_weights=load),
            engine_id=f"engine-{i}",
            recipe=recipe(),
            source=WeightSource(actor=None, node_id=""),
            board=WaitBoard(),
            weights=shared,
        )
        for i in range(3)
    ]

    async def whole() -> None:
        for ref in (first, second):
            for handle in handles:
                await handle.load_weights(ref)

    first, second = weights(1), weights(2)
    assert first.transport is Transport.FILE
    asyncio.run(whole())
    assert puts == [first, second]
    assert got == ["object 1"] * 3 + ["object 2"] * 3


def test_one_item_is_verified_without_a_stream():
    prompt, completion = pairs(1)[0]
    item = Item(number=7, prompt=prompt, completion=completion, settled={})
    actor = Actor(verify_one=lambda item: ItemVerdicts(number=item.number, verdicts={}))
    handle = VerifierHandle(actor, name="verifier-0", recipe=recipe(), board=WaitBoard())

    async def whole() -> list[ItemVerdicts]:
        return [found async for found in handle.verify([item])]

    assert asyncio.run(whole()) == [ItemVerdicts(number=7, verdicts={})]


def test_a_pool_that_does_not_close_in_order_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch):
    ended: list[Any] = []
    monkeypatch.setattr(verifier_handle, "end_actor", ended.append)

    def close() -> None:
        raise OSError("the pipe is closed")

    actor = Actor(close=close)
    handle = VerifierHandle(actor, name="verifier-0", recipe=recipe(), board=WaitBoard())
    with pytest.raises(OSError, match="the pipe is closed"):
        asyncio.run(handle.kill())
    assert ended == [actor]


def test_the_reader_of_a_stream_does_not_wait_for_a_source_that_was_cancelled():
    async def source() -> AsyncIterator[int]:
        yield 1
        request = asyncio.create_task(asyncio.sleep(10))
        request.cancel()
        await request

    async def whole() -> None:
        async with asyncio.timeout(2):
            bunches = in_bunches(source())
            assert await anext(bunches) == [1]
            with pytest.raises(RlvrError, match="was cancelled"):
                await anext(bunches)

    asyncio.run(whole())
