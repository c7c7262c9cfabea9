"""Which failures of a rank are consequences: another rank ended first, and this one lost its connection to it.

A survivor shows it in one of two ways. A collective raises: gloo's error, or a DistBackendError of NCCL. Or NCCL's
watchdog thread notices first and aborts the process (SIGABRT), which leaves only a line of its standard error.
The watchdog aborts also for faults of the rank's own GPU, and a DistBackendError may name one: these are causes.
"""

import torch.distributed as dist

ABORT_REASON = "terminated with exception"  # in the line in which NCCL's watchdog says why it aborts
_LOST_PEER = (
    "gloo",
    "remote process exited",
    "ncclremoteerror",
    "connection closed by",
    "connection reset by peer",
    "watchdog caught collective operation timeout",
)
_OWN_FAULT = ("cuda error", "cuda failure", "out of memory", "invalid usage", "duplicate gpu")


def is_consequence(failure: BaseException | str) -> bool:
    """Whether a rank failed only because another one had ended.

    >>> is_consequence(dist.DistBackendError("NCCL error: remote process exited or there was a network error"))
    True
    >>> is_consequence(dist.DistBackendError("NCCL error: unhandled cuda error"))
    False
    >>> is_consequence("watchdog thread terminated with exception: CUDA error: an illegal memory access")
    False

    Args: failure: the error that it raised, or the last lines (`RankHandle.tail`) of a process that was aborted.
    """
    text = str(failure).lower()
    if any(mark in text for mark in _OWN_FAULT):
        return False
    if isinstance(failure, dist.DistError):
        return True
    is_abort = isinstance(failure, str)
    return (not is_abort or "watchdog" in text) and any(mark in text for mark in _LOST_PEER)
