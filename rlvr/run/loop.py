"""The training loop. It depends on Protocols only; `rlvr.run.launch` builds the parts, locally or on a cluster.

      producer task                                   learner task (this loop; tensors in `parts.thread`)
      -------------                                   ---------------------------------------------------
      buffer.admit()  <------- admits prompts ------  first_sync: publish -> engines load -> proof
      stream.take() -> prompt                         buffer.take() -> one step's groups, in issue order
      sampler.make_group:                             updater.step: advantages -> batch -> optimiser step
        engine.generate -> verify -> reward           sync_weights: publish -> engines load -> receipt
      buffer.put(group)  -------- groups -------->    evaluation, checkpoint when due -> metrics
                                                      buffer.advance()

    | task     | produces                | consumes          | waits in     | until                                  |
    |----------|-------------------------|-------------------|--------------|----------------------------------------|
    | producer | groups                  | prompts           | buffer.admit | advance: engines serve newer weights   |
    | learner  | weights, room for groups| groups            | buffer.take  | put, or fail or close of the producer  |
    | engine   | completions             | requests, weights | load_weights | begun requests are done (or frozen)    |

With `max_staleness` k the producer runs k steps ahead, and engines generate while the learner trains. No prompt is
admitted between `sync_weights` and `advance`, and an engine first finishes the requests that it has begun, so an
evaluation sees one version of the weights and shares no batch with training. Only an engine that loads while it
generates (vLLM) continues frozen requests during an evaluation, with the same weights.
"""

import asyncio
import gc

from rlvr.errors import Interrupted
from rlvr.records import Json
from rlvr.run.after_step import AfterStep
from rlvr.run.parts import RunParts
from rlvr.run.producer import produce
from rlvr.run.step.evaluation import Evaluation
from rlvr.run.step.update import Update
from rlvr.run.weights.sync import Sync, first_sync, sync_weights


async def run_loop(parts: RunParts) -> int:
    """Trains all steps of the schedule, records everything, and saves a checkpoint of the last step.

    Returns: the last step; less than the schedule's when every prompt was retired.

    Raises: Interrupted after a checkpoint, when the user asked to stop; RlvrError when the run failed.
    """
    gc.freeze()  # the libraries hold 400,000 objects, and scanning them takes a third of the driver's time
    try:
        return await _run(parts)
    finally:
        gc.unfreeze()


async def _run(parts: RunParts) -> int:
    """All steps; see `run_loop`."""
    parts.recorder.activity.begin("sending the first weights and proving that they arrived")
    sync = await first_sync(parts.learner, parts.engine, thread=parts.thread, proof=parts.proof)
    after = AfterStep(parts)
    schedule = parts.schedule
    if schedule.first_step == 1:
        before = await parts.evaluate(0, sync.version, in_full=True)
        parts.recorder.evaluations(0, before)
        after.observe_evaluations(0, before)
    producer = asyncio.create_task(produce(parts))
    last_step = schedule.first_step - 1
    try:
        for step in range(schedule.first_step, schedule.num_steps + 1):
            update = await parts.updater.step(policy_version=sync.version)
            if not update.taken.groups:
                break
            parts.recorder.activity.begin("sending weights")
            sync = await sync_weights(parts.learner, parts.engine, thread=parts.thread, proof=parts.proof)
            last_step = step
            metrics = update.metrics | after.settle_prompts(step, update)
            metrics |= sync.metrics
            metrics |= _speed(update, sync, has_overlap=parts.buffer.max_staleness > 0)

            is_exhausted = not parts.buffer.num_in_flight and parts.stream.is_exhausted()
            is_stopping = parts.stop.is_due and step < schedule.num_steps and not is_exhausted
            is_end = is_exhausted or step == schedule.num_steps
            evaluations: list[Evaluation] = []
            if schedule.is_eval_due(step) or is_end:
                evaluations = await parts.evaluate(step, sync.version, in_full=is_end)
            parts.recorder.step(step, update, metrics, evaluations)

            broken, pause = after.observe(step, update, metrics, evaluations, is_end=is_end)
            is_last = bool(is_end or is_stopping or broken or pause)
            if is_last or schedule.is_checkpoint_due(step):
                lineage = parts.recorder.lineage(step)  # the ledger may be used in this thread only
                await parts.thread.run(lambda s=step, found=lineage, waits=is_last: _save(parts, s, found, waits))
            else:  # one that learners have been writing since an earlier step
                await parts.thread.run(lambda: parts.recorder.finish_checkpoint(parts.learner, waits=False))
            if broken:
                raise broken
            if pause and not is_end:
                raise pause
            if is_stopping:
                how = f"{parts.stop.reason} after step {step} of {schedule.num_steps}"
                raise Interrupted(parts.recorder.resume_hint(how))
            if is_end:
                break
            parts.buffer.advance()
        if last_step < schedule.num_steps:
            parts.recorder.remark(
                "pool_exhausted",
                f"all prompts are solved and retired: the run ends after step {last_step} of {schedule.num_steps}",
                step=last_step,
            )
        return last_step
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)
        parts.thread.close()


def _speed(update: Update, sync: Sync, *, has_overlap: bool) -> dict[str, float]:
    """Seconds of the step's parts, and tokens per second: over the whole step when generation and training overlap."""
    step_s = update.wait_s + update.train_s + sync.sync_s + sync.wait_s
    metrics = update.metrics
    generate_s = step_s if has_overlap else update.wait_s
    return {
        "time/step_s": step_s,
        "time/generate_s": update.wait_s,
        "time/train_s": update.train_s,
        "time/sync_s": sync.sync_s,
        "time/wait_s": sync.wait_s,
        "rollout/tokens_per_s": update.statistics.num_tokens / max(1e-9, generate_s),
        "learner/tokens_per_s": metrics.get("learner/loss_tokens", 0.0) / max(1e-9, update.train_s),
    }


def _save(parts: RunParts, step: int, lineage: dict[str, Json], waits: bool) -> None:
    state = {**parts.state(), "lineage": lineage}
    parts.recorder.checkpoint(step, learner=parts.learner, state=state, waits=waits)
