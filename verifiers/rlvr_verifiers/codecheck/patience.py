"""Whether the end of a program counts, or is the machine's doing: one rule for every kind of test.

    used its time           it counts: too slow
    blocked by itself       it counts: asleep, locked, waiting for something that never comes
    kept from the cores     run once more with as much more wall time as it lost; then no verdict is possible
    killed, no limit why    run again, a few times: something may be killing processes at random

A box that can measure them subtracts the program's own delays from its wall time. It cannot see a verifier that
kept the program waiting: `excused_s`.
"""

import signal
from dataclasses import replace

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult
from rlvr_verifiers.codecheck.outcome import LATE_SHARE, Ending, bad_end

MAX_KILLS = 3  # of a program that was killed and no limit says why, before that counts
# share of its wall time that a program used the processor, where no box reports delays
_STARVED_SHARE = 0.8
# share of its wall limit that a program must have spent itself, for a time-out to count
_OWN_SHARE = 0.95
_DOUBTFUL_SHARE = 0.05  # of its wall limit that the verifier waited for a core
_MAX_STRETCH = 10.0


class Patience:
    """Judges the ends of one program's attempts at one test, or at one conversation.

    limits: of the next attempt.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._own = limits
        self._num_kills = 0
        self._is_second = False

    def is_late(self, result: RunResult, excused_s: float) -> bool:
        """Whether a program that ended in order under a stretched limit took more than its own."""
        if not self._is_second or result.delay_s is None:
            return False
        return result.seconds - result.delay_s - excused_s > LATE_SHARE * self._own.wall_s

    def wants_repeat(self, result: RunResult, *, excused_s: float = 0.0, judge_delay_s: float = 0.0) -> bool:
        """Whether to run the program again, under `limits`, because this end says nothing about it.

        Args:
            excused_s: in which the program waited while the machine kept the verifier waiting.
            judge_delay_s: of the judge, of which nobody knows how long the program waited for it: a reason to look
                twice, and none for an error.

        Raises: SandboxError when the machine kept it from its cores a second time.
        """
        if result.timed_out:
            return self._wants_more_time(result, excused_s, judge_delay_s)
        end = bad_end(result, self._own)
        if result.signal != signal.SIGKILL or end is None or end.ending is not Ending.RAISED:
            return False
        self._num_kills += 1
        return self._num_kills <= MAX_KILLS

    def _wants_more_time(self, result: RunResult, excused_s: float, judge_delay_s: float) -> bool:
        own = self._own.wall_s
        if result.delay_s is None:
            is_doubtful = result.cpu_s < _STARVED_SHARE * own and not self._is_second
            if is_doubtful:
                self._stretch(2.0)
            return is_doubtful
        spent_s = result.seconds - result.delay_s - excused_s
        if not result.starved and spent_s >= _OWN_SHARE * own:
            is_doubtful = judge_delay_s > _DOUBTFUL_SHARE * own and result.cpu_s < 0.9 * own
            if is_doubtful and not self._is_second:
                self._stretch(2.0 + judge_delay_s / own)
                return True
            return False
        if self._is_second:
            raise SandboxError(
                f"the machine is too busy to judge: in {result.seconds:.0f} s of two attempts' last one the program "
                f"had {max(0.0, spent_s):.1f} s of its {own:g} s; use fewer slots or a larger machine"
            )
        self._stretch(min(_MAX_STRETCH, 1.5 * result.seconds / max(spent_s, 0.01)))
        return True

    def _stretch(self, factor: float) -> None:
        """The second attempt has the same processor time, and more wall time to get it in."""
        own = self._own
        cpu_s = own.cpu_s or own.wall_s + 1.0
        self.limits = replace(own, wall_s=own.wall_s * max(1.0, factor), cpu_s=cpu_s)
        self._is_second = True


def own_delay_s() -> float:
    """Seconds that this thread was ready and got no core, since its start; 0 where the kernel does not tell."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0
