"""The buffer between producer and learner."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Rollout
from rlvr.run.step.buffer import GroupBuffer
from rlvr.run.step.shaping import DropReason, Screened

PROMPT = Prompt(prompt_id="p", text="?", source="s", checks=(Check(name="main", verifier="v", reference="4"),))


def group(number: int, *, reward: float = 1.0) -> Group:
    completion = Completion(
        completion_id=f"{number}#0",
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(1,),
        token_ids=(2,),
        logprobs=(0.0,),
        sampled_mask=(True,),
        text="",
        finish_reason=FinishReason.STOP,
        policy_versions=(0,),
    )
    rollout = Rollout(completion=completion, verdicts={}, reward=reward, reward_parts={"main": reward})
    return Group(group_id=f"{number:08d}", prompt=PROMPT, rollouts=(rollout,), issue_index=number)


def screen(of: Group) -> Screened:
    """Groups of reward 0 carry no signal."""
    reason = DropReason.EQUAL_REWARDS if of.rewards == (0.0,) else None
    return Screened(group=of, reason=reason, shaped={})


def make(prompts_per_step: int, **settings: int) -> GroupBuffer:
    return GroupBuffer(prompts_per_step=prompts_per_step, screen=screen, **settings)


class Producer:
    """Admits what it can and remembers when; finishes groups on request."""

    def __init__(self, buffer: GroupBuffer) -> None:
        self.buffer = buffer
        self.num_issued = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.buffer.admit()
            self.buffer.expect(f"{self.num_issued:08d}")
            self.num_issued += 1

    async def settle(self) -> int:
        """How many prompts were admitted once nothing moves any more."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.num_issued

    def stop(self) -> None:
        self._task.cancel()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 10))


def ids(groups: list[Group]) -> list[int]:
    return [group.issue_index for group in groups]


def test_groups_come_in_the_order_of_issue_and_not_of_arrival():
    async def scenario() -> None:
        buffer = make(2, max_staleness=1)
        producer = Producer(buffer)
        assert await producer.settle() == 4
        buffer.put(group(3))
        buffer.put(group(1))
        taking = asyncio.create_task(buffer.take())
        await producer.settle()
        assert not taking.done()  # the oldest is not finished
        buffer.put(group(0))
        taken = await taking
        assert (ids(taken.kept), taken.dropped) == ([0, 1], [])
        buffer.put(group(2))
        assert ids((await buffer.take()).kept) == [2, 3]
        producer.stop()

    run(scenario())


def test_what_the_filter_names_is_dropped_with_its_reason_and_not_replaced_without_refills():
    async def scenario() -> None:
        buffer = make(3)
        producer = Producer(buffer)
        await producer.settle()
        for number, reward in ((2, 1.0), (0, 1.0), (1, 0.0)):
            buffer.put(group(number, reward=reward))
        taken = await buffer.take()
        assert ids(taken.kept) == [0, 2]
        assert [(g.issue_index, why) for g, why in taken.dropped] == [(1, DropReason.EQUAL_REWARDS)]
        assert ids(taken.groups) == [0, 1, 2]
        assert taken.num_refilled == 0
        assert await producer.settle() == 3
        producer.stop()

    run(scenario())


def test_with_staleness_the_first_admission_is_larger_and_each_advance_makes_up_for_one_step():
    async def scenario() -> None:
        buffer = make(2, max_staleness=2)
        producer = Producer(buffer)
        assert await producer.settle() == 6
        for step in range(1, 4):
            for number in (2 * step - 2, 2 * step - 1):
                buffer.put(group(number))
            await buffer.take()
            assert await producer.settle() == 4 + 2 * step  # nothing is admitted by taking
            buffer.advance()
            assert await producer.settle() == 6 + 2 * step
        producer.stop()

    run(scenario())


def test_a_dropped_group_is_replaced_by_all_that_the_step_lacks_at_once():
    async def scenario() -> None:
        buffer = make(3, max_refills=6)
        producer = Producer(buffer)
        await producer.settle()
        taking = asyncio.create_task(buffer.take())
        buffer.put(group(0, reward=0.0))
        assert await producer.settle() == 3  # others of the round may still be dropped
        buffer.put(group(1))
        buffer.put(group(2, reward=0.0))
        assert await producer.settle() == 5
        buffer.put(group(4))
        buffer.put(group(3, reward=0.0))
        assert await producer.settle() == 6
        buffer.put(group(5))
        taken = await taking
        assert ids(taken.kept) == [1, 4, 5]
        assert taken.num_refilled == 3
        producer.stop()

    run(scenario())


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_step_uses_no_more_groups_than_its_refills_allow_even_if_all_are_dropped(max_staleness: int):
    async def scenario() -> None:
        buffer = make(2, max_refills=3, max_staleness=max_staleness)
        producer = Producer(buffer)

        async def make_useless_groups() -> None:
            made = 0
            while True:
                while made < producer.num_issued:
                    buffer.put(group(made, reward=0.0))
                    made += 1
                await asyncio.sleep(0)

        making = asyncio.create_task(make_useless_groups())
        for step in range(1, 4):
            taken = await buffer.take()
            assert (len(taken.kept), len(taken.dropped)) == (0, 5)
            assert ids(taken.groups) == list(range(5 * step - 5, 5 * step))
            buffer.advance()
        making.cancel()
        producer.stop()

    run(scenario())


def test_with_staleness_a_dropped_group_is_replaced_from_what_is_in_flight():
    async def scenario() -> None:
        buffer = make(2, max_refills=2, max_staleness=1)
        producer = Producer(buffer)
        assert await producer.settle() == 4
        for number in range(4):
            buffer.put(group(number, reward=float(number != 0)))
        taken = await buffer.take()
        assert (ids(taken.kept), taken.num_refilled) == ([1, 2], 1)
        assert buffer.num_in_flight == 1
        buffer.advance()
        assert await producer.settle() == 7  # one step's worth and the replacement
        producer.stop()

    run(scenario())


def test_a_smaller_staleness_holds_from_the_next_advance():
    async def scenario() -> None:
        buffer = make(2, max_staleness=1)
        producer = Producer(buffer)
        for number in range(4):
            buffer.put(group(number))
        await producer.settle()
        await buffer.take()
        buffer.set_max_staleness(0)
        buffer.advance()
        assert await producer.settle() == 4
        await buffer.take()
        buffer.advance()
        assert await producer.settle() == 6
        producer.stop()

    run(scenario())


def test_a_closed_buffer_hands_over_the_rest_and_then_nothing():
    async def scenario() -> None:
        buffer = make(2, max_refills=2)
        producer = Producer(buffer)
        await producer.settle()
        buffer.put(group(0))
        buffer.put(group(1, reward=0.0))
        buffer.close()
        taken = await buffer.take()
        assert (ids(taken.kept), len(taken.dropped)) == ([0], 1)
        buffer.advance()
        assert buffer.num_in_flight == 0
        assert (await buffer.take()).groups == []
        producer.stop()

    run(scenario())


def test_take_raises_what_the_producer_failed_with():
    async def scenario() -> None:
        buffer = make(2)
        producer = Producer(buffer)
        taking = asyncio.create_task(buffer.take())
        await producer.settle()
        buffer.put(group(0))
        await producer.settle()
        assert not taking.done()
        buffer.fail(RuntimeError("engine died"))
        with pytest.raises(RuntimeError, match="engine died"):
            await taking
        producer.stop()

    run(scenario())
