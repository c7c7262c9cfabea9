"""Carries out what the governor decides, and says so in events.jsonl."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict

from rlvr.errors import RlvrError
from rlvr.run.monitor.governor import Action
from rlvr.run.parts import RunParts

logger = logging.getLogger(__name__)


def steer(parts: RunParts, step: int, metrics: Mapping[str, float]) -> RlvrError | None:
    """Lets the governor look at a step's metrics and does what it says.

    Returns: the error that ends the run, after a checkpoint, when it says pause.
    """
    decision = parts.governor.observe(metrics)
    if decision is None:
        return None
    parts.recorder.event(
        "mismatch_alarm",
        step=step,
        action=decision.action.value,
        reason=decision.reason,
        readings=[asdict(reading) for reading in decision.readings],
        correction=asdict(decision.correction),
        max_staleness=decision.max_staleness,
    )
    logger.warning("step %d: %s: %s", step, decision.action.value, decision.reason)
    match decision.action:
        case Action.STRICTER_CORRECTION:
            parts.set_correction(decision.correction)
        case Action.LESS_STALENESS:
            parts.buffer.set_max_staleness(decision.max_staleness)
        case Action.PAUSE:
            return RlvrError(
                f"paused after step {step}: the engine's policy has left the learner's, {decision.reason}; the "
                "correction is as strict as it gets and nothing is stale. A checkpoint was saved. Look at mismatch/* "
                "in the report; go on with --resume once the engine is fixed, or as it is with --resume "
                "algorithm.governor.mode=warn"
            )
        case Action.WARN:
            pass
    return None


def unlike_from_start(parts: RunParts, step: int, metrics: Mapping[str, float]) -> RlvrError | None:
    """The error that ends a run whose engine and learner differ by more than rounding at the first step."""
    found = parts.governor.beyond_rounding(metrics)
    if not found:
        return None
    name, value, bound = found[0]
    parts.recorder.event(
        "mismatch_at_start",
        step=step,
        reason=f"{name} is {value:.3g} nats, and rounding makes at most {bound:g}",
        readings=[
            {"metric": name, "value": value if math.isfinite(value) else None, "bound": bound}
            for name, value, bound in found
        ],
    )
    return RlvrError(
        f"stopped after step {step}: {name} is {value:.3g} nats, and rounding makes at most {bound:g} of it where "
        "engine and learner have the same weights and the same arithmetic. So completions are not sampled from the "
        "policy that is trained: the code of this model's family generates otherwise than it trains, which no setting "
        "of the algorithm corrects. A checkpoint was saved. Try rollout.engine=vllm or a model of another family "
        "(rlvr/README.md, 'Model families'); algorithm.governor.mode=off trains on regardless"
    )
