"""Which ends of a program count, and which are the machine's doing."""

from typing import Any

import pytest

from rlvr.errors import SandboxError
from rlvr.protocols import Limits, RunResult
from rlvr_sandboxes.inside.delays import Delays, longest_s
from rlvr_verifiers.codecheck.patience import MAX_KILLS, Patience

LIMITS = Limits(wall_s=2.0)


def ended(**facts: Any) -> RunResult:
    usual = {"exit_code": -9, "stdout": b"", "stderr": b"", "seconds": 2.0, "timed_out": True}
    return RunResult(**{**usual, **facts})


def test_a_program_that_had_its_time_is_too_slow_or_blocked() -> None:
    assert not Patience(LIMITS).wants_repeat(ended(delay_s=0.0, cpu_s=2.0))
    assert not Patience(LIMITS).wants_repeat(ended(delay_s=0.0, cpu_s=0.0))
    assert not Patience(LIMITS).wants_repeat(ended(delay_s=7.0, seconds=9.0, cpu_s=0.1))


def test_a_starved_program_is_repeated_once_with_more_time_and_then_gets_no_verdict() -> None:
    patience = Patience(LIMITS)
    starved = ended(delay_s=29.0, seconds=30.0, cpu_s=1.0, starved=True)
    assert patience.wants_repeat(starved)
    assert patience.limits.wall_s == 20.0
    assert patience.limits.cpu_s == 3.0
    with pytest.raises(SandboxError, match="too busy for a verdict"):
        patience.wants_repeat(starved)


def test_a_delay_of_the_verifier_is_a_reason_to_repeat_but_not_for_an_error() -> None:
    patience = Patience(LIMITS)
    assert patience.wants_repeat(ended(delay_s=0.0), verifier_delay_s=1.0)
    assert patience.limits.wall_s == 5.0
    assert patience.is_late(ended(timed_out=False, seconds=3.0, delay_s=0.0), 0.0)
    assert not patience.is_late(ended(timed_out=False, seconds=3.0, delay_s=1.5), 0.0)
    assert not patience.wants_repeat(ended(delay_s=0.0, seconds=5.0), verifier_delay_s=1.0)


def test_a_program_that_waited_for_a_starved_verifier_is_repeated() -> None:
    patience = Patience(LIMITS)
    assert patience.wants_repeat(ended(delay_s=0.2), excused_s=1.0)
    assert 2.0 < patience.limits.wall_s <= 20.0
    assert not patience.wants_repeat(ended(delay_s=0.2, seconds=7.0), excused_s=1.0)


def test_without_delays_from_the_box_a_time_out_without_processor_time_is_repeated_once() -> None:
    patience = Patience(LIMITS)
    assert not patience.wants_repeat(ended(cpu_s=1.9))
    assert patience.wants_repeat(ended(cpu_s=0.1))
    assert patience.limits.wall_s == 4.0
    assert not patience.wants_repeat(ended(cpu_s=0.1))


def test_a_kill_that_no_limit_explains_is_repeated_some_times() -> None:
    patience = Patience(LIMITS)
    killed = ended(timed_out=False, delay_s=0.0, seconds=0.1)
    assert [patience.wants_repeat(killed) for _ in range(MAX_KILLS + 1)] == [True] * MAX_KILLS + [False]


def test_the_clock_of_a_run_counts_the_longest_delay_of_its_tasks_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Delays(lambda: (), start=100.0, wall_s=2.0)
    seen: list[dict[int, tuple[float, float, bool]]] = [
        {1: (0.1, 0.2, False), 2: (0.1, 0.3, False)},
        {1: (0.2, 0.7, False), 2: (0.2, 0.4, False), 3: (0.1, 0.1, False)},
        {1: (0.2, 9.0, False)},
    ]
    monkeypatch.setattr(clock, "_read", lambda: seen.pop(0))
    clock.sample(100.5)
    clock.sample(101.0)
    assert clock.delay_s == pytest.approx(0.3 + 0.5)
    assert clock.cpu_s == pytest.approx(0.5)
    assert (clock.verdict(102.0, 3.0), clock.verdict(102.9, 3.0)) == ("", "wall")
    assert clock.left_s(102.0) == pytest.approx(0.8)
    clock.sample(101.5)
    assert clock.delay_s == pytest.approx(1.3)  # never more than the time that passed
    assert clock.verdict(101.5, 0.4) == "cpu"


def test_a_wait_that_lasts_counts_until_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Delays(lambda: (), start=0.0, wall_s=2.0)
    seen = [{1: (0.2, 0.1, True)}, {1: (0.3, 0.1, False)}]
    monkeypatch.setattr(clock, "_read", lambda: seen.pop(0))
    clock.sample(1.0)
    assert clock.delay_s == pytest.approx(0.8)
    clock.sample(2.0)
    assert clock.delay_s == pytest.approx(0.1)


def test_a_run_that_never_gets_a_core_ends_as_starved() -> None:
    clock = Delays(lambda: (), start=0.0, wall_s=2.0)
    clock.delay_s = 29.0
    assert clock.verdict(29.5, 3.0) == ""
    assert clock.verdict(longest_s(2.0), 3.0) == "starved"
    assert longest_s(2.0) == LIMITS.longest_s
