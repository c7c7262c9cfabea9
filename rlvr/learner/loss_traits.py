"""Properties of a loss that a learner needs beyond its value."""

from rlvr.algorithms.build import LossFunction
from rlvr.algorithms.corrections import Correction
from rlvr.algorithms.losses import PolicyLoss
from rlvr.errors import LearnerError
from rlvr.importance_weights import WeightLevel


def reads_proximal(loss: LossFunction) -> bool:
    """Whether the loss reads the learner's log-probs before the step: in its ratio, in a weight or in a mask."""
    if loss.uses_proximal or not isinstance(loss, PolicyLoss):
        return loss.uses_proximal
    return loss.correction.level is not WeightLevel.NONE or loss.correction.geometric_max > 0.0


def set_correction(loss: LossFunction, correction: Correction) -> None:
    """Replaces its correction. Raises LearnerError when it has none."""
    if not isinstance(loss, PolicyLoss):
        raise LearnerError(f"{type(loss).__name__} has no correction to set")
    loss.correction = correction
