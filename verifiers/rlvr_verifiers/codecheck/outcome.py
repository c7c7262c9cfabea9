"""The result of running a program against its tests, from which the verdict is made."""

import signal
from dataclasses import dataclass, replace
from enum import StrEnum

from rlvr.protocols import Limits, RunResult

LATE_SHARE = 1.1  # of the wall limit; a program that ran longer had an extended limit
_SHOWN_CHARS = 160


class Ending(StrEnum):
    """How a test ended."""

    PASSED = "passed"
    WRONG = "wrong"  # a different value or output
    RAISED = "raised"  # an exception, or an exit code
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT = "output"  # more output than allowed, or none that can be read
    PROTOCOL = "protocol"  # an unrequested or unreadable message
    MISSING = "missing"  # the entry point is not defined
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOutcome:
    """The outcome of one test. why: "" if it passed, else a human-readable clause."""

    ending: Ending
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether it passed."""
        return self.ending is Ending.PASSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcomes of all tests of one program, in order. `cpu_s` is the sum over its runs, `memory_mb` the maximum."""

    tests: tuple[TestOutcome, ...]
    cpu_s: float = 0.0
    memory_mb: float = 0.0

    @property
    def num_passed(self) -> int:
        """How many passed."""
        return sum(test.passed for test in self.tests)

    @property
    def first_failure(self) -> tuple[int, TestOutcome] | None:
        """(index, outcome) of the first test that ran and did not pass, or None."""
        for index, test in enumerate(self.tests):
            if not test.passed and test.ending is not Ending.NOT_RUN:
                return index, test
        return None


PASSED = TestOutcome(ending=Ending.PASSED)
NOT_RUN = TestOutcome(ending=Ending.NOT_RUN, why="not run")


def all_failed(ending: Ending, why: str, count: int, result: RunResult | None = None) -> Outcome:
    """The outcome of a program that fails before its first test."""
    first = TestOutcome(ending=ending, why=why)
    return with_facts(Outcome(tests=(first, *[NOT_RUN] * (count - 1))), result)


def with_facts(outcome: Outcome, *results: RunResult | None) -> Outcome:
    """The outcome with the resources of these runs added."""
    known = [result for result in results if result is not None]
    cpu_s = outcome.cpu_s + sum(result.cpu_s for result in known)
    memory_mb = max([outcome.memory_mb, *(result.memory_mb for result in known)])
    return replace(outcome, cpu_s=cpu_s, memory_mb=memory_mb)


def bad_end(result: RunResult, limits: Limits, what: str = "the program") -> TestOutcome | None:
    """The failed test of a run that ended abnormally; None for exit code 0 within all limits."""
    own_s = result.seconds - (result.delay_s or 0.0)
    if result.timed_out or (result.delay_s is not None and own_s > LATE_SHARE * limits.wall_s):
        return TestOutcome(ending=Ending.TIMEOUT, why=f"{what} ran longer than {limits.wall_s:g} s")
    if result.out_of_memory:
        why = f"{what} used more than {limits.memory_mb} MB of memory"
        return TestOutcome(ending=Ending.MEMORY, why=why)
    if result.overflowed:
        why = f"{what} printed more than {limits.output_bytes} bytes"
        return TestOutcome(ending=Ending.OUTPUT, why=why)
    cpu_s = limits.cpu_s or limits.wall_s
    if result.signal in (signal.SIGXCPU, signal.SIGKILL) and result.cpu_s >= 0.95 * cpu_s:
        why = f"{what} used more than {cpu_s:g} s of processor time"
        return TestOutcome(ending=Ending.TIMEOUT, why=why)
    if result.signal:
        return TestOutcome(ending=Ending.RAISED, why=f"{what} was ended by {_name_of(result.signal)}")
    if result.exit_code:
        why = f"{what} ended with exit code {result.exit_code}{_last_line(result.stderr)}"
        return TestOutcome(ending=Ending.RAISED, why=why)
    return None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(stderr: bytes) -> str:
    lines = stderr[-4096:].decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1][:_SHOWN_CHARS]}" if lines else ""
