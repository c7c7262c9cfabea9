"""What really failed, when several tasks were told to end because one did; and the loss that a run survives."""

from rlvr.errors import LearnerError


class LearnerLost(LearnerError):  # noqa: N818 - what happened to it
    """The process of the learner is gone; the run goes on from its last checkpoint (`rlvr.run.launch.run`)."""


def first_failure(error: BaseException) -> BaseException:
    """The first real failure inside an exception group, however deep; any other exception as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
