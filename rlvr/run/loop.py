"""The loop. It sees Protocols only; `rlvr.run.local` builds the parts, on a laptop as on a cluster.

    producer:  take prompt -> make_group (generate, judge, reward) -> buffer.put
    learner:   groups = await buffer.take() -> batch -> annotate -> step -> publish -> engine loads -> receipt
               -> evaluation, checkpoint when due -> metrics -> buffer.advance()

The producer waits in `buffer.admit` until `buffer.advance` says that the engine serves newer weights. Everything after
one step's `publish` and before `advance` finds the engine idle, so an evaluation never shares a batch with training.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from rlvr.batch import Batch, Learner
from rlvr.errors import Interrupted, RolloutError, VerifierError
from rlvr.records import Group, Prompt
from rlvr.run.evaluation import Evaluation
from rlvr.run.failures import first_failure
from rlvr.run.metrics import advantages_by_completion, rollout_metrics, staleness
from rlvr.run.parts import RunParts

ERROR_RATE_PATIENCE_STEPS = 3
T = TypeVar("T")


async def run_loop(parts: RunParts) -> None:
    """Trains from `first_step` to `num_steps`, records everything, and leaves a checkpoint of the last step.

    Raises: Interrupted after a checkpoint, when the user asked to stop; RlvrError when the work failed.
    """
    version, _ = await _sync(parts)
    if parts.first_step == 1:
        parts.recorder.evaluations(0, await parts.evaluate(0, version))
    producer = asyncio.create_task(_produce(parts))
    error_steps = 0
    try:
        for step in range(parts.first_step, parts.num_steps + 1):
            started = time.perf_counter()
            taken = await parts.buffer.take()
            generated = time.perf_counter()

            lists = {group.group_id: parts.advantage(group.rewards) for group in taken.kept}
            advantages = advantages_by_completion(taken.kept, lists)
            metrics = rollout_metrics(taken.groups)
            metrics["policy/staleness_mean"] = staleness(taken.groups, policy_version=version)
            metrics["rollout/dropped_groups"] = float(len(taken.dropped))
            if taken.kept:
                batch = parts.collate(taken.kept, advantages)
                metrics |= await _in_learner_thread(parts, lambda b=batch: _train(parts.learner, b))
            else:
                parts.recorder.event("step_without_groups", step=step, reason=taken.dropped[0][1])
            trained = time.perf_counter()

            version, sync_s = await _sync(parts)
            ended = time.perf_counter()
            tokens = metrics["rollout/length_mean_tokens"] * metrics["rollout/num_completions"]
            metrics |= {
                "time/step_s": ended - started,
                "time/generate_s": generated - started,
                "time/train_s": trained - generated,
                "time/sync_s": sync_s,
                "rollout/tokens_per_s": tokens / max(1e-9, generated - started),
                "learner/tokens_per_s": metrics.get("learner/loss_tokens", 0.0)
                / max(1e-9, trained - generated),
            }
            is_stopping = parts.stop.requested and step < parts.num_steps
            is_last = is_stopping or step == parts.num_steps
            evaluations: list[Evaluation] = []
            if parts.is_eval_due(step):
                evaluations = await parts.evaluate(step, version)
            parts.recorder.step(step, taken, advantages, metrics, evaluations)

            unjudged = metrics["reward/unjudged_rate"]
            error_steps = error_steps + 1 if unjudged > parts.max_error_rate else 0
            is_broken = error_steps >= ERROR_RATE_PATIENCE_STEPS
            if is_last or is_broken or parts.is_checkpoint_due(step):
                await _in_learner_thread(parts, lambda s=step: _save(parts, s))
            if is_broken:
                raise VerifierError(_error_rate_message(unjudged, parts, taken.groups))
            if is_stopping:
                raise Interrupted(
                    f"stopped after step {step} of {parts.num_steps}; go on with --resume"
                )
            if not is_last:
                parts.buffer.advance()
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)
        parts.learner_thread.shutdown(wait=True)


async def _produce(parts: RunParts) -> None:
    """Takes prompts while the buffer admits them, and makes their groups side by side; ends by being cancelled."""
    making: set[asyncio.Task[None]] = set()
    try:
        while True:
            await parts.buffer.admit()
            index, prompt = parts.stream.take()
            task = asyncio.create_task(_make(parts, index, prompt))
            making.add(task)
            task.add_done_callback(making.discard)
    except Exception as error:  # noqa: BLE001 - handed to the learner side, which raises it
        parts.buffer.fail(error)
    finally:
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)


async def _make(parts: RunParts, index: int, prompt: Prompt) -> None:
    """One group, from prompt to buffer; a failure reaches the learner side through the buffer."""
    group_id = f"{index:08d}"
    try:
        version = (await parts.engine.health()).policy_version
        parts.recorder.issued(index, group_id, prompt, version)
        group = await parts.sampler.make_group(
            group_id, prompt, plan=parts.plan, policy_version=version
        )
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - handed to the learner side, which raises it
        parts.buffer.fail(first_failure(error))
    else:
        parts.buffer.put(group)


def _train(learner: Learner, batch: Batch) -> dict[str, float]:
    report = learner.step(learner.annotate(batch))
    return dict(report.metrics)


def _save(parts: RunParts, step: int) -> None:
    parts.recorder.checkpoint(step, learner=parts.learner, stream_state=parts.stream.state())


async def _sync(parts: RunParts) -> tuple[int, float]:
    """Publishes, lets the engine load, and checks its receipt. Returns the version and the seconds it took.

    Raises: RolloutError when the engine's own word differs from what the learner published.
    """
    start = time.perf_counter()
    ref = await _in_learner_thread(parts, parts.learner.publish)
    receipt = await parts.engine.load_weights(ref)
    if receipt.policy_version != ref.policy_version:
        raise RolloutError(
            f"the learner published version {ref.policy_version}, the engine says it serves {receipt.policy_version}"
        )
    stale = [
        entry.name for entry in ref.manifest if receipt.checksums.get(entry.name) != entry.checksum
    ]
    if stale:
        raise RolloutError(
            f"version {ref.policy_version}: the engine holds other bytes in {stale[:3]}"
        )
    return ref.policy_version, time.perf_counter() - start


async def _in_learner_thread(parts: RunParts, function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(parts.learner_thread, function)


def _error_rate_message(rate: float, parts: RunParts, groups: Sequence[Group]) -> str:
    broken = [
        (rollout.completion.completion_id, verdict.reason)
        for group in groups
        for rollout in group.rollouts
        for verdict in rollout.verdicts.values()
        if verdict.score is None
    ]
    return (
        f"{rate:.0%} of rollouts could not be judged for {ERROR_RATE_PATIENCE_STEPS} steps (reward.max_error_rate is "
        f"{parts.max_error_rate:.0%}): the verifier is broken, and training on what is left would be biased. "
        f"First: {broken[0][0]}: {broken[0][1]}"
    )
