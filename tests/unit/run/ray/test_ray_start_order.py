"""The order in which colocated workers start, sleep and wake, and what each is given. Fakes, no Ray cluster."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError, LearnerError
from rlvr.records import Transport

pytest.importorskip("ray")
from rlvr.run.ray import backend as backend_module
from rlvr.run.ray.backend import RayBackend, start_workers
from rlvr.run.ray.bundles import plan_bundles
from rlvr.run.ray.nodes.hosts import Host, Hosts
from rlvr.run.ray.workers import learner_actor, rank_host
from rlvr.run.ray.workers.engine_actor import EngineActor
from rlvr.run.ray.workers.learner_actor import DriverThreads, LearnerActor, threads_here
from rlvr.run.ray.workers.learner_handle import watch_download


def recipe(**cluster: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"tiny": {}},
            "data": {"train": [{"source": "x.jsonl", "verifier": "text_match"}]},
            "rollout": {"engine": "vllm"},
            "cluster": {"backend": "ray", **cluster},
        }
    )


PLAN = plan_bundles(recipe(placement="colocated"), num_gpus=1)


class Log(list[str]):
    """What happened, in order; `part` is an object whose `start` takes several turns of the loop."""

    async def started(self, name: str, **options: bool) -> None:
        self.append(f"{name} starts{' one by one' if options.get('one_by_one') else ''}")
        for _ in range(3):
            await asyncio.sleep(0)
        self.append(f"{name} has started")

    def part(self, name: str) -> Any:
        return SimpleNamespace(name=name, start=lambda **options: self.started(name, **options))

    def follow(self, part: Any) -> None:
        self.append(f"{part.name} hears of nodes")


@pytest.mark.parametrize("shares_devices", [True, False])
def test_engines_on_the_learners_devices_start_after_it_one_by_one(*, shares_devices: bool):
    log = Log()
    asyncio.run(
        start_workers(
            lambda: log.started("learner"),
            fleet=log.part("fleet"),
            verifiers=log.part("verifiers"),
            shares_devices=shares_devices,
            hosts=log,  # type: ignore[arg-type] # the same
        )
    )
    learner_done, fleet_begins = (
        log.index("learner has started"),
        next(i for i, line in enumerate(log) if line.startswith("fleet starts")),
    )
    assert (learner_done < fleet_begins) == shares_devices
    assert ("fleet starts one by one" in log) == shares_devices
    assert log.index("verifiers starts") < learner_done  # they use no device
    assert log.index("verifiers hears of nodes") == log.index("verifiers has started") + 1
    assert ("fleet hears of nodes" in log) == (not shares_devices)  # what cannot leave its node need not hear of it


def class_of(actor: Any) -> Any:
    """The plain class of an actor class."""
    return actor.__ray_metadata__.modified_class


def learner_of(subject: Recipe, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    context = SimpleNamespace(get_node_id=lambda: "node-1")
    monkeypatch.setattr(learner_actor.ray, "get_runtime_context", lambda: context)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")
    calls: list[str] = []
    actor = class_of(LearnerActor)(subject, DriverThreads(node_id="node-1", num_threads=3))
    note = {name: lambda *_, name=name: calls.append(name) for name in ("publish", "step", "release_memory")}
    actor._learner = SimpleNamespace(**note)
    return actor, calls


def test_a_colocated_learner_gives_cached_memory_back_before_the_engines_wake(monkeypatch: pytest.MonkeyPatch):
    actor, calls = learner_of(recipe(placement="colocated"), monkeypatch)
    actor.call("step", None)
    actor.call("publish")
    assert calls == ["step", "publish", "release_memory"]


def test_a_learner_with_devices_of_its_own_keeps_its_cache(monkeypatch: pytest.MonkeyPatch):
    actor, calls = learner_of(recipe(), monkeypatch)
    actor.call("publish")
    assert calls == ["publish"]


def test_a_learner_on_another_node_uses_that_nodes_cores(monkeypatch: pytest.MonkeyPatch):
    context = SimpleNamespace(get_node_id=lambda: "node-1")
    monkeypatch.setattr(learner_actor.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(rank_host.psutil, "cpu_count", lambda logical=True: 48 if logical else 24)
    monkeypatch.setattr(rank_host.os, "sched_getaffinity", lambda _: set(range(48)))
    assert threads_here(DriverThreads(node_id="node-1", num_threads=2)) == 2
    assert threads_here(DriverThreads(node_id="node-0", num_threads=2)) == 24
    monkeypatch.setattr(rank_host.os, "sched_getaffinity", lambda _: set(range(8)))  # as in a container
    assert threads_here(DriverThreads(node_id="node-0", num_threads=2)) == 8


def backend_of(reserved: Any, **changes: Any) -> RayBackend:
    """A backend of which only what is asked of `reserved` is used."""
    settings: dict[str, Any] = {"hosts": None, **changes}
    return RayBackend(
        recipe(placement="colocated"),
        service=None,  # type: ignore[arg-type] # not used here
        run_dir=Path(),
        board=None,  # type: ignore[arg-type] # the same
        head=None,  # type: ignore[arg-type] # the same
        reserved=reserved,
        sources={},
        say=lambda _: None,
        **settings,
    )


def test_an_engine_starts_only_on_a_node_that_runs_the_drivers_code(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend_module, "RETRY_S", 0.0)
    nodes, checked, avoided, released = iter(["old", "other", "same"]), list[str](), list[list[str]](), list[int]()

    async def place(index: int, *, avoid: list[str]) -> str:
        avoided.append(list(avoid))
        return next(nodes)

    def check(node: str) -> None:
        checked.append(node)
        if node == "other":
            raise ConfigError("node other differs")

    hosts = Hosts(["old"], read=list, check=check, note=lambda _: None)
    reserved = SimpleNamespace(place=place, release=released.append, plan=PLAN)
    backend = backend_of(reserved, hosts=hosts)
    asyncio.run(backend._place("engine-0"))
    assert checked == []
    asyncio.run(backend._place("engine-1"))
    assert (checked, released) == (["other", "same"], [1])
    assert avoided == [[], [], ["other"]]


class Part:
    """A fleet of the backend that notes what it hears."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def start(self) -> None:
        self.calls.append("start")

    def drain(self, node: str, *, within_s: float | None = None) -> None:
        self.calls.append(("drain", node, within_s))

    def settle(self) -> None:
        self.calls.append("settle")

    async def close(self) -> None:
        self.calls.append("close")


def test_fleets_hear_of_nodes_that_are_drained_or_join_during_a_long_start(monkeypatch: pytest.MonkeyPatch):
    nodes = {"a": Host(node="a", address="10.0.0.1"), "b": Host(node="b", address="10.0.0.2")}
    hosts = Hosts(["a", "b"], read=lambda: list(nodes.values()), check=lambda _: None, every_s=0.01)
    cold_start = threading.Event()
    learner = SimpleNamespace(opened=None, set_correction=None, start=lambda *_, **__: cold_start.wait(5))
    events: list[str] = []
    recorder = SimpleNamespace(event=lambda kind, **_: events.append(kind))
    apart = plan_bundles(recipe(), num_gpus=0)
    backend = backend_of(SimpleNamespace(plan=apart), hosts=hosts)
    backend.use(recipe())
    backend._learner = learner  # type: ignore[assignment]
    fleet, verifiers = Part(), Part()
    monkeypatch.setattr(backend, "fleet", lambda _: fleet)
    monkeypatch.setattr(backend, "verifiers", lambda _: verifiers)

    async def until(met: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not met():
                await asyncio.sleep(0.005)

    async def disturb() -> None:
        await until(lambda: fleet.calls and verifiers.calls)
        nodes["b"] = replace(nodes["b"], drained_by=0.0)
        await until(lambda: ("drain", "b", None) in fleet.calls)  # its time may be over before the learner is ready
        nodes["c"] = Host(node="c", address="10.0.0.3")
        await until(lambda: "settle" in verifiers.calls)
        cold_start.set()

    async def whole() -> None:
        disturbing = asyncio.create_task(disturb())
        async with backend._workers(SimpleNamespace(recorder=recorder)):  # type: ignore[arg-type] # what is read of it
            await disturbing
            assert hosts.usable == ["a", "c"]

    asyncio.run(whole())
    for part in (fleet, verifiers):
        assert [call for call in part.calls if call != "settle"] == ["start", ("drain", "b", None), "close"]
        assert part.calls[-2] == "settle"  # for the node that joined
    assert events == ["node_draining", "node_joined"]


def test_each_colocated_engine_sees_its_own_devices_of_the_learner(monkeypatch: pytest.MonkeyPatch):
    plan = replace(PLAN, shared_devices=((0, 1), (2, 3)))
    backend = backend_of(SimpleNamespace(plan=plan))
    backend._learner = SimpleNamespace(opened=SimpleNamespace(devices=("4", "5", "6", "7")))  # type: ignore[assignment]
    assert [backend._devices_of(engine) for engine in (0, 1)] == [("4", "5"), ("6", "7")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    class_of(EngineActor)("engine-1", backend._recipe, None, Transport.FILE, backend._devices_of(1))
    assert learner_actor.os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"
    class_of(EngineActor)("engine-1", backend._recipe, None, Transport.FILE)
    assert learner_actor.os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"  # whatever Ray set stays


class Network:
    """A download: bytes by second; the clock moves while it is waited for."""

    def __init__(self, *bytes_by_poll: int) -> None:
        self._bytes = list(bytes_by_poll)
        self.now = 0.0
        self.lines: list[str] = []

    def is_done(self, seconds: float) -> bool:
        self.now += seconds
        return not self._bytes

    def watch(self, silence_s: float) -> None:
        watch_download(
            self.is_done,
            num_bytes=lambda: self._bytes.pop(0),
            name="org/model",
            silence_s=silence_s,
            say=self.lines.append,
            clock=lambda: self.now,
        )


def test_a_download_may_take_longer_than_a_start_while_it_makes_progress():
    network = Network(*(number << 28 for number in range(60)))
    network.watch(silence_s=10.0)
    assert network.now > 100.0
    assert network.lines[0] == "downloading org/model on the learner's node: 3.50 GiB so far"
    assert len(network.lines) == 4  # every half minute


def test_a_download_that_stops_is_an_error_that_says_where_and_what_to_do():
    with pytest.raises(LearnerError, match=r"download of org/model has made no progress.*at 0\.50 GiB.*hf download"):
        Network(1 << 29, *[1 << 29] * 60).watch(silence_s=10.0)
