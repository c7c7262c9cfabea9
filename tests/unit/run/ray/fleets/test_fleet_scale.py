"""What the driver does for a group, a verdict and a weight sync grows with the work, not with the number of members.

Counted are the bytecode instructions that rlvr's own frames execute, so the figures do not depend on the machine.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import FrameType
from typing import Any

import rlvr
from rlvr.errors import RolloutError
from rlvr.processes.supervised_fleet import Supervision
from rlvr.records import Prompt, Status, Verdict
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts, VerifierFleet
from rlvr.verification.service import VerifierService
from tests.unit.run.ray.fleets.fleet_engines import SimulatedEngine, request, weights
from tests.unit.run.ray.fleets.test_ray_verifiers import pairs

PACKAGE = str(rlvr.__path__[0])
LIMITS = Supervision(heartbeat_s=60.0)
NUM_GROUPS = 128
FEW, MANY = 4, 64
NUM_ITEMS = 512
ONCE_PER_MEMBER = 400  # instructions: it is looked at once for all groups of a turn, and called once with its share
GROWTH = 1.3


class Quick(SimulatedEngine):
    """Answers in the same turn."""

    async def _time(self, seconds: float) -> None: ...


class Pool:
    """Passes every item at once."""

    place, node = "somewhere", ""

    async def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
        verdict = Verdict(status=Status.PASS, score=1.0, reason="as asked", verifier="p@1", seconds=0.0)
        for item in items:
            yield ItemVerdicts(number=item.number, verdicts={check.name: verdict for check in item.prompt.checks})

    async def health(self) -> None: ...

    async def kill(self) -> None: ...


class Here(VerifierService):
    """Leaves every item to the pools."""

    def prejudge(self, prompt: Prompt, completion: Any) -> dict[str, Verdict]:
        return {}


async def instructions(work: Callable[[], Awaitable[object]]) -> int:
    """The number of instructions that rlvr's frames execute during `work`."""
    count = 0

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return step

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        await work()
    finally:
        sys.settrace(before)
    return count


def engines(count: int) -> EngineFleet:
    async def spawn(name: str) -> Quick:
        return Quick(name)

    return EngineFleet(spawn, num_engines=count, supervision=LIMITS, on_event=lambda *_, **__: None)


def of_engines(count: int, work: Callable[[EngineFleet], Awaitable[object]]) -> int:
    """The instructions of `work` on a fleet of `count` engines that serve version 0."""

    async def whole() -> int:
        fleet = engines(count)
        await fleet.start()
        await fleet.load_weights(weights(0))
        try:
            return await instructions(lambda: work(fleet))
        finally:
            await fleet.close()

    return asyncio.run(whole())


async def make_groups(fleet: EngineFleet) -> None:
    async def one(number: int) -> None:
        await fleet.health()  # as the producer does for each group
        assert [c async for c in fleet.generate([request(f"{number}#{i}") for i in range(2)])]

    await asyncio.gather(*(one(number) for number in range(NUM_GROUPS)))


def test_a_group_costs_the_same_with_many_engines():
    few, many = (of_engines(count, make_groups) for count in (FEW, MANY))
    assert many <= GROWTH * few + ONCE_PER_MEMBER * MANY


def test_a_verdict_costs_the_same_with_many_pools():
    async def spawn(name: str) -> Pool:
        return Pool()

    async def with_pools(count: int) -> int:
        names = [f"verifier-{i}" for i in range(count)]
        here = Here(workers=1, deadline_s=5.0)
        fleet = VerifierFleet(spawn, names=names, here=here, supervision=LIMITS, on_event=lambda *_, **__: None)
        await fleet.start()
        try:
            items = pairs(NUM_ITEMS)
            return await instructions(lambda: asyncio.gather(*(fleet.verify(*pair) for pair in items)))
        finally:
            await fleet.close()

    few, many = (asyncio.run(with_pools(count)) for count in (FEW, MANY))
    assert many <= GROWTH * few + ONCE_PER_MEMBER * MANY


def test_a_weight_sync_costs_each_engine_the_same_with_many_engines():
    few, many = (of_engines(count, lambda fleet: fleet.load_weights(weights(1))) for count in (FEW, MANY))
    assert many / MANY <= GROWTH * few / FEW


def test_engines_that_start_together_are_not_all_asked_for_their_health_in_the_same_turn():
    asked: list[float] = []

    class Asked(Quick):
        async def health(self) -> Any:
            asked.append(asyncio.get_running_loop().time())
            return await super().health()

    async def spawn(name: str) -> Quick:
        return Asked(name)

    async def whole() -> None:
        supervision = Supervision(heartbeat_s=0.2)
        fleet = EngineFleet(spawn, num_engines=10, supervision=supervision, on_event=lambda *_, **__: None)
        await fleet.start()
        while len(asked) < 10:
            await asyncio.sleep(0.01)
        await fleet.close()

    asyncio.run(whole())
    assert asked[9] - asked[0] > 0.1


def test_a_load_ends_as_soon_as_its_engine_is_lost():
    async def whole() -> None:
        fleet = engines(1)
        await fleet.start()
        (member,) = fleet.members
        member.remote.is_frozen = True  # type: ignore[attr-defined] # simulated

        async def frozen(*_: Any, **__: Any) -> Any:
            await asyncio.sleep(60)

        member.remote.load_weights = frozen  # type: ignore[method-assign]
        loading = asyncio.create_task(fleet._load(member, weights(0)))
        await asyncio.sleep(0.01)
        fleet._lost(member, RolloutError("gone"))
        async with asyncio.timeout(0.3):
            await loading
        await fleet.close()

    asyncio.run(whole())
