"""After each step: settles its prompts and asks the monitors whether the run may continue."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rlvr.errors import RlvrError, VerifierError
from rlvr.records import Group, Status
from rlvr.run.monitor.broken_checkers import CheckerWatch
from rlvr.run.monitor.governor import Action
from rlvr.run.parts import RunParts
from rlvr.run.step.evaluation import Evaluation
from rlvr.run.step.update import Update

logger = logging.getLogger(__name__)

ERROR_RATE_PATIENCE_STEPS = 3


class AfterStep:
    """Runs the checks that follow a step, and counts conditions that end the run when they persist."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        self._checkers = CheckerWatch(
            parts.recorder.event, max_error_rate=parts.max_error_rate, patience_steps=ERROR_RATE_PATIENCE_STEPS
        )
        self._num_passed = parts.stream.num_passed
        self._error_steps = 0
        self._has_warned = False

    def settle_prompts(self, step: int, update: Update) -> dict[str, float]:
        """Settles the step's prompts in the stream. Returns `data/*` metrics when data.difficulty is on."""
        for group in update.taken.groups:
            self._parts.stream.settle(group.issue_index)
        self._note_unusual(step, update)
        rates = self._parts.solve_rates
        if rates is None:
            return {}
        rates.observe(update.taken.groups)
        before, self._num_passed = self._num_passed, self._parts.stream.num_passed
        return rates.metrics() | {"data/skipped_draws": float(self._num_passed - before)}

    def observe(
        self,
        step: int,
        update: Update,
        metrics: Mapping[str, float],
        evaluations: Sequence[Evaluation],
        *,
        is_end: bool,
    ) -> tuple[RlvrError | None, RlvrError | None]:
        """Passes the step to the alarms, the governor and the checker watch, in this order.

        Returns: the error that fails the run; the error that pauses it, unless this was its last step.
        """
        parts, groups = self._parts, update.taken.groups
        parts.alarms.observe(step, update)
        pause = apply_governor(parts, step, metrics)
        unjudged = update.statistics.unjudged_rate
        self._error_steps = self._error_steps + 1 if unjudged > parts.max_error_rate else 0
        broken = self._checkers.observe(step, groups)
        self._checkers.observe_evaluations(step, evaluations)
        broken = broken or mismatch_at_start(parts, step, metrics)
        if self._error_steps >= ERROR_RATE_PATIENCE_STEPS:
            message = _error_rate_message(unjudged, self._error_steps, parts, groups)
            broken = broken or VerifierError(message)
        if is_end:
            broken = broken or self._checkers.nothing_judged(groups)
        return broken, pause

    def observe_evaluations(self, step: int, evaluations: Sequence[Evaluation]) -> None:
        """Passes evaluations outside a step to the checker watch."""
        self._checkers.observe_evaluations(step, evaluations)

    def _note_unusual(self, step: int, update: Update) -> None:
        taken = update.taken
        if not update.has_learned:
            reason = taken.dropped[0][1].value if taken.dropped else "no token to learn from"
            self._parts.recorder.event("step_without_groups", step=step, reason=reason)
        if not update.is_refill_spent:
            return
        self._parts.recorder.event("refill_spent", step=step, groups=len(taken.groups), kept=len(taken.kept))
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "step %d: of %d groups only %d carried a signal, and algorithm.dynamic_sampling.max_refill_factor "
                "allows no more replacements, so the step was smaller (events.jsonl lists every such step)",
                step,
                len(taken.groups),
                len(taken.kept),
            )


def apply_governor(parts: RunParts, step: int, metrics: Mapping[str, float]) -> RlvrError | None:
    """Passes a step's metrics to the governor and applies its decision, which is recorded in events.jsonl.

    Returns: the error that ends the run after a checkpoint, when the decision is to pause.
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
                f"paused after step {step}: the engine's policy has diverged from the learner's, {decision.reason}; "
                "the correction is already the strictest and staleness is 0. A checkpoint was saved. See mismatch/* "
                "in the report; continue with --resume once the engine is fixed, or as it is with --resume "
                "algorithm.governor.mode=warn"
            )
        case Action.WARN:
            pass
    return None


def mismatch_at_start(parts: RunParts, step: int, metrics: Mapping[str, float]) -> RlvrError | None:
    """The error that ends a run whose engine and learner differ by more than rounding at the first step."""
    found = parts.governor.beyond_rounding(metrics)
    if not found:
        return None
    name, value, bound = found[0]
    parts.recorder.event(
        "mismatch_at_start",
        step=step,
        reason=f"{name} is {value:.3g} nats, and rounding explains at most {bound:g}",
        readings=[
            {"metric": name, "value": value if math.isfinite(value) else None, "bound": bound}
            for name, value, bound in found
        ],
    )
    return RlvrError(
        f"stopped after step {step}: {name} is {value:.3g} nats. Engine and learner use the same weights and the same "
        f"arithmetic, so rounding explains at most {bound:g}. Completions are therefore not sampled from the policy "
        "that is trained: this model family computes differently in generation than in training, which no setting of "
        "the algorithm corrects. A checkpoint was saved. Try rollout.engine=vllm or a model of another family "
        "(rlvr/README.md, 'Model families'); algorithm.governor.mode=off continues anyway"
    )


def _error_rate_message(rate: float, num_steps: int, parts: RunParts, groups: Sequence[Group]) -> str:
    broken = [
        (rollout.completion.completion_id, verdict.reason)
        for group in groups
        for rollout in group.rollouts
        for verdict in rollout.verdicts.values()
        if verdict.status is Status.ERROR
    ]
    skipped = [
        f"{rollout.completion.completion_id}: {verdict.reason}"
        for group in groups
        for rollout in group.rollouts
        for verdict in rollout.verdicts.values()
        if verdict.status is Status.SKIPPED and rollout.reward is None
    ]
    if broken:
        cause = f"The verifier is broken; first error: {broken[0][0]}: {broken[0][1]}"
    elif skipped:
        cause = f"No check with role reward applies to their rows: remove these rows, or add a check; {skipped[0]}"
    else:
        cause = "The engine cut them off at rollout.completion_deadline_s: raise it, or find out why the engine is slow"
    return (
        f"{rate:.0%} of rollouts could not be judged for {num_steps} step{'s' * (num_steps != 1)} "
        f"(reward.max_error_rate is {parts.max_error_rate:.0%}): "
        + ("nothing was learned. " if rate == 1.0 else "training on what is left would be biased. ")
        + cause
    )
