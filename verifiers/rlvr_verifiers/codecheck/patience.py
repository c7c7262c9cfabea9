"""Decides whether the end of a program counts or was caused by the machine: one rule for every kind of test.

    used its time               counts: too slow
    blocked by itself           counts: asleep, deadlocked, waiting forever
    denied the processor        repeated once with the wall time that it lost added; after that there is no verdict
    killed, but by no limit     repeated a few times: something may be killing processes at random

A box that can measure the delays of a program subtracts them from its wall time. It cannot see how long the verifier
kept the program waiting: `excused_s`.
"""

import signal
from dataclasses import replace

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult
from rlvr_verifiers.codecheck.outcome import LATE_SHARE, Ending, bad_end

MAX_KILLS = 3  # how often a program may be killed without exceeding a limit before that counts
# share of its wall time for which a program used the processor, if the box reports no delays
_STARVED_SHARE = 0.8
# share of its wall limit that a program must have used itself for a time-out to count
_OWN_SHARE = 0.95
_DOUBTFUL_SHARE = 0.05  # share of the wall limit for which the verifier waited for a core
_MAX_STRETCH = 10.0


class Patience:
    """Decides whether to repeat the run of one program on one test, or in one session.

    limits: the limits of the next attempt.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._own = limits
        self._num_kills = 0
        self._is_second = False

    def is_late(self, result: RunResult, excused_s: float) -> bool:
        """Whether a program that ended normally under an extended limit exceeded its own."""
        if not self._is_second or result.delay_s is None:
            return False
        return result.seconds - result.delay_s - excused_s > LATE_SHARE * self._own.wall_s

    def wants_repeat(self, result: RunResult, *, excused_s: float = 0.0, verifier_delay_s: float = 0.0) -> bool:
        """Whether to run the program again, under `limits`, because this end says nothing about it.

        Args:
            excused_s: how long the program waited while the machine delayed the verifier.
            verifier_delay_s: how long the machine delayed the verifier. It is unknown how long the program waited for
                that, so this is a reason to repeat the run, but not for an error.

        Raises:
            SandboxError: the machine denied the program its processor time a second time.
        """
        if result.timed_out:
            return self._wants_more_time(result, excused_s, verifier_delay_s)
        end = bad_end(result, self._own)
        if result.signal != signal.SIGKILL or end is None or end.ending is not Ending.RAISED:
            return False
        self._num_kills += 1
        return self._num_kills <= MAX_KILLS

    def _wants_more_time(self, result: RunResult, excused_s: float, verifier_delay_s: float) -> bool:
        own = self._own.wall_s
        if result.delay_s is None:
            is_doubtful = result.cpu_s < _STARVED_SHARE * own and not self._is_second
            if is_doubtful:
                self._stretch(2.0)
            return is_doubtful
        spent_s = result.seconds - result.delay_s - excused_s
        if not result.starved and spent_s >= _OWN_SHARE * own:
            is_doubtful = verifier_delay_s > _DOUBTFUL_SHARE * own and result.cpu_s < 0.9 * own
            if is_doubtful and not self._is_second:
                self._stretch(2.0 + verifier_delay_s / own)
                return True
            return False
        if self._is_second:
            raise SandboxError(
                f"the machine is too busy for a verdict: in {result.seconds:.0f} s of the second attempt the program "
                f"had {max(0.0, spent_s):.1f} s of its {own:g} s; use fewer slots or a larger machine"
            )
        self._stretch(min(_MAX_STRETCH, 1.5 * result.seconds / max(spent_s, 0.01)))
        return True

    def _stretch(self, factor: float) -> None:
        """Extends the wall limit of the second attempt; the limit of processor time stays."""
        own = self._own
        cpu_s = own.cpu_s or own.wall_s + 1.0
        self.limits = replace(own, wall_s=own.wall_s * max(1.0, factor), cpu_s=cpu_s)
        self._is_second = True


def own_delay_s() -> float:
    """Seconds for which this thread was ready but had no core since its start; 0 if the kernel does not say."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0
