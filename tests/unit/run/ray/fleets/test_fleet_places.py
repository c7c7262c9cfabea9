"""Engines whose node is gone: they wait for resources, and serve again by themselves. Simulated engines, no Ray."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rlvr.errors import RlvrError, RolloutError
from rlvr.processes.members import MemberState
from rlvr.processes.supervised_fleet import Supervision
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.ray.workers.engine_member import EngineMember
from tests.unit.run.ray.fleets.fleet_engines import SimulatedEngine, request, weights


class Resources:
    """Decides when there is a place for which engine."""

    def __init__(self) -> None:
        self.there: dict[str, asyncio.Event] = {}
        self.vacated: list[str] = []
        self.faults: list[Exception] = []  # of the next attempts

    async def place(self, name: str) -> None:
        if self.faults:
            raise self.faults.pop(0)
        await self.there.setdefault(name, asyncio.Event()).wait()

    def come(self, name: str) -> None:
        self.there.setdefault(name, asyncio.Event()).set()


class Scene:
    """A fleet, its resources, and what happened."""

    def __init__(self, *, num_engines: int = 2, num_absent: int = 0, start_s: float = 5.0, restarts: int = 1) -> None:
        self.resources = Resources()
        self.spawned: list[SimulatedEngine] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.delay_s = 0.0
        self.start_s = 0.0
        self.node_of: dict[str, str] = {}
        self.fleet = EngineFleet(
            self._spawn,
            num_engines=num_engines,
            num_absent=num_absent,
            place=self.resources.place,
            vacate=self.resources.vacated.append,
            supervision=Supervision(start_s=start_s, heartbeat_s=0.02, answer_s=0.5, max_restarts=restarts),
            on_event=lambda kind, **fields: self.events.append((kind, fields)),
        )

    async def _spawn(self, name: str) -> SimulatedEngine:
        engine = SimulatedEngine(name, delay_s=self.delay_s)
        engine.node = self.node_of.get(name, "a")
        self.spawned.append(engine)
        await asyncio.sleep(self.start_s)
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


def test_engines_of_a_drained_node_finish_leave_and_return_without_counting_as_restarts():
    async def scenario(scene: Scene) -> None:
        for engine in scene.spawned:
            engine.delay_s = 0.2
        asking = asyncio.create_task(scene.ask())
        await scene.until(lambda: any(engine.calls for engine in scene.spawned))
        scene.fleet.drain("a")  # both engines
        scene.node_of = {"engine-0": "b", "engine-1": "b"}
        assert (await asking)[0].policy_versions[0] == 3
        await scene.until(lambda: scene.kinds().count("engine_left") == 2)
        assert all(engine.is_closed and engine.is_killed for engine in scene.spawned)
        assert all(fields["requeued"] == 0 for kind, fields in scene.events if kind == "engine_left")
        assert sorted(scene.resources.vacated) == ["engine-0", "engine-1"]
        scene.resources.come("engine-0")
        scene.resources.come("engine-1")
        assert len(await scene.ask("b#0")) == 1  # it waits for them
        await scene.until(lambda: scene.kinds().count("engine_returned") == 2)
        assert [engine.loads for engine in scene.spawned] == [[3]] * 4
        assert scene.events[-1][1]["policy_version"] == 3
        assert scene.fleet._restarts.num_made == 0

    play(Scene(restarts=0), scenario)


@pytest.mark.parametrize("within_s", [None, 30.0])
def test_an_engine_that_starts_on_a_node_when_it_is_drained_leaves_it_once_it_has_started(within_s: float | None):
    async def scenario(scene: Scene) -> None:
        scene.start_s = 0.1
        scene.resources.come("engine-1")
        scene.lose("engine-1")
        await scene.until(lambda: len(scene.spawned) == 3)  # it is starting on a
        scene.fleet.drain("a", within_s=within_s)
        scene.node_of = {"engine-0": "b", "engine-1": "b"}
        scene.resources.come("engine-0")
        await scene.until(lambda: scene.kinds().count("engine_returned") == 2)
        assert scene.kinds().count("engine_left") == 2
        assert {m.remote.node for m in scene.fleet.members} == {"b"}
        assert [m.state for m in scene.fleet.members] == [MemberState.HEALTHY] * 2
        assert scene.spawned[2].loads == []  # it leaves before it would load
        assert scene.spawned[2].is_killed
        assert scene.fleet._restarts.num_made == 1

    play(Scene(), scenario)


def test_an_engine_whose_place_cannot_be_found_for_an_unforeseen_reason_is_reported_and_tried_again():
    async def scenario(scene: Scene) -> None:
        scene.resources.faults.append(ValueError("a bundle with an unknown label"))
        scene.resources.come("engine-1")
        scene.lose("engine-1")
        await scene.until(lambda: "engine_restarted" in scene.kinds())
        assert scene.kinds() == ["engine_lost", "engine_not_started", "engine_restarted"]
        assert scene.events[1][1]["reason"] == "ValueError: a bundle with an unknown label"

    play(Scene(restarts=2), scenario)


def test_an_engine_that_cannot_be_prepared_is_ended_before_another_one_takes_its_name():
    async def scenario(scene: Scene) -> None:
        prepare, faults = scene.fleet.prepare, [OSError("no room"), RlvrError("no weights")]

        async def failing(member: EngineMember) -> bool:
            if faults:
                raise faults.pop(0)
            return await prepare(member)

        scene.fleet.prepare = failing  # type: ignore[method-assign]
        scene.resources.come("engine-1")
        scene.lose("engine-1")
        await scene.until(lambda: "engine_restarted" in scene.kinds())
        assert [fields["reason"] for kind, fields in scene.events if kind == "engine_lost"] == [
            "its node is gone",
            "OSError: no room",
            "no weights",
        ]
        await scene.until(lambda: scene.spawned[2].is_killed and scene.spawned[3].is_killed)
        assert [m.state for m in scene.fleet.members] == [MemberState.HEALTHY] * 2

    play(Scene(restarts=3), scenario)


@pytest.mark.parametrize("fault", ["close", "vacate"])
def test_an_engine_that_leaves_a_drained_node_returns_even_if_its_end_or_its_release_fails(fault: str):
    async def scenario(scene: Scene) -> None:
        def release(name: str) -> None:
            if fault == "vacate" and not scene.resources.vacated:
                scene.resources.vacated.append(name)
                raise ValueError("no such reservation")

        async def close() -> None:
            raise OSError("the pipe is closed")

        scene.fleet._vacate = release
        if fault == "close":
            scene.spawned[1].close = close  # type: ignore[method-assign]
        scene.spawned[1].node = "c"
        scene.resources.come("engine-1")
        scene.fleet.drain("c")
        await scene.until(lambda: len(scene.fleet.members) == 2 and "engine_left" in scene.kinds())
        assert len(await scene.ask()) == 1
        assert scene.spawned[1].is_killed
        assert ("engine_not_started" in scene.kinds()) == (fault == "vacate")

    play(Scene(), scenario)


def test_an_engine_whose_health_cannot_be_asked_for_an_unforeseen_reason_is_replaced():
    async def scenario(scene: Scene) -> None:
        async def health() -> Any:
            raise KeyError("is_healthy")

        scene.resources.come("engine-1")
        scene.spawned[1].health = health  # type: ignore[method-assign]
        await scene.until(lambda: "engine_restarted" in scene.kinds())
        assert scene.events[0][1]["reason"] == "KeyError: 'is_healthy'"

    play(Scene(), scenario)


def test_a_closed_fleet_starts_nothing_when_a_node_is_lost():
    async def scenario(scene: Scene) -> None:
        await scene.ask()
        answered = next(engine for engine in scene.spawned if engine.calls)
        scene.resources.come(answered.name)
        scene.lose(answered.name)  # no restart is left
        await scene.fleet.close()
        scene.fleet.forgive("a")
        scene.fleet.drain("a")
        await asyncio.sleep(0.05)
        assert len(scene.spawned) == 2

    play(Scene(restarts=0), scenario)


def test_requests_that_a_drained_engine_does_not_finish_in_time_are_answered_once_by_another():
    async def scenario(scene: Scene) -> None:
        scene.spawned[0].delay_s = scene.spawned[1].delay_s = 0.2
        scene.spawned[0].is_frozen = True
        requests = [request(f"{i}#0") for i in range(2)]
        answers: list[Any] = []

        async def ask() -> None:
            async for completion in scene.fleet.generate(requests):
                answers.append(completion.completion_id)

        asking = asyncio.create_task(ask())
        await scene.until(lambda: bool(scene.spawned[0].calls or scene.spawned[1].calls))
        victim = next(m for m in scene.fleet.members if m.open)
        for _ in range(4):  # more often than a request may be tried
            if victim.state is MemberState.HEALTHY:
                scene.fleet.move(victim, within_s=0.0)
                await scene.until(lambda: "engine_left" in scene.kinds())
                await scene.until(lambda: any(m.open for m in scene.fleet.members))
                victim = next(m for m in scene.fleet.members if m.open)
                scene.resources.come("engine-0")
                scene.resources.come("engine-1")
                await scene.until(lambda: len(scene.fleet.members) == 2)
        await asking
        assert sorted(answers) == ["0#0", "1#0"]

    play(Scene(restarts=0), scenario)


def test_engines_that_are_lost_with_their_node_count_only_if_they_had_answered_nothing():
    async def scenario(scene: Scene) -> None:
        await asyncio.gather(*(scene.ask(f"{i}#0") for i in range(2)))
        answered = next(engine for engine in scene.spawned if engine.calls)
        idle = next(engine for engine in scene.spawned if engine is not answered)
        scene.lose(answered.name)
        scene.lose(idle.name)  # the limit of one is reached: this one is given up
        await scene.until(lambda: "engine_waits_for_resources" in scene.kinds())
        assert scene.fleet._restarts.num_made == 1
        scene.fleet.forgive("a")
        assert scene.fleet._restarts.num_made == 0

    play(Scene(restarts=1), scenario)


def test_an_engine_that_was_given_up_is_restarted_when_its_node_turns_out_to_be_the_cause():
    async def scenario(scene: Scene) -> None:
        await scene.ask()
        answered = next(engine for engine in scene.spawned if engine.calls)
        scene.resources.come(answered.name)
        scene.lose(answered.name)
        await asyncio.sleep(0.05)
        assert len(scene.fleet.members) == 1
        scene.fleet.forgive("a")
        await scene.until(lambda: "engine_restarted" in scene.kinds())
        scene.lose(answered.name)  # it has answered nothing since, so this one counts
        await asyncio.sleep(0.05)
        assert len(scene.fleet.members) == 1

    play(Scene(restarts=0), scenario)
