"""The loop. It sees Protocols only; `rlvr.run.launch.local` builds the parts, on a laptop as on a cluster.

    producer:  take prompt -> make_group (generate, judge, reward) -> buffer.put              (run.producer)
    start:     publish -> engines load -> each group of tensors perturbed, engines must follow   (run.weights.proof)
    learner:   updater.step: groups from the buffer -> advantages -> batch -> optimiser step  (run.step.update)
               -> publish -> engine loads -> receipt                                          (run.weights.sync)
               -> evaluation, checkpoint when due -> metrics -> buffer.advance()

The producer waits in `buffer.admit` until `buffer.advance` says that the engine serves newer weights; with staleness it
is so many steps ahead, and the engine generates while the learner trains. An engine loads weights only after the work
that it has begun, and nothing is admitted between the load and `advance`: so everything in between finds the engine
idle, and an evaluation sees one version and never shares a batch with training, at any staleness.
"""

import asyncio
from collections.abc import Sequence

from rlvr.errors import Interrupted, VerifierError
from rlvr.records import Group, Json
from rlvr.run.monitor.broken_checkers import CheckerWatch
from rlvr.run.parts import RunParts
from rlvr.run.producer import produce
from rlvr.run.settle import Settlement
from rlvr.run.steering import steer, unlike_from_start
from rlvr.run.step.evaluation import Evaluation
from rlvr.run.step.update import Update
from rlvr.run.weights.sync import Sync, first_sync, sync_weights

ERROR_RATE_PATIENCE_STEPS = 3


async def run_loop(parts: RunParts) -> int:
    """Trains from `first_step` to `num_steps`, records everything, and leaves a checkpoint of the last step.

    Returns: the last step; less than `num_steps` when every prompt was retired.

    Raises: Interrupted after a checkpoint, when the user asked to stop; RlvrError when the work failed.
    """
    parts.recorder.activity.begin("sending the first weights, and proving that they arrived")
    sync = await first_sync(parts.learner, parts.engine, thread=parts.thread, proof=parts.proof)
    checkers = CheckerWatch(
        parts.recorder.event,
        max_error_rate=parts.max_error_rate,
        patience_steps=ERROR_RATE_PATIENCE_STEPS,
    )
    if parts.first_step == 1:
        before = await parts.evaluate(0, sync.version, in_full=True)
        parts.recorder.evaluations(0, before)
        checkers.observe_evaluations(0, before)
    producer = asyncio.create_task(produce(parts))
    settlement = Settlement(parts)
    last_step, error_steps = parts.first_step - 1, 0
    try:
        for step in range(parts.first_step, parts.num_steps + 1):
            update = await parts.updater.step(policy_version=sync.version)
            if not update.taken.groups:
                break
            parts.recorder.activity.begin("sending weights")
            sync = await sync_weights(
                parts.learner, parts.engine, thread=parts.thread, proof=parts.proof
            )
            last_step = step
            metrics = update.metrics | settlement.settle(step, update)
            metrics |= sync.metrics
            metrics |= _speed(update, sync, has_overlap=parts.buffer.max_staleness > 0)

            is_exhausted = not parts.buffer.num_in_flight and parts.stream.is_exhausted()
            is_stopping = parts.stop.is_due and step < parts.num_steps and not is_exhausted
            is_end = is_exhausted or step == parts.num_steps
            evaluations: list[Evaluation] = []
            if parts.is_eval_due(step) or is_end:
                evaluations = await parts.evaluate(step, sync.version, in_full=is_end)
            parts.recorder.step(step, update, metrics, evaluations)

            parts.alarms.observe(step, update)
            pause = steer(parts, step, metrics)
            unjudged = metrics["reward/unjudged_rate"]
            error_steps = error_steps + 1 if unjudged > parts.max_error_rate else 0
            broken = checkers.observe(step, update.taken.groups)
            checkers.observe_evaluations(step, evaluations)
            broken = broken or unlike_from_start(parts, step, metrics)
            if error_steps >= ERROR_RATE_PATIENCE_STEPS:
                message = _error_rate_message(unjudged, error_steps, parts, update.taken.groups)
                broken = broken or VerifierError(message)
            if is_end:
                broken = broken or checkers.nothing_judged(update.taken.groups)
            if is_end or is_stopping or broken or pause or parts.is_checkpoint_due(step):
                lineage = parts.recorder.lineage(step)  # here: the ledger belongs to this thread
                await parts.thread.run(lambda s=step, found=lineage: _save(parts, s, found))
            if broken:
                raise broken
            if pause and not is_end:
                raise pause
            if is_stopping:
                how = f"{parts.stop.reason} after step {step} of {parts.num_steps}"
                raise Interrupted(parts.recorder.way_on(how))
            if is_end:
                break
            parts.buffer.advance()
        if last_step < parts.num_steps:
            parts.recorder.remark(
                "pool_exhausted",
                f"every prompt is solved and retired: the run ends after step {last_step} of {parts.num_steps}",
                step=last_step,
            )
        return last_step
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)
        parts.thread.close()


def _speed(update: Update, sync: Sync, *, has_overlap: bool) -> dict[str, float]:
    """Seconds of the step's parts, and tokens over them: where generation and training overlap, over the whole step."""
    step_s = update.wait_s + update.train_s + sync.sync_s + sync.wait_s
    metrics = update.metrics
    tokens = metrics["rollout/length_mean_tokens"] * metrics["rollout/num_completions"]
    generate_s = step_s if has_overlap else update.wait_s
    return {
        "time/step_s": step_s,
        "time/generate_s": update.wait_s,
        "time/train_s": update.train_s,
        "time/sync_s": sync.sync_s,
        "time/wait_s": sync.wait_s,
        "rollout/tokens_per_s": tokens / max(1e-9, generate_s),
        "learner/tokens_per_s": metrics.get("learner/loss_tokens", 0.0) / max(1e-9, update.train_s),
    }


def _save(parts: RunParts, step: int, lineage: dict[str, Json]) -> None:
    state = {**parts.state(), "lineage": lineage}
    parts.recorder.checkpoint(step, learner=parts.learner, state=state)


def _error_rate_message(
    rate: float, num_steps: int, parts: RunParts, groups: Sequence[Group]
) -> str:
    broken = [
        (rollout.completion.completion_id, verdict.reason)
        for group in groups
        for rollout in group.rollouts
        for verdict in rollout.verdicts.values()
        if verdict.score is None
    ]
    cause = (
        f"The verifier is broken, first: {broken[0][0]}: {broken[0][1]}"
        if broken
        else "The engine cut them off at rollout.completion_deadline_s: raise it, or see why the engine is slow"
    )
    return (
        f"{rate:.0%} of rollouts could not be judged for {num_steps} step{'s' * (num_steps != 1)} "
        f"(reward.max_error_rate is {parts.max_error_rate:.0%}): "
        + ("nothing was learned. " if rate == 1.0 else "training on what is left would be biased. ")
        + cause
    )
