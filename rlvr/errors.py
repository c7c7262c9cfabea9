"""The exceptions. Each belongs to one boundary, and each pickles, so that it can cross process boundaries.

A message says what failed, the value, what was expected and what to do, with the ids needed to find the place.
"""


class RlvrError(Exception):
    """Any expected failure; `exit_code` is the exit code of the command line."""

    exit_code = 1


# Exceptions of a plugin's code in this process: `sys.exit` in a verifier must not end a run. KeyboardInterrupt is not
# included, because the user's Ctrl-C cannot be distinguished from one that a plugin raises.
PLUGIN_FAULTS: tuple[type[BaseException], ...] = (Exception, SystemExit)


class ConfigError(RlvrError):
    """The recipe or the call is wrong (exit code 2); the message lists every problem at once."""

    exit_code = 2


class DataError(RlvrError):
    """A data set, a row or a reference is wrong (exit code 2); found before training starts."""

    exit_code = 2


class PluginError(RlvrError):
    """A plugin is missing, fails to import, or has bad settings (exit code 2)."""

    exit_code = 2


class VerifierError(RlvrError):
    """Verification failed for a reason that does not depend on the completion."""


class SandboxError(RlvrError):
    """The box failed; a program that fails inside it is a result, not an error."""


class SandboxUnavailable(SandboxError):  # noqa: N818 - a state of the machine
    """No isolating sandbox works here, so no model-written program is run (exit code 2)."""

    exit_code = 2


class RolloutError(RlvrError):
    """A rollout engine could not generate or load weights."""


class TransferError(RlvrError):
    """Weights did not pass from learner to engines: a participant died or hung, or the deadline passed.

    The learner's weights are intact, and another attempt may succeed.
    """


class LearnerError(RlvrError):
    """The learner could not take a step (for example too many non-finite gradients)."""


class RankLost(LearnerError):  # noqa: N818 - names the event
    """A rank of the learner is gone or hangs, through no fault of its work; another start may succeed."""


class ClusterLost(RlvrError):  # noqa: N818 - names the event
    """The cluster's head is gone, through no fault of the run (exit code 75, the EX_TEMPFAIL of sysexits.h).

    The run directory is as after a kill: when the head is back, `--resume` continues from the newest checkpoint.
    """

    exit_code = 75


class CheckpointError(RlvrError):
    """A checkpoint is missing or damaged, or could not be written."""


class OtherCheckpoint(CheckpointError):  # noqa: N818 - nothing is wrong with the checkpoint itself
    """A checkpoint belongs to another recipe, model or data (exit code 2)."""

    exit_code = 2


class ClusterError(RlvrError):
    """A host of a cluster cannot be reached, or a node cannot be started, changed or stopped there."""


class StorageError(RlvrError):
    """A file of the run could not be read or written: a full disk, rights, a folder that is gone."""


class Interrupted(RlvrError):  # noqa: N818 - the familiar word; it is not an error
    """The user asked to stop, or the time was over (exit code 130); the message names the newest checkpoint."""

    exit_code = 130
