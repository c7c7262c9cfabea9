"""The fleet over simulated engines: who gets what, and what happens when one is lost. No Ray."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rlvr.errors import RlvrError, RolloutError
from rlvr.processes.members import MemberState
from rlvr.processes.supervised_fleet import Supervision
from rlvr.protocols import GenerationRequest, LoadReceipt
from rlvr.records import Completion, WeightsRef
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from tests.unit.run.ray.fleets.fleet_engines import SimulatedEngine, request, weights

LIMITS = Supervision(start_s=5.0, heartbeat_s=0.02, answer_s=0.1, max_restarts=4)


class Stage:
    """A fleet whose engines are made by `make`; keeps every engine and every event."""

    def __init__(
        self, make: Callable[[str, int], SimulatedEngine], *, num_engines: int, supervision: Supervision = LIMITS
    ) -> None:
        self.engines: list[SimulatedEngine] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

        async def spawn(name: str) -> SimulatedEngine:
            engine = make(name, len(self.engines))
            self.engines.append(engine)
            return engine

        self.fleet = EngineFleet(
            spawn,
            num_engines=num_engines,
            supervision=supervision,
            sync_s=0.2,
            on_event=lambda kind, **fields: self.events.append((kind, fields)),
        )

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    async def ask(self, *requests: GenerationRequest) -> list[Completion]:
        return [completion async for completion in self.fleet.generate(requests)]


def play(stage: Stage, scenario: Callable[[Stage], Awaitable[None]], *, version: int = 0) -> None:
    """Starts the fleet, loads weights, plays the scenario within 20 s, and ends the fleet."""

    async def whole() -> None:
        async with asyncio.timeout(20):
            await stage.fleet.start()
            try:
                await stage.fleet.load_weights(weights(version))
                await scenario(stage)
            finally:
                await stage.fleet.close()

    asyncio.run(whole())


def plain(name: str, _: int) -> SimulatedEngine:
    return SimulatedEngine(name)


def group(name: str, size: int = 4, **settings: int) -> list[GenerationRequest]:
    return [request(f"{name}#{i}", seed=i, **settings) for i in range(size)]


def test_one_engine_gets_all_requests_of_a_turn_in_one_call_and_in_their_order():
    async def scenario(stage: Stage) -> None:
        await asyncio.gather(*(stage.ask(*group(name)) for name in ("b", "a", "c")))
        names = [f"{name}#{i}" for name in ("b", "a", "c") for i in range(4)]
        assert stage.engines[0].calls == [names]

    play(Stage(plain, num_engines=1), scenario)


def test_groups_stay_whole_and_go_to_the_engine_with_the_fewest_open_tokens():
    async def scenario(stage: Stage) -> None:
        heavy = group("heavy", 4, max_tokens=100)  # 4 x (2 + 100) tokens
        light = [group(f"light{i}", 4, max_tokens=4) for i in range(3)]  # 4 x 6 each
        await asyncio.gather(*(stage.ask(*requests) for requests in (heavy, *light)))
        calls = [[name.partition("#")[0] for name in e.calls[0]] for e in stage.engines]
        assert calls == [["heavy"] * 4, ["light0"] * 4 + ["light1"] * 4 + ["light2"] * 4]

    play(Stage(plain, num_engines=2), scenario)


def test_requests_of_an_engine_that_dies_are_done_elsewhere_with_their_seed_and_each_once():
    def make(name: str, number: int) -> SimulatedEngine:
        return SimulatedEngine(name, delay_s=0.005, dies_after=2 if number == 0 else None)

    async def scenario(stage: Stage) -> None:
        done = await asyncio.gather(*(stage.ask(*group(name)) for name in ("a", "b", "c")))
        for name, completions in zip("abc", done, strict=True):
            assert sorted(c.completion_id for c in completions) == [f"{name}#{i}" for i in range(4)]
            assert all(c.token_ids[0] == int(c.completion_id[-1]) for c in completions)
        lost = next(fields for kind, fields in stage.events if kind == "engine_lost")
        assert lost["engine"] == "engine-0"
        assert lost["requeued"] == stage.fleet.num_requeued > 0

    play(Stage(make, num_engines=2), scenario)


def test_a_restarted_engine_serves_only_after_it_has_loaded_the_weights_of_now():
    def make(name: str, number: int) -> SimulatedEngine:
        return SimulatedEngine(name, dies_after=1 if number == 0 else None, load_s=0.05)

    async def scenario(stage: Stage) -> None:
        first = await stage.ask(*group("a"))
        assert [c.policy_versions[0] for c in first] == [7] * 4
        assert len(stage.engines) == 2
        assert stage.engines[1].loads == [7]
        assert stage.engines[0].is_killed
        assert stage.kinds() == ["engine_lost", "engine_restarted"]

    play(Stage(make, num_engines=1), scenario, version=7)


class NoRoom(SimulatedEngine):
    """What an actor raises that is no error of ours arrives as a plain RlvrError."""

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        raise RlvrError(f"{self.name} failed: OSError: No space left on device")


def test_engines_whose_loads_fail_for_any_reason_are_tried_again_and_then_end_the_run():
    def make(name: str, number: int) -> SimulatedEngine:
        return SimulatedEngine(name, dies_after=1) if number == 0 else NoRoom(name)

    async def scenario(stage: Stage) -> None:
        with pytest.raises(RolloutError, match="No space left on device"):
            await stage.ask(*group("a"))
        assert len(stage.engines) == 1 + LIMITS.max_restarts
        assert all(engine.is_killed for engine in stage.engines[1:])

    play(Stage(make, num_engines=1), scenario)


def test_an_engine_that_rejoins_with_weights_of_before_waits_for_those_of_now():
    def make(name: str, number: int) -> SimulatedEngine:
        return SimulatedEngine(name, dies_after=1 if number == 0 else None, load_s=0.1)

    async def scenario(stage: Stage) -> None:
        asked = asyncio.create_task(stage.ask(*group("a")))
        while len(stage.engines) < 2 or not any(m.loading for m in stage.fleet.members):
            await asyncio.sleep(0.001)
        receipt = await stage.fleet.load_weights(weights(8))  # while the new engine loads version 7
        assert receipt.policy_version == 8
        assert stage.engines[1].loads == [7, 8]
        assert {c.policy_versions[0] for c in (await asked)[1:]} == {8}

    play(Stage(make, num_engines=1), scenario, version=7)


def test_an_engine_that_does_not_wake_is_replaced():
    class Asleep(SimulatedEngine):
        async def sleep(self) -> None: ...

        async def wake(self) -> None:
            if self.name == "engine-0" and not self.is_killed and len(self.loads) == 1:
                raise RlvrError("CUDA out of memory")

    def make(name: str, _: int) -> SimulatedEngine:
        return Asleep(name)

    async def scenario(stage: Stage) -> None:
        await stage.fleet.sleep()
        receipt = await stage.fleet.load_weights(weights(1))
        assert "engine-1" in [one.engine_id for one in receipt.each]
        while "engine_restarted" not in stage.kinds():
            await asyncio.sleep(0.01)
        assert stage.engines[2].loads == [1]

    play(Stage(make, num_engines=2), scenario)


def test_a_frozen_engine_is_found_by_its_silence_and_replaced():
    async def scenario(stage: Stage) -> None:
        stage.engines[0].is_frozen = True
        done = await stage.ask(*group("a"))
        assert len(done) == 4
        reason = next(fields["reason"] for kind, fields in stage.events if kind == "engine_lost")
        assert "no answer for cluster.heartbeat_deadline_s=0.1" in reason

    play(Stage(plain, num_engines=1), scenario)


def test_an_engine_that_answers_but_never_finishes_is_lost_after_the_requests_deadline():
    def make(name: str, number: int) -> SimulatedEngine:
        return SimulatedEngine(name, delay_s=1000.0 if number == 0 else 0.0)

    async def scenario(stage: Stage) -> None:
        slow = [replace(r, deadline_s=0.1) for r in group("a")]
        assert len(await stage.ask(*slow)) == 4
        reason = next(fields["reason"] for kind, fields in stage.events if kind == "engine_lost")
        assert "past their deadline (rollout.completion_deadline_s)" in reason

    play(Stage(make, num_engines=1), scenario)


def test_an_engine_that_misses_the_sync_deadline_is_killed_and_the_others_go_on():
    limits = replace(LIMITS, max_restarts=0, answer_s=5.0)

    async def scenario(stage: Stage) -> None:
        stage.engines[1].load_s = 1000.0
        receipt = await stage.fleet.load_weights(weights(1))
        assert [r.engine_id for r in receipt.each] == ["engine-0", "engine-2"]
        assert stage.engines[1].is_killed
        reason = next(fields["reason"] for kind, fields in stage.events if kind == "engine_lost")
        assert "version 1 were not loaded within cluster.sync_deadline_s=0.2 s" in reason
        assert {c.policy_versions for c in await stage.ask(*group("a"))} == {(1, 1)}

    play(Stage(plain, num_engines=3, supervision=limits), scenario)


def test_the_sync_deadline_counts_from_the_end_of_the_work_that_was_begun():
    class Waves(SimulatedEngine):
        """Loads only when its generation is done, as an engine of waves."""

        async def load_weights(self, ref, *, canary=()):
            while self.calls and self.calls[-1] == ["slow#0", "slow#1"] and self.is_busy:
                await asyncio.sleep(0.01)
            return await super().load_weights(ref, canary=canary)

        is_busy = True

        async def generate(self, requests):
            async for completion in super().generate(requests):
                yield completion
            self.is_busy = False

    async def scenario(stage: Stage) -> None:
        asking = asyncio.create_task(stage.ask(*group("slow", 2)))
        await asyncio.sleep(0.05)
        await stage.fleet.load_weights(weights(1))  # 0.6 s of work, a deadline of 0.2 s
        assert len(await asking) == 2
        assert stage.kinds() == []

    play(Stage(lambda name, _: Waves(name, delay_s=0.3), num_engines=1), scenario)


def test_when_no_engine_is_left_the_error_names_each_and_the_key_to_change():
    limits = replace(LIMITS, max_restarts=1)

    async def scenario(stage: Stage) -> None:
        told = r"no engine is left .*max_engine_restarts is 1.*engine-0.*killed"
        with pytest.raises(RolloutError, match=told):
            await stage.ask(*group("a"))

    play(Stage(lambda n, _: SimulatedEngine(n, dies_after=0), num_engines=1, supervision=limits), scenario)


def test_a_request_that_every_engine_fails_at_ends_with_what_the_last_one_said():
    async def scenario(stage: Stage) -> None:
        with pytest.raises(RolloutError, match=r"'a#0' was tried on 3 engines.*CUDA out of memory"):
            await stage.ask(*group("a"))

    play(Stage(lambda name, _: SimulatedEngine(name, fails=True), num_engines=2), scenario)


def test_an_engine_that_computes_with_other_weights_is_refused_when_it_joins():
    async def scenario(stage: Stage) -> None:
        stage.fleet.add()
        while "engine_restarted" not in stage.kinds():
            await asyncio.sleep(0.01)
        refused = [fields["reason"] for kind, fields in stage.events if kind == "engine_lost"]
        assert len(refused) == 1
        assert "canary log-probs differ from engine-0's by 1.0000 nats" in refused[0]
        assert [m.name for m in stage.fleet.members] == ["engine-0", "engine-1"]

    def make(name: str, number: int) -> SimulatedEngine:
        return SimulatedEngine(name, canary=-2.0 if number == 1 else -1.0)

    play(Stage(make, num_engines=1), scenario)


def test_an_engine_that_joins_mid_run_shares_the_work_with_the_weights_of_now():
    async def scenario(stage: Stage) -> None:
        asking = asyncio.create_task(stage.ask(*group("a", 40)))
        name = stage.fleet.add()
        while "engine_joined" not in stage.kinds():
            await asyncio.sleep(0.01)
        done = await asyncio.gather(stage.ask(*group("b")), stage.ask(*group("c")))
        assert {len(d) for d in done} == {4}
        assert name == "engine-1"
        assert stage.engines[1].calls
        assert stage.engines[1].loads == [3]
        assert len(await asking) == 40

    play(Stage(lambda n, _: SimulatedEngine(n, delay_s=0.01), num_engines=1), scenario, version=3)


def test_an_engine_that_leaves_finishes_what_it_has_and_gets_nothing_more():
    async def scenario(stage: Stage) -> None:
        asking = [asyncio.create_task(stage.ask(*group(name))) for name in ("a", "b")]
        await asyncio.sleep(0.01)
        await stage.fleet.remove("engine-0")
        assert stage.engines[0].is_closed
        await stage.ask(*group("c"))
        assert [len(task.result()) for task in asking if task.done()]
        assert all("c#0" not in call for call in stage.engines[0].calls)
        assert {len(await task) for task in asking} == {4}
        assert stage.fleet.num_requeued == 0
        assert stage.kinds() == ["engine_left"]

    play(Stage(lambda n, _: SimulatedEngine(n, delay_s=0.02), num_engines=2), scenario)


def test_an_engine_that_cannot_start_ends_the_start_with_its_reason_and_leaves_none_running():
    engines: list[SimulatedEngine] = []

    async def spawn(name: str) -> SimulatedEngine:
        if name == "engine-1":
            raise RolloutError("no such model")
        engines.append(SimulatedEngine(name))
        return engines[-1]

    fleet = EngineFleet(spawn, num_engines=3, supervision=LIMITS, on_event=lambda kind, **fields: None)
    with pytest.raises(RolloutError, match="no such model"):
        asyncio.run(fleet.start())
    assert [engine.is_killed for engine in engines] == [True, True]


def test_scores_come_from_another_engine_when_one_is_frozen():
    async def scenario(stage: Stage) -> None:
        stage.engines[0].is_frozen = True
        scores = await stage.fleet.score([(1, 2, 3)])
        assert scores == [[-1.0, -1.0]]

    play(Stage(plain, num_engines=2), scenario)


def test_closing_ends_what_waits_with_an_error():
    async def scenario(stage: Stage) -> None:
        stage.engines[0].delay_s = 1000.0
        asking = asyncio.create_task(stage.ask(*group("a")))
        await asyncio.sleep(0.01)
        await stage.fleet.close()
        with pytest.raises(RolloutError, match="closed"):
            await asking
        assert all(member.state is not MemberState.DEAD for member in stage.fleet.members)

    play(Stage(plain, num_engines=1), scenario)


def test_weights_reach_every_engine_side_by_side_and_the_receipt_names_each():
    async def scenario(stage: Stage) -> None:
        for engine in stage.engines:
            engine.load_s = 0.1
        loop = asyncio.get_running_loop()
        start = loop.time()
        receipt = await stage.fleet.load_weights(weights(5))
        assert loop.time() - start < 0.6
        assert [r.engine_id for r in receipt.each] == [f"engine-{i}" for i in range(8)]
        assert receipt.policy_version == (await stage.fleet.health()).policy_version == 5

    play(Stage(plain, num_engines=8), scenario)
