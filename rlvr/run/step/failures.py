"""Finds the original failure when one task's error cancelled others; and the learner loss that a run survives."""

from rlvr.errors import LearnerError


class LearnerLost(LearnerError):  # noqa: N818 - names the event
    """The learner's process is gone; the run continues from its last checkpoint (`rlvr.run.launch.run`)."""


def first_failure(error: BaseException) -> BaseException:
    """The first real failure inside an exception group, however deep; any other exception unchanged."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
