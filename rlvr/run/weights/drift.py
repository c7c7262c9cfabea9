"""Drift: an engine's log-probs may move away from the learner's no further than rounding explains."""

import math

from rlvr.errors import RolloutError
from rlvr.protocols import LoadReceipt
from rlvr.run.weights.answers import DRIFT_FLOOR, Answers, Compared
from rlvr.run.weights.canary import Difference, Scores, difference, mean_size

START_LIMIT = 0.5  # nats, mean: more is not rounding but another model
STANDARD_ERRORS = 4.0
DRIFT_FACTOR = 2.0  # times the start's mean: rounding grows as a policy sharpens (small model: a third in 20 steps)


def check_drift(compared: Compared, answers: Answers, one: LoadReceipt, learner: Scores, *, where: str) -> float:
    """Compares an engine's log-probs of the wide rows with the learner's; returns their mean difference, nats.

    The first difference is kept as the engine's noise. Args: where: version and engine, for messages.

    Raises: RolloutError when they differ by more than rounding explains.
    """
    answer = answers.of[one.engine_id]
    gap = difference(one.canary_logprobs[len(compared.canary.sync) :], learner)
    size = mean_size(learner)
    if answer.noise is None:
        if gap.mean > START_LIMIT:
            raise RolloutError(
                f"{where} differs from the learner by {gap.mean:.4g} nats a token on average (bound "
                f"{START_LIMIT}): it does not compute with the weights that it received, or computes differently"
            )
        answer.noise = gap
        answers.size = answers.size or size
        return gap.mean
    warn_limit, limit = (_bound(answer.noise, growth=size / answers.size, factor=f) for f in (1.0, DRIFT_FACTOR))
    figures = (
        f"mean difference {gap.mean:.4g} nats a token over {sum(map(len, learner))} canary tokens; "
        f"{answer.noise.mean:.4g} at the start, bound {limit:.4g}"
    )
    if gap.mean > limit:
        raise RolloutError(f"{where} has drifted from the learner: {figures}")
    if gap.mean > warn_limit and not answer.is_drifting:
        answer.is_drifting = True
        compared.record(
            "engine_drifting",
            f"{where} differs more from the learner than at the start: {figures}",
            {
                "engine": one.engine_id,
                "policy_version": one.policy_version,
                "mean": gap.mean,
                "start": answer.noise.mean,
                "bound": limit,
            },
        )
    return gap.mean


def _bound(noise: Difference, *, growth: float, factor: float) -> float:
    error = math.sqrt(2) * noise.standard_error  # the standard error of the new difference would grow with the fault
    return max(DRIFT_FLOOR, max(1.0, growth) * (factor * noise.mean + STANDARD_ERRORS * error))
