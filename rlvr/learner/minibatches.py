"""A training step as a sequence of optimiser steps on minibatches, for every kind of learner."""

from dataclasses import replace

from rlvr.batch import Batch, Learner, StepReport
from rlvr.learner.metrics import merged_reports
from rlvr.learner.microbatch import split_minibatches


def step_through(learner: Learner, batch: Batch, *, num_minibatches: int) -> StepReport:
    """`accumulate` and `apply` for each minibatch; metrics are means over them, norms the largest.

    Mismatch with the engine is measured before the weights move: in later minibatches only against given proximal
    log-probs, since what differs from the engine there is also the step.
    """
    reports: list[StepReport] = []
    for minibatch in split_minibatches(batch, count=num_minibatches):
        learner.accumulate(minibatch)
        report = learner.apply(minibatch.denominators)
        if reports and batch.proximal_logprobs is None:
            kept = {k: v for k, v in report.metrics.items() if not k.startswith("mismatch/")}
            report = replace(report, metrics=kept)
        reports.append(report)
    return merged_reports(reports)
