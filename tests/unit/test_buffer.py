"""The buffer between producer and learner."""

import asyncio

import pytest

from rlvr.records import Check, Completion, FinishReason, Group, Prompt, Rollout
from rlvr.run.buffer import GroupBuffer

PROMPT = Prompt(
    prompt_id="p", text="?", source="s", checks=(Check(name="main", verifier="v", reference="4"),)
)


def group(number: int, *, num_judged: int = 2) -> Group:
    def rollout(index: int) -> Rollout:
        completion = Completion(
            completion_id=f"{number}#{index}", prompt_id="p", sample_index=index, prompt_token_ids=(1,),
            token_ids=(2,), logprobs=(0.0,), sampled_mask=(True,), text="", finish_reason=FinishReason.STOP,
            policy_versions=(0,),
        )  # fmt: skip
        judged = index < num_judged
        return Rollout(
            completion=completion, verdicts={}, reward=1.0 if judged else None,
            reward_parts={"main": 1.0} if judged else {},
        )  # fmt: skip

    return Group(
        group_id=f"{number:08d}", prompt=PROMPT, rollouts=tuple(rollout(i) for i in range(3))
    )


def test_groups_come_sorted_whatever_their_order_of_arrival_and_unjudged_ones_are_dropped():
    async def scenario() -> None:
        buffer = GroupBuffer(prompts_per_step=3, min_judged=2)
        for number in (2, 0, 1):
            buffer.put(group(number, num_judged=1 if number == 1 else 3))
        taken = await buffer.take()
        assert [g.group_id for g in taken.kept] == ["00000000", "00000002"]
        assert [(g.group_id, why) for g, why in taken.dropped] == [
            ("00000001", "fewer than 2 judged rollouts")
        ]
        assert [g.group_id for g in taken.groups] == ["00000000", "00000001", "00000002"]

    asyncio.run(scenario())


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_admission_is_bounded_by_staleness_and_freed_by_advance(max_staleness: int):
    async def scenario() -> None:
        buffer = GroupBuffer(prompts_per_step=2, min_judged=2, max_staleness=max_staleness)
        for _ in range(2 * (1 + max_staleness)):
            await asyncio.wait_for(buffer.admit(), 1)
        waiting = asyncio.create_task(buffer.admit())
        await asyncio.sleep(0)
        assert not waiting.done()
        buffer.advance()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())


def test_take_waits_for_the_last_group_and_raises_what_the_producer_failed_with():
    async def scenario() -> None:
        buffer = GroupBuffer(prompts_per_step=2, min_judged=2)
        taking = asyncio.create_task(buffer.take())
        buffer.put(group(0))
        await asyncio.sleep(0)
        assert not taking.done()
        buffer.fail(RuntimeError("engine died"))
        with pytest.raises(RuntimeError, match="engine died"):
            await taking

    asyncio.run(scenario())
