"""The calls with which a vLLM engine wakes for a load: weights first, the key-value cache after the load."""

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr.errors import RolloutError
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.rollout.vllm import adapter
from rlvr.rollout.vllm.engine import VllmEngine


@pytest.fixture(autouse=True)
def _without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes half a minute, and nothing here needs it."""
    monkeypatch.setattr(adapter, "update_request", lambda path: path)


REF = WeightsRef(
    policy_version=1,
    kind=WeightsKind.FULL,
    transport=Transport.FILE,
    uri="/nowhere/v1.safetensors",
    dtype="bfloat16",
    manifest=(TensorEntry(name="w", shape=(1,), checksum=7),),
)


class Core:
    """Notes the calls that vLLM would get; `fails` is one that raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.fails = ""

    async def start(self) -> None: ...

    def trouble(self) -> str:
        return ""

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        name = str(args[0]) if method == "collective_rpc" else method
        self.calls.append((name, kwargs))
        if name == self.fails:
            raise RolloutError(f"vLLM's {name} failed")
        if name == "rlvr_map":
            return [""]
        if name == "rlvr_received":
            return [({"w": 7}, "")]
        return [0] if name == "rlvr_used_bytes" else None

    def names(self) -> list[str]:
        """The methods called since the last time, with the tags of `wake_up`."""
        calls, self.calls = self.calls, []
        return [f"wake_up {kwargs.get('tags')}" if name == "wake_up" else name for name, kwargs in calls]


def engine_on(core: Core, *, is_cpu: bool) -> VllmEngine:
    settings: Any = SimpleNamespace(lora=None, is_cpu=is_cpu, weight_shapes={"w": (1,)}, engine_id="e", run="r")
    engine = VllmEngine(settings, text=SimpleNamespace(tokenizer=None), architecture=None)  # type: ignore[arg-type]
    engine._core = core  # type: ignore[assignment] # a stand-in
    engine._inspect = inspected  # type: ignore[method-assign] # there is no file
    engine._score = no_scores  # type: ignore[method-assign] # it imports vLLM, as an update request does
    return engine


async def inspected(*_: object, **__: object) -> Any:
    return SimpleNamespace(checksums={"w": 7}, problems=(), file_id=(1, 2))


async def no_scores(_: object) -> list[list[float]]:
    return []


LOAD = ["start_weight_update", "update_weights", "finish_weight_update", "rlvr_repack", "rlvr_received"]


def test_after_a_deep_sleep_the_cache_gets_its_memory_only_when_the_weights_are_loaded():
    async def scenario() -> None:
        core = Core()
        engine = engine_on(core, is_cpu=False)
        await engine.load_weights(REF)
        await engine.sleep()
        core.names()
        await engine.wake()
        await engine.load_weights(REF)
        assert core.names() == [
            "wake_up ['weights']", "rlvr_map", "pause_generation", *LOAD,
            "update_weight_version", "wake_up ['kv_cache']", "resume_generation",
        ]  # fmt: skip
        await engine.load_weights(REF)
        assert "wake_up ['kv_cache']" not in core.names()

    asyncio.run(scenario())


def test_an_engine_without_a_cache_does_not_resume_after_a_load_that_failed():
    async def scenario() -> None:
        core = Core()
        engine = engine_on(core, is_cpu=False)
        await engine.load_weights(REF)
        await engine.sleep()
        await engine.wake()
        core.names()
        core.fails = "pause_generation"
        with pytest.raises(RolloutError, match="pause_generation failed"):
            await engine.load_weights(REF)
        assert core.names() == ["rlvr_map", "pause_generation"]
        core.fails = ""
        await engine.load_weights(REF)
        assert core.names()[-2:] == ["wake_up ['kv_cache']", "resume_generation"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("is_cpu", "level"), [(True, 2), (False, 1)])
def test_an_engine_that_kept_its_weights_wakes_at_once(*, is_cpu: bool, level: int):
    async def scenario() -> None:
        core = Core()
        engine = engine_on(core, is_cpu=is_cpu)
        core.memory_bytes = lambda: 0  # type: ignore[attr-defined] # asked on a CPU
        await engine.load_weights(REF)
        await engine.sleep(level=level)
        core.names()
        await engine.wake()
        assert core.names() == ["wake_up None"]

    asyncio.run(scenario())
