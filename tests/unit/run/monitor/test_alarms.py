"""Alarms of a run that goes on without learning, on fabricated steps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rlvr.plugin import completion_from_text
from rlvr.records import Check, FinishReason, Group, Prompt, Role, Rollout, Status, Verdict
from rlvr.run.monitor.alarms import AlarmWatch
from rlvr.run.monitor.findings import Alarm, findings
from rlvr.run.step.buffer import Taken
from rlvr.run.step.metrics import RolloutStatistics
from rlvr.run.step.shaping import Shaped
from rlvr.run.step.update import Update

MAIN = Check(name="main", verifier="math", reference="4")
GATE = Check(name="format", verifier="my.py:tags", reference="4", role=Role.GATE)
NAMES = ["no_signal", "zero_reward", "truncated"]


def said(status: Status, score: float | None = None) -> Verdict:
    given = float(status is Status.PASS) if score is None else score
    return Verdict(status=status, score=given, reason="because", verifier="v@1", seconds=0.0)


def group(
    rewards: Sequence[float | None],
    *,
    cut: int = 0,
    checks: tuple[Check, ...] = (MAIN,),
    verdicts: Mapping[str, Status] | None = None,
) -> Group:
    """One prompt with a completion for each reward. cut: how many of them hit the length limit."""
    prompt = Prompt(prompt_id="p", text="?", checks=checks, source="s")
    rollouts: list[Rollout] = []
    for index, reward in enumerate(rewards):
        completion = replace(
            completion_from_text("4", prompt_id="p"),
            completion_id=f"c{index}",
            finish_reason=FinishReason.LENGTH if index < cut else FinishReason.STOP,
        )
        own = Status.PASS if reward else Status.FAIL
        given = {c.name: said((verdicts or {}).get(c.name, own)) for c in checks}
        parts = {} if reward is None else {"main": reward}
        rollouts.append(Rollout(completion=completion, verdicts=given, reward=reward, reward_parts=parts))
    return Group(group_id="00000000", prompt=prompt, rollouts=tuple(rollouts))


def step_of(
    *groups: Group, entropy: float = 0.5, kl: Sequence[float] | None = None, has_baseline: bool = True
) -> Update:
    """What a step of these groups did. kl: a penalty on each completion's reward, in their order."""
    shaped: dict[str, Shaped] = {}
    penalties = iter(kl or ())
    for number, one in enumerate(groups):
        paid = {
            rollout.completion.completion_id: (rollout.reward, next(penalties, 0.0))
            for rollout in one.rollouts
            if rollout.reward is not None
        }
        mean = sum(reward - penalty for reward, penalty in paid.values()) / max(1, len(paid))
        for name, (reward, penalty) in paid.items():
            shaped[f"{number}/{name}"] = Shaped(
                reward=reward - penalty,
                overlong_penalty=0.0,
                kl_penalty=None if kl is None else penalty,
                advantage=reward - penalty - (mean if has_baseline else 0.0),
            )
    return Update(
        taken=Taken(kept=list(groups), dropped=[], num_wanted=len(groups)),
        shaped=shaped,
        statistics=RolloutStatistics.of(groups),
        metrics={"policy/entropy": entropy},
        has_learned=True,
        is_refill_spent=False,
        wait_s=0.0,
        train_s=0.0,
    )


def names_of(update: Update, **settings: Any) -> list[str]:
    return [str(finding.alarm) for finding in findings(update, **settings)]


LEARNING = step_of(group([0.0, 1.0, 0.0, 1.0]))
ZERO = step_of(group([0.0] * 4), group([0.0] * 4))
SOLVED = step_of(group([1.0] * 4), group([1.0] * 4))
CUT = step_of(group([0.0, 0.0, 0.0, 1.0], cut=3))


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (LEARNING, []),
        (ZERO, ["zero_reward", "no_signal"]),
        (SOLVED, ["no_signal"]),
        (step_of(group([1.0] * 4), group([0.0] * 4)), ["no_signal"]),
        (CUT, ["truncated"]),
        (step_of(group([0.0, 1.0, 0.0, 1.0], cut=2)), []),  # half is not most
        (step_of(group([None] * 4)), ["no_signal"]),
    ],
)
def test_what_holds_in_a_step(update: Update, expected: list[str]) -> None:
    assert names_of(update) == expected


def test_groups_that_differ_only_from_each_other_are_a_signal_without_a_baseline() -> None:
    apart = group([1.0] * 4), group([0.0] * 4)
    assert names_of(step_of(*apart, has_baseline=False)) == []


def test_a_kl_penalty_alone_is_no_signal() -> None:
    assert names_of(step_of(group([1.0] * 4), kl=[0.1, 0.2, 0.1, 0.2])) == ["no_signal"]
    assert names_of(step_of(group([0.0, 1.0, 0.0, 1.0]), kl=[0.1, 0.2, 0.1, 0.2])) == []


def test_each_alarm_names_remedies_and_the_rollouts_to_inspect() -> None:
    by_name = {str(f.alarm): f for f in (*findings(ZERO), *findings(CUT))}
    assert set(by_name) == set(NAMES)
    for finding in by_name.values():
        assert finding.examples
        assert "\n" not in finding.what + finding.advice
    zero = by_name["zero_reward"]
    for part in ("rlvr verify math --explain", "prompt_format", "rollout.max_completion_tokens"):
        assert part in zero.advice
    assert "raise rollout.group_size" in by_name["no_signal"].advice
    cut = by_name["truncated"]
    assert "75%" in cut.what
    assert "above 50%" in cut.what
    assert cut.facts == {"rate": 0.75, "threshold": 0.5}
    assert cut.examples == ("c0", "c1", "c2")
    easy = next(f for f in findings(SOLVED))
    assert "too easy" in easy.advice


def test_zero_reward_names_what_took_it() -> None:
    vetoed = group([0.0] * 4, cut=1, checks=(MAIN, GATE), verdicts={"main": Status.PASS, "format": Status.FAIL})
    zero = findings(step_of(vetoed))[0]
    assert zero.alarm is Alarm.ZERO_REWARD
    assert "25% cut off at the length limit" in zero.what
    assert "100% vetoed by gate 'format'" in zero.what
    assert zero.advice.endswith("4 of 4 answers were correct but vetoed: see the reasons of the gate")
    cut = findings(step_of(group([0.0] * 4, cut=4, verdicts={"main": Status.PASS})))[0]
    assert "Correct answers were truncated" in cut.advice
    unread = group([0.0] * 4, verdicts={"main": Status.UNPARSED})
    assert "100% without an answer that check 'main' can read" in findings(step_of(unread))[0].what


@pytest.mark.parametrize(
    ("main", "watching", "expected"),
    [
        (Status.PASS, Status.FAIL, ["check_always_passes main", "check_never_passes format"]),
        (Status.PASS, Status.PASS, ["check_always_passes main", "check_always_passes format"]),
        (Status.UNPARSED, Status.PASS, ["unparsed main", "check_always_passes format"]),
        (Status.FAIL, Status.PASS, ["check_never_passes main", "check_always_passes format"]),
    ],
)
def test_checks_that_tell_nothing_apart_are_named(main: Status, watching: Status, expected: list[str]) -> None:
    checks = (MAIN, replace(GATE, role=Role.SHADOW))
    verdicts = {"main": main, "format": watching}
    update = step_of(group([0.0, 1.0, 0.0, 1.0], checks=checks, verdicts=verdicts))
    assert [f"{f.alarm} {f.check}" for f in findings(update)] == expected
    later = findings(update, failed_checks=frozenset({"main", "format"}))
    assert [f"{f.alarm} {f.check}" for f in later] == [said for said in expected if not said.startswith("check_always")]


def test_the_only_check_of_a_prompt_is_left_to_the_alarms_of_the_step() -> None:
    assert names_of(SOLVED) == ["no_signal"]
    unread = step_of(group([0.0] * 4, verdicts={"main": Status.UNPARSED}))
    found = {str(f.alarm): f.is_implied for f in findings(unread)}
    assert found == {"zero_reward": False, "no_signal": True, "unparsed": True}


def test_certainty_is_an_alarm_only_where_it_is_wrong() -> None:
    assert names_of(step_of(group([0.0, 1.0, 0.0, 1.0]), entropy=0.001)) == ["entropy_collapse"]
    assert names_of(step_of(group([1.0] * 19 + [0.0]), entropy=0.001)) == []


def test_a_check_that_breaks_on_some_completions_is_an_alarm_before_it_ends_the_run() -> None:
    def with_hangs(count: int) -> Update:
        whole = group([1.0, 0.0, 1.0, 0.0, 0.0])
        hung = replace(said(Status.FAIL), reason="took longer than 5 s", details={"cause": "timeout"})
        rollouts = [
            replace(rollout, verdicts={"main": hung}, reward=0.0) if index >= 5 - count else rollout
            for index, rollout in enumerate(whole.rollouts)
        ]
        return step_of(replace(whole, rollouts=tuple(rollouts)))

    (found,) = findings(with_hangs(2))
    assert (found.alarm, found.check) == (Alarm.CHECK_BREAKS, "main")
    assert "broke (hang) on 40% of the completions" in found.what
    assert "took longer than 5 s" in found.what
    for part in ("reward.verifier_deadline_s", "rlvr verify math --explain"):
        assert part in found.advice
    assert found.examples == ("c3", "c4")
    assert found.facts == {"rate": 0.4, "threshold": 0.2, "cause": "hang"}
    assert findings(with_hangs(1)) == []


class Reports:
    """The reports of a watch: events, and lines of the console."""

    def __init__(self, after_steps: int = 5) -> None:
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.watch = AlarmWatch(self._alarm, self._remark, after_steps=after_steps)

    def _alarm(self, text: str, **fields: Any) -> None:
        self._remark("alarm", text, **fields)

    def _remark(self, kind: str, text: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})
        self.lines += [text] if text else []

    def run(self, first: int, updates: Sequence[Update]) -> None:
        for step, update in enumerate(updates, start=first):
            self.watch.observe(step, update)

    def short(self) -> list[tuple[str, str, int]]:
        return [(e["kind"], e["alarm"], e["step"]) for e in self.events]


def test_an_alarm_is_raised_once_after_five_steps_and_cleared_once() -> None:
    reports = Reports()
    reports.run(1, [LEARNING, *[ZERO] * 8, LEARNING, LEARNING])
    assert reports.short() == [
        ("alarm", "zero_reward", 6),
        ("alarm", "no_signal", 6),
        ("alarm_cleared", "zero_reward", 10),
        ("alarm_cleared", "no_signal", 10),
    ]
    event = reports.events[0]
    assert event["since"] == 2
    assert event["rollouts"] == {"file": "rollouts/step_000006.parquet", "completion_ids": ["c0", "c1", "c2"]}
    assert event["advice"]
    raised, *over = reports.lines  # one line: zero_reward says that there is no signal either
    assert raised.startswith("step 6: alarm zero_reward: for 5 steps in a row every reward was 0")
    assert raised.endswith(". See rollouts/step_000006.parquet")
    assert over[0] == "step 10: alarm zero_reward is over (raised at step 6)"
    assert json.dumps(reports.events)


def test_four_steps_and_a_good_one_raise_nothing() -> None:
    reports = Reports()
    reports.run(1, [*[ZERO] * 4, LEARNING, *[CUT] * 4, LEARNING])
    assert reports.events == []


def test_the_number_of_steps_is_the_recipes_and_zero_switches_off() -> None:
    reports = Reports(after_steps=2)
    reports.run(1, [CUT, CUT])
    assert reports.short() == [("alarm", "truncated", 2)]
    off = Reports(after_steps=0)
    off.run(1, [ZERO] * 20)
    assert off.events == []


def test_a_resumed_run_repeats_an_alarm_that_still_holds() -> None:
    before = Reports()
    before.run(1, [ZERO] * 7)
    state = json.loads(json.dumps(before.watch.state()))
    still, over = Reports(), Reports()
    still.watch.restore(state)
    still.run(8, [ZERO, ZERO])
    assert still.short() == [("alarm", "zero_reward", 8), ("alarm", "no_signal", 8)]
    assert still.events[0]["since"] == 1
    over.watch.restore(state)
    over.run(8, [LEARNING])
    assert over.short() == [("alarm_cleared", "zero_reward", 8), ("alarm_cleared", "no_signal", 8)]


def test_a_resumed_run_goes_on_counting() -> None:
    before, after = Reports(), Reports()
    before.run(1, [CUT] * 3)
    after.watch.restore(json.loads(json.dumps(before.watch.state())))
    after.run(4, [CUT] * 2)
    assert after.short() == [("alarm", "truncated", 5)]
