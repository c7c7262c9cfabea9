"""One weight sync: the learner publishes, the engine loads, and its word is checked against the learner's."""

import time

from rlvr.batch import Learner
from rlvr.errors import RolloutError
from rlvr.protocols import RolloutEngine
from rlvr.run.learner_thread import LearnerThread


async def sync_weights(
    learner: Learner, engine: RolloutEngine, *, thread: LearnerThread
) -> tuple[int, float, float]:
    """Publishes, lets the engine load, and checks its receipt; the learner stands still meanwhile.

    Returns: the version; seconds of publishing, loading and checking; seconds until the engine had finished what it had
        begun before, because it loads only then.

    Raises: RolloutError when the engine's own word differs from what the learner published.
    """
    start = time.perf_counter()
    ref = await thread.run(learner.publish)
    asked = time.perf_counter()
    receipt = await engine.load_weights(ref)
    wait_s = max(0.0, time.perf_counter() - asked - receipt.seconds)
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
    return ref.policy_version, time.perf_counter() - start - wait_s, wait_s
