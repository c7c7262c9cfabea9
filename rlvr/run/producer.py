"""Takes prompts while the buffer admits them, and makes their groups concurrently."""

import asyncio

from rlvr.data.order import Issue, PoolExhausted
from rlvr.run.parts import RunParts
from rlvr.run.step.failures import first_failure


async def produce(parts: RunParts) -> None:
    """Runs until it is cancelled, or until the prompts run out and the last group is made.

    A failure reaches the learner through the buffer; unfinished groups are cancelled.
    """
    making: set[asyncio.Task[None]] = set()
    try:
        while True:
            await parts.buffer.admit()
            issue = parts.stream.take()
            parts.buffer.expect(group_id_of(issue.index))
            task = asyncio.create_task(_make(parts, issue))
            making.add(task)
            task.add_done_callback(making.discard)
    except PoolExhausted:
        parts.buffer.close()
        await asyncio.gather(*making)
    except Exception as error:  # noqa: BLE001 - handed to the learner side, which raises it
        parts.buffer.fail(error)
    finally:
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)


def group_id_of(index: int) -> str:
    """The group id of an issue; ids sort in issue order."""
    return f"{index:08d}"


async def _make(parts: RunParts, issue: Issue) -> None:
    """One group, from prompt to buffer."""
    group_id = group_id_of(issue.index)
    try:
        version = (await parts.engine.health()).policy_version
        parts.recorder.issued(issue.index, group_id, issue.prompt, version)
        group = await parts.sampler.make_group(
            group_id, issue.prompt, plan=parts.plan, policy_version=version, issue_index=issue.index, repeat=issue.epoch
        )
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - handed to the learner side, which raises it
        parts.buffer.fail(first_failure(error))
    else:
        parts.buffer.put(group)
