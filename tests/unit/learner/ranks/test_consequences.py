"""Which rank is named when several end: the one that failed first, not those that lost their connection to it.

The texts are those of torch 2.13 and NCCL 2.2x.
"""

import tempfile

import pytest
import torch.distributed as dist

from rlvr.learner.consequences import is_consequence
from rlvr.learner.ranks.pool import RankPool
from rlvr.learner.ranks.process import RankProcess

PREFIX = "[rank1]:[E722 ProcessGroupNCCL.cpp:1605] [PG ID 0 PG GUID 0(default_pg) Rank 1] "
WATCHDOG = f"{PREFIX}Process group watchdog thread terminated with exception: "
REMOTE = "NCCL error: remote process exited or there was a network error, NCCL version 2.22.3\nncclRemoteError: A call "
ILLEGAL = "CUDA error: an illegal memory access was encountered"
STACK = "frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x57\n" * 40


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (dist.DistBackendError(REMOTE), True),
        (dist.DistNetworkError("the client socket has timed out"), True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"), True),
        (RuntimeError(f"NCCL error: {REMOTE}"), True),
        (dist.DistBackendError("NCCL error in: NCCLUtils.cpp:77, invalid usage ... Duplicate GPU detected"), False),
        (dist.DistBackendError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (IndexError("index out of range in self"), False),
        (f"{WATCHDOG}{REMOTE}\n{STACK}", True),
        (f"{WATCHDOG}[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4)\n{STACK}", True),
        (f"{WATCHDOG}{ILLEGAL}\n{STACK}", False),
        ("double free or corruption (out)\n", False),
        ("", False),
    ],
)
def test_a_lost_peer_is_a_consequence_and_a_fault_of_the_ranks_own_gpu_is_not(
    failure: BaseException | str, expected: bool
) -> None:
    assert is_consequence(failure) is expected


class EndedRank(RankProcess):
    """A rank whose process has ended; none is started."""

    def __init__(self, rank: int, how: str, errors: str) -> None:
        self.rank = rank
        self.last_sign = 0.0
        self._how = how
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the object
        self._errors.write(errors.encode())
        self._errors.flush()

    @property
    def pid(self) -> int:
        """Of no process."""
        return 0

    def read(self) -> bool:
        """Its pipe is closed."""
        return False

    def wait(self, timeout_s: float) -> str:
        """How it ended."""
        return self._how


@pytest.mark.parametrize(
    ("how", "errors", "expected"),
    [
        ("signal SIGABRT", f"{WATCHDOG}{REMOTE}\n{STACK}Fatal Python error: Aborted\n{STACK}", True),
        ("signal SIGABRT", f"{WATCHDOG}{ILLEGAL}\n{STACK}", False),
        ("signal SIGKILL", f"{WATCHDOG}{REMOTE}", False),
    ],
)
def test_a_rank_that_nccls_watchdog_aborts_is_named_only_if_no_other_ended(
    how: str, errors: str, expected: bool
) -> None:
    pool = RankPool([], silence_s=1.0)
    failure = pool._hear(EndedRank(1, how, errors), {}, what="step")
    assert failure is not None
    assert failure.is_consequence is expected
    assert f"rank 1 of 0 ended ({how})" in str(failure.error)


def test_the_last_lines_begin_with_the_reason_of_an_abort() -> None:
    lines = EndedRank(1, "signal SIGABRT", f"{WATCHDOG}{REMOTE}\n{STACK}").tail().splitlines()
    assert lines[0] == f"{WATCHDOG}{REMOTE}".splitlines()[0]
    assert len(lines) == 13
    assert EndedRank(1, "exit code 1", "a\nb\n").tail() == "a\nb"
