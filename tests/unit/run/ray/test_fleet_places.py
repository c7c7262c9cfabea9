"""Engines whose node is gone: they wait for resources, and serve again by themselves. Simulated engines, no Ray."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rlvr.errors import RolloutError
from rlvr.processes.members import MemberState
from rlvr.processes.supervised_fleet import Supervision
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from tests.unit.run.ray.fleet_engines import SimulatedEngine, request, weights


class Resources:
    """Decides when there is a place for which engine."""

    def __init__(self) -> None:
        self.there: dict[str, asyncio.Event] = {}

    async def place(self, name: str) -> None:
        await self.there.setdefault(name, asyncio.Event()).wait()

    def come(self, name: str) -> None:
        self.there.setdefault(name, asyncio.Event()).set()


class Scene:
    """A fleet, its resources, and what happened."""

    def __init__(self, *, num_engines: int = 2, num_absent: int = 0, start_s: float = 5.0, restarts: int = 1) -> None:
        self.resources = Resources()
        self.spawned: list[SimulatedEngine] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.fleet = EngineFleet(
            self._spawn,
            num_engines=num_engines,
            num_absent=num_absent,
            place=self.resources.place,
            supervision=Supervision(start_s=start_s, heartbeat_s=0.02, answer_s=0.5, max_restarts=restarts),
            on_event=lambda kind, **fields: self.events.append((kind, fields)),
        )

    async def _spawn(self, name: str) -> SimulatedEngine:
        engine = SimulatedEngine(name)
        self.spawned.append(engine)
        return engine

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def lose(self, name: str) -> None:
        member = next(m for m in self.fleet.members if m.name == name)
        self.fleet._lost(member, RolloutError("its node is gone"))

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not met():
                await asyncio.sleep(0.005)

    async def ask(self, name: str = "a#0") -> list[Any]:
        return [completion async for completion in self.fleet.generate([request(name)])]


def play(scene: Scene, scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await scene.fleet.start()
            try:
                await scene.fleet.load_weights(weights(3))
                await scenario(scene)
            finally:
                await scene.fleet.close()

    asyncio.run(whole())


def test_an_engine_of_a_lost_node_waits_for_it_longer_than_a_start_may_take_and_costs_one_restart():
    async def scenario(scene: Scene) -> None:
        scene.lose("engine-1")
        await asyncio.sleep(0.3)  # six times the deadline of a start
        assert len(scene.spawned) == 2
        assert (await scene.ask())[0].policy_versions[0] == 3  # the other engine serves meanwhile
        scene.resources.come("engine-1")
        await scene.until(lambda: "engine_restarted" in scene.kinds())
        assert scene.kinds() == ["engine_lost", "engine_waits_for_resources", "engine_restarted"]
        assert scene.events[1][1] == {"engine": "engine-1"}
        assert scene.spawned[-1].loads == [3]
        assert [m.state for m in scene.fleet.members] == [MemberState.HEALTHY] * 2

    play(Scene(start_s=0.05), scenario)


def test_when_all_engines_are_lost_the_run_waits_for_a_node_as_long_as_for_a_start_and_then_ends():
    async def scenario(scene: Scene) -> None:
        scene.lose("engine-0")
        scene.lose("engine-1")
        with pytest.raises(RolloutError, match=r"no engine is left for generating.*its node is gone"):
            await scene.ask()
        assert scene.kinds().count("engine_waits_for_resources") == 2

    play(Scene(start_s=0.2, restarts=4), scenario)


def test_requests_wait_for_a_node_that_is_back_in_time():
    async def scenario(scene: Scene) -> None:
        scene.lose("engine-0")
        scene.lose("engine-1")
        asking = asyncio.create_task(scene.ask())
        await asyncio.sleep(0.1)
        scene.resources.come("engine-1")
        assert len(await asking) == 1

    play(Scene(restarts=4), scenario)


def test_engines_without_a_place_at_the_start_join_when_there_is_one():
    async def scenario(scene: Scene) -> None:
        assert [m.name for m in scene.fleet.members] == ["engine-0"]
        scene.resources.come("engine-2")
        await scene.until(lambda: "engine_joined" in scene.kinds())
        assert [m.name for m in scene.fleet.members] == ["engine-0", "engine-2"]
        assert scene.spawned[-1].loads == [3]

    play(Scene(num_engines=1, num_absent=2), scenario)


def test_a_fleet_that_closes_stops_waiting_for_resources():
    async def scenario(scene: Scene) -> None:
        scene.lose("engine-1")
        await scene.until(lambda: "engine_waits_for_resources" in scene.kinds())

    scene = Scene()
    play(scene, scenario)  # `play` has a deadline
    assert len(scene.spawned) == 2


def test_engines_that_share_devices_start_one_by_one():
    running: list[str] = []
    most = 0

    async def spawn(name: str) -> SimulatedEngine:
        nonlocal most
        running.append(name)
        most = max(most, len(running))
        await asyncio.sleep(0.01)
        running.remove(name)
        return SimulatedEngine(name)

    async def start(*, one_by_one: bool) -> None:
        fleet = EngineFleet(spawn, num_engines=3, supervision=Supervision(), on_event=lambda *_, **__: None)
        await fleet.start(one_by_one=one_by_one)
        await fleet.close()

    asyncio.run(start(one_by_one=False))
    assert most == 3
    most = 0
    asyncio.run(start(one_by_one=True))
    assert most == 1
