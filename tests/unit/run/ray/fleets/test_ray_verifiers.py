"""The verifier fleet over pools that are lost, frozen or gone for good. No Ray."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from rlvr.errors import RlvrError, VerifierError
from rlvr.plugin import verifier
from rlvr.processes.supervised_fleet import Supervision
from rlvr.records import Check, Completion, FinishReason, Prompt, Status, Verdict
from rlvr.run.ray.workers.verifier_fleet import Item, ItemVerdicts, PoolLost, VerifierFleet
from rlvr.verification.service import VerifierService


class Pool:
    """Passes every item; is lost after `lives` verdicts, or freezes."""

    def __init__(self, *, lives: int | None = None, is_frozen: bool = False, node: str = "") -> None:
        self.place = "somewhere"
        self.node = node
        self.lives = lives
        self.is_frozen = is_frozen
        self.num_judged = 0
        self.is_killed = False

    async def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
        for item in items:
            await self._answer()
            if self.lives is not None and self.num_judged >= self.lives:
                raise PoolLost("its process is gone")
            self.num_judged += 1
            verdict = Verdict(status=Status.PASS, score=1.0, reason="as asked", verifier="p@1", seconds=0.0)
            yield ItemVerdicts(number=item.number, verdicts={check.name: verdict for check in item.prompt.checks})

    async def health(self) -> None:
        await self._answer()

    async def kill(self) -> None:
        self.is_killed = True

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        while self.is_frozen:
            await asyncio.sleep(0.01)


@pytest.fixture
def here() -> Iterator[VerifierService]:
    service = VerifierService(workers=1, deadline_s=5.0)
    yield service
    service.close()


@verifier(version="1")
def by_pools(text: str, reference: object) -> bool:
    """Known to the pools alone: the driver never asks it."""
    raise AssertionError("judged in the driver")


def pairs(count: int, *, name: str = f"{__name__}:by_pools") -> list[tuple[Prompt, Completion]]:
    check = Check(name="m", verifier=name, reference="1")
    prompt = Prompt(prompt_id="p", text="1?", checks=(check,), source="s")
    return [
        (
            prompt,
            Completion(
                completion_id=f"c{i}",
                prompt_id="p",
                sample_index=i,
                prompt_token_ids=(1,),
                token_ids=(2,),
                logprobs=(-1.0,),
                sampled_mask=(True,),
                text="1",
                finish_reason=FinishReason.STOP,
                policy_versions=(0,),
            ),
        )
        for i in range(count)
    ]


def play(
    here: VerifierService,
    pools: Iterable[Pool],
    scenario: Callable[[VerifierFleet], Awaitable[Any]],
    *,
    max_restarts: int = 5,
    names: Sequence[str] = ("verifier-0",),
    nodes: Sequence[str] = (),
) -> tuple[Any, list[str]]:
    """What the scenario returns, and the kinds of the events. Pools start in their order."""
    coming = iter(pools)
    events: list[str] = []

    async def spawn(name: str) -> Pool:
        try:
            return next(coming)
        except StopIteration:
            raise VerifierError("no more pools") from None

    async def whole() -> Any:
        fleet = VerifierFleet(
            spawn,
            names=names,
            here=here,
            supervision=Supervision(heartbeat_s=0.02, answer_s=0.1, max_restarts=max_restarts),
            on_event=lambda kind, **fields: events.append(kind),
            nodes=lambda: nodes,
            has_one_per_node=True,
        )
        async with asyncio.timeout(10):
            await fleet.start()
            try:
                return await scenario(fleet)
            finally:
                await fleet.close()

    return asyncio.run(whole()), events


def judge_all(count: int) -> Callable[[VerifierFleet], Awaitable[Any]]:
    async def scenario(fleet: VerifierFleet) -> Any:
        return await asyncio.gather(*(fleet.verify(*pair) for pair in pairs(count)))

    return scenario


def test_items_of_a_lost_pool_are_judged_again_by_its_successor_and_none_is_an_error(here: VerifierService):
    pools = [Pool(lives=3), Pool()]
    verdicts, events = play(here, pools, judge_all(10))
    assert [v["m"].status for v in verdicts] == [Status.PASS] * 10
    assert [pool.num_judged for pool in pools] == [3, 7]
    assert pools[0].is_killed
    assert events == ["verifier_lost", "verifier_restarted"]


def test_a_frozen_pool_is_found_and_the_other_one_takes_over(here: VerifierService):
    pools = [Pool(is_frozen=True), Pool()]
    verdicts, events = play(here, pools, judge_all(8), names=("verifier-0", "verifier-1"), max_restarts=0)
    assert len(verdicts) == 8
    assert pools[1].num_judged == 8
    assert events == ["verifier_lost"]


def test_items_are_shared_among_pools(here: VerifierService):
    pools = [Pool(), Pool()]
    play(here, pools, judge_all(8), names=("verifier-0", "verifier-1"))
    assert [pool.num_judged for pool in pools] == [4, 4]


def test_an_item_that_ends_every_pool_stops_the_run_and_is_named(here: VerifierService):
    with pytest.raises(VerifierError, match=r"completion 'c0' was open in 4 verifier pools.*rlvr verify"):
        play(here, [Pool(lives=0) for _ in range(6)], judge_all(1))


def test_when_no_pool_can_be_started_any_more_the_run_stops(here: VerifierService):
    with pytest.raises(VerifierError, match="no verifier pool is left"):
        play(here, [Pool(lives=0)], judge_all(2), max_restarts=0)


def test_what_needs_no_waiting_is_judged_in_the_driver(here: VerifierService):
    pool = Pool()

    async def scenario(fleet: VerifierFleet) -> Any:
        return await fleet.verify(*pairs(1, name="text_match")[0])

    verdicts, _ = play(here, [pool], scenario)
    assert verdicts["m"].status is Status.PASS
    assert pool.num_judged == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (RlvrError("verifier-0 failed: RuntimeError: the verifier pool is closed"), "the verifier pool is closed"),
        (TypeError("cannot pickle 'generator' object"), "TypeError: cannot pickle 'generator' object"),
        (AttributeError("'NoneType' object has no attribute 'number'"), "AttributeError: 'NoneType' object"),
    ],
)
def test_a_pool_that_fails_in_any_other_way_says_so_and_nobody_waits(
    here: VerifierService, fault: Exception, message: str
):
    class Broken(Pool):
        async def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
            await asyncio.sleep(0)
            raise fault
            yield

    async def scenario(fleet: VerifierFleet) -> None:
        work = [fleet.verify(prompt, completion) for prompt, completion in pairs(3)]
        found = await asyncio.gather(*work, return_exceptions=True)
        assert [isinstance(error, RlvrError) and message in str(error) for error in found] == [True] * 3

    play(here, [Broken()], scenario)


def test_a_pool_that_leaves_items_unanswered_is_replaced_and_nobody_waits(here: VerifierService):
    class Forgetful(Pool):
        async def verify(self, items: Sequence[Item]) -> AsyncIterator[ItemVerdicts]:
            async for found in super().verify(items[:1]):
                yield found

    verdicts, events = play(here, [Forgetful(), Pool()], judge_all(3))
    assert [v["m"].status for v in verdicts] == [Status.PASS] * 3
    assert events == ["verifier_lost", "verifier_restarted"]


def test_a_pool_that_does_not_start_ends_the_start_and_leaves_none_running(here: VerifierService):
    started = Pool()
    with pytest.raises(VerifierError, match="no more pools"):
        play(here, [started], judge_all(1), names=("verifier-0", "verifier-1"))
    assert started.is_killed


def test_a_node_that_joins_gets_a_pool_from_a_crowded_one_or_a_pool_of_its_own(here: VerifierService):
    nodes = ["a", "b"]

    async def scenario(fleet: VerifierFleet) -> list[str]:
        fleet.settle()  # b was gone, and its pool was started on a
        while sorted(m.remote.node for m in fleet.members) != ["a", "b"]:
            await asyncio.sleep(0.005)
        fleet.settle()  # nothing is left to do
        nodes.append("c")
        fleet.settle()
        while len(fleet.members) < 3:
            await asyncio.sleep(0.005)
        return sorted(m.name for m in fleet.members)

    pools = [Pool(node=node) for node in ("a", "a", "b", "c")]
    names, events = play(here, pools, scenario, names=("verifier-0", "verifier-1"), nodes=nodes, max_restarts=0)
    assert names == ["verifier-0", "verifier-1", "verifier-2"]
    assert events == ["verifier_left", "verifier_returned", "verifier_joined"]


def test_a_pool_that_started_while_its_node_came_back_moves_there(here: VerifierService):
    """The node joins when the pool is on its way to another one, so that there was nothing to move yet."""
    nodes = ["a"]

    def coming() -> Iterator[Pool]:
        yield Pool(node="b", lives=0)
        yield Pool(node="a")
        nodes.append("b")
        yield Pool(node="a")
        yield Pool(node="b")

    async def scenario(fleet: VerifierFleet) -> list[str]:
        await fleet.verify(*pairs(1)[0])
        while sorted(m.remote.node for m in fleet.members) != ["a", "b"] or "b" not in nodes:
            await asyncio.sleep(0.005)
        return [m.name for m in fleet.members]

    names, events = play(here, coming(), scenario, names=("verifier-0", "verifier-1"), nodes=nodes)
    assert sorted(names) == ["verifier-0", "verifier-1"]
    assert events == ["verifier_lost", "verifier_restarted", "verifier_left", "verifier_returned"]
