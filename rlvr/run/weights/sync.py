"""One weight sync: the learner publishes, the engines load, and their receipts are checked."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rlvr.batch import Learner
from rlvr.protocols import RolloutEngine
from rlvr.records import Transport, WeightsRef
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.weights.answers import deliver
from rlvr.run.weights.proof import WeightProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """The result of a sync.

    sync_s: seconds of publishing, loading and checking. wait_s: seconds until the engine had finished its
        earlier requests, because it loads only then.
    """

    ref: WeightsRef
    sync_s: float
    wait_s: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def version(self) -> int:
        """The version that the engines serve."""
        return self.ref.policy_version


async def sync_weights(
    learner: Learner, engine: RolloutEngine, *, thread: LearnerThread, proof: WeightProof | None = None
) -> Sync:
    """Publishes weights, lets the engines load them, and checks their receipts; the learner waits meanwhile.

    Args: proof: also checks the engines' log-probs; None where no weights travel.

    Raises: RolloutError when what an engine reports or computes does not match what the learner published.
    """
    start = time.perf_counter()
    ref = await thread.run(learner.publish)
    if ref.transport is Transport.SHARED:
        proof = None
    asked = time.perf_counter()
    ref, receipt = await deliver(engine, ref, canary=proof.rows(ref) if proof is not None else ())
    wait_s = max(0.0, time.perf_counter() - asked - receipt.seconds)
    metrics: Mapping[str, float] = {}
    if proof is not None:
        metrics = (await proof.check(ref, receipt)).metrics
    return Sync(ref=ref, sync_s=time.perf_counter() - start - wait_s, wait_s=wait_s, metrics=metrics)


async def first_sync(
    learner: Learner, engine: RolloutEngine, *, thread: LearnerThread, proof: WeightProof | None
) -> Sync:
    """The sync before the first generation, and the proof that the engines follow every group of tensors.

    Raises: RolloutError, as `sync_weights` does, and when an engine does not follow.
    """
    sync = await sync_weights(learner, engine, thread=thread, proof=proof)
    if proof is not None and sync.ref.transport is not Transport.SHARED:
        await proof.prove_groups(sync.ref)
    return sync
