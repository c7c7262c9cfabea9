"""The ranks of a learner group behind one call, which asks every rank and waits for every answer.

The caller of `call` waits: until the last answer; until a rank fails or dies; or until a rank that owes an answer has
shown no sign of life for `silence_s` (ranks send "alive" at every pass of the model, so the limit applies to one pass
and not to a step). After a failure all ranks are stopped and the pool cannot be used again.

    parent -> rank    {"op": ...} with tensors, one at a time
    rank -> parent    {"op": "alive"} and {"op": "log"} any number of times, then {"op": "done", ...} or
                      {"op": "failed", ...}
"""

import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr import errors
from rlvr.errors import LearnerError, RankLost, RlvrError
from rlvr.learner.consequences import is_consequence
from rlvr.learner.ranks.messages import Message, decode
from rlvr.learner.ranks.process import RankHandle
from rlvr.processes.child import move

START_UP = "start-up"
_START_S = 600.0  # imports and model loading give no sign of life until they finish
_GRACE_S = 1.0  # after a first failure: the other ranks' errors and exits arrive in any order
_CLOSE_S = 5.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why a rank does not answer. is_consequence: it only lost its connection to another rank."""

    rank: int
    error: RlvrError
    is_consequence: bool = False


class RankPool:
    """All rank processes of a group, and the pending answers."""

    def __init__(self, starts: Sequence[Callable[[int], RankHandle]], *, silence_s: float) -> None:
        """Starts the ranks, each by its function, which takes its number. Raises what they raise."""
        self._processes: list[RankHandle] = []
        self._silence_s = silence_s
        self._is_closed = False
        self._logged: set[tuple[str, str]] = set()
        self._at_exit = weakref.finalize(self, _end_all, self._processes)
        try:
            for rank, start in enumerate(starts):
                self._processes.append(start(rank))
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids by rank."""
        return [process.pid for process in self._processes]

    def call(self, requests: Sequence[Message], *, what: str) -> list[Message]:
        """The answers by rank. `what` names the work in messages.

        Raises: LearnerError that names the rank, how it ended and its last lines, RankLost if it ended without a
        reason of its own; or the RlvrError that a rank raised.
        """
        if self._is_closed:
            raise LearnerError(f"{what}: the learner group was closed, or ended by an earlier failure")
        answers: dict[int, Message] = {}
        failures: list[_Failure] = []
        try:
            for process, request in zip(self._processes, requests, strict=True):
                process.request(request)
            self._wait(answers, failures, what=what)
        except BaseException:
            self.end()
            raise
        if failures:
            error = min(failures, key=lambda failure: failure.is_consequence).error
            self.end()
            raise error
        return [answers[process.rank] for process in self._processes]

    def close(self) -> None:
        """Stops every rank: first by request, then by signal. Safe to call twice."""
        if not self._is_closed:
            for process in self._processes:
                process.close_input()
            until = time.monotonic() + _CLOSE_S
            for process in self._processes:
                process.wait(max(0.0, until - time.monotonic()))
        self.end()

    def end(self) -> None:
        """Kills the ranks that still run."""
        self._is_closed = True
        self._at_exit()

    def _wait(self, answers: dict[int, Message], failures: list[_Failure], *, what: str) -> None:
        """Moves bytes until every rank has answered or failed, or one has been silent for too long."""
        give_up = float("inf")
        limit_s = max(_START_S, self._silence_s) if what == START_UP else self._silence_s
        open_ranks = list(self._processes)
        while len(answers) + len(failures) < len(self._processes) and time.monotonic() < give_up:
            for process in move(open_ranks, _POLL_S)[0]:
                failure = self._hear(process, answers, what=what)
                if failure is not None:
                    failures.append(failure)
                    give_up = min(give_up, time.monotonic() + _GRACE_S)
                    open_ranks.remove(process)
            waiting = [p for p in open_ranks if p.rank not in answers]
            if not failures and any(_silence(p) > limit_s for p in waiting):
                failures.append(self._silent(waiting, what=what))
                return

    def _hear(self, process: RankHandle, answers: dict[int, Message], *, what: str) -> _Failure | None:
        if not process.read():
            how = process.wait(_GRACE_S) or "it closed its pipe"
            return _Failure(
                rank=process.rank,
                error=RankLost(self._message(process, f"ended ({how})", what)),
                is_consequence="SIGABRT" in how and is_consequence(process.tail()),
            )
        while (frame := process.next_frame()) is not None:
            op = frame.body["op"]
            if op == "done":
                answers[process.rank] = decode(frame)
            elif op == "failed":
                return self._reported(process, frame.body, what=what)
            elif op == "log":
                self._log(process.rank, frame.body)
        return None

    def _log(self, rank: int, record: Mapping[str, Any]) -> None:
        """Logs a rank's warning here; the same warning of other ranks is left out."""
        cause = (record["name"], record["message"])
        if cause not in self._logged:
            self._logged.add(cause)
            logging.getLogger(record["name"]).log(record["level"], "rank %d: %s", rank, record["message"])

    def _reported(self, process: RankHandle, body: Mapping[str, Any], *, what: str) -> _Failure:
        """The error that a rank reported; an RlvrError keeps its class and message."""
        kind, text = str(body["kind"]), str(body["message"])
        category = getattr(errors, kind, None)
        if isinstance(category, type) and issubclass(category, RlvrError):
            return _Failure(rank=process.rank, error=category(text))
        how = process.wait(_GRACE_S) or "still running"
        message = self._message(process, f"failed with {kind}: {text} ({how})", what)
        if body["is_consequence"]:
            return _Failure(rank=process.rank, error=RankLost(message), is_consequence=True)
        return _Failure(rank=process.rank, error=LearnerError(message))

    def _silent(self, waiting: Sequence[RankHandle], *, what: str) -> _Failure:
        """The rank that hangs: one that does not even print its stack, else the one that was silent longest."""
        deaf = [process for process in waiting if not process.ask_for_stack()]
        culprit = max(deaf or waiting, key=_silence)
        how = f"gave no sign of life for {_silence(culprit):.0f} s"
        if deaf:
            how += " and does not react to signals"
        return _Failure(rank=culprit.rank, error=RankLost(self._message(culprit, how, what)))

    def _message(self, process: RankHandle, how: str, what: str) -> str:
        advice = "" if what == START_UP else "; continue from the last checkpoint with --resume"
        return (
            f"rank {process.rank} of {len(self._processes)} {how} during {what}; the other ranks were stopped{advice}. "
            f"Its last lines:\n{process.tail() or '(none)'}"
        )


def _silence(process: RankHandle) -> float:
    return time.monotonic() - process.last_sign


def _end_all(processes: Sequence[RankHandle]) -> None:
    for process in processes:
        process.end()
