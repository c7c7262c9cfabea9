"""Alarms: what a run says when it goes on without learning.

    step -> findings: what holds in this step -> AlarmWatch: holds for `after_steps` in a row -> alarm, once
                                                 no longer holds                              -> alarm_cleared

Each alarm is an event and one line on the console. It names the completions to look at and says what to do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rlvr.records import FinishReason, Group, Json, Role, Rollout, Verdict
from rlvr.run.evaluation import is_passed
from rlvr.run.shaping import EQUAL, Shaped
from rlvr.run.update import Update
from rlvr.run.verdict_metrics import has_no_readable_answer

TRUNCATED_RATE = 0.5  # above this share of completions cut off at the length limit
ENTROPY_NATS = 0.01  # below this mean entropy a token the policy always writes the same
SOLVED_RATE = 0.9  # a policy that passes this often may be certain
_NUM_EXAMPLES = 3
_KNOBS = (
    "raise rollout.group_size or rollout.temperature, or set data.difficulty.prefer_signal=true"
)


class Alarm(StrEnum):
    """What is wrong. The first three are about the whole step; those of a check carry its name."""

    NO_SIGNAL = "no_signal"  # no completion has an advantage other than 0: nothing is learned
    ZERO_REWARD = "zero_reward"  # every reward is 0
    TRUNCATED = (
        "truncated"  # more than TRUNCATED_RATE of the completions are cut off at the length limit
    )
    ENTROPY_COLLAPSE = "entropy_collapse"  # the policy is certain and wrong
    UNPARSED = "unparsed"  # a check reads no answer in any completion
    CHECK_NEVER_PASSES = "check_never_passes"  # one of several checks gives every completion 0
    CHECK_ALWAYS_PASSES = (
        "check_always_passes"  # one of several has passed everything since the run began
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What holds in one step.

    check: the check's name, where the alarm is about one. what: one clause, without a step. advice: one line.
    examples: ids of completions to look at. is_implied: another finding of the step says more, so the console does not
    repeat it. facts: numbers for the event.
    """

    alarm: Alarm
    what: str
    advice: str
    examples: tuple[str, ...]
    check: str = ""
    is_implied: bool = False
    facts: Mapping[str, Json]

    @property
    def key(self) -> str:
        """Tells apart the alarms that can be raised at the same time."""
        return f"{self.alarm}:{self.check}" if self.check else str(self.alarm)


class AlarmWatch:
    """Counts for how many steps in a row each finding holds, and tells when it becomes an alarm and when it clears.

    Args:
        alarm: writes an event `alarm` with its fields, and a line on the console; "" is no line.
        remark: writes an event and a line on the console.
        after_steps: consecutive steps until an alarm is raised; 0 switches alarms off.
    """

    def __init__(
        self, alarm: Callable[..., None], remark: Callable[..., None], *, after_steps: int
    ) -> None:
        self._alarm = alarm
        self._remark = remark
        self._after_steps = after_steps
        self._num_steps: dict[str, int] = {}
        self._raised: dict[str, int] = {}
        self._to_repeat: set[str] = set()
        self._told_apart: set[str] = set()

    def observe(self, step: int, update: Update) -> None:
        """Raises and clears the alarms of a step."""
        if not self._after_steps:
            return
        found = {
            finding.key: finding
            for finding in findings(update, told_apart=frozenset(self._told_apart))
        }
        self._told_apart |= _with_a_failure(update.taken.groups)
        self._num_steps = {key: self._num_steps.get(key, 0) + 1 for key in found}
        for key, finding in found.items():
            is_due = self._num_steps[key] >= self._after_steps and key not in self._raised
            if is_due or key in self._to_repeat:
                self._raised.setdefault(key, step)
                self._raise(step, finding, self._num_steps[key])
        self._to_repeat.clear()
        for key in [key for key in self._raised if key not in found]:
            self._clear(step, key, raised_at=self._raised.pop(key))

    def state(self) -> dict[str, Any]:
        """What was counted and raised, as a JSON object."""
        return {
            "num_steps": dict(self._num_steps),
            "raised": dict(self._raised),
            "told_apart": sorted(self._told_apart),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to what `state` returned. An alarm that still holds in the next step is told once more."""
        self._num_steps = {str(key): int(count) for key, count in state["num_steps"].items()}
        self._raised = {str(key): int(step) for key, step in state["raised"].items()}
        self._told_apart = set(state["told_apart"])
        self._to_repeat = set(self._raised)

    def _raise(self, step: int, finding: Finding, num_steps: int) -> None:
        file = f"rollouts/step_{step:06d}.parquet"
        check = {"check": finding.check} if finding.check else {}
        steps = "1 step" if num_steps == 1 else f"{num_steps} steps in a row"
        line = (
            f"step {step}: alarm {finding.alarm}: for {steps} {finding.what}. {finding.advice}. "
            f"See {file}"
        )
        self._alarm(
            "" if finding.is_implied else line,
            alarm=str(finding.alarm),
            step=step,
            since=step - num_steps + 1,
            **check,
            reason=finding.what,
            advice=finding.advice,
            rollouts={"file": file, "completion_ids": list(finding.examples)},
            **finding.facts,
        )

    def _clear(self, step: int, key: str, *, raised_at: int) -> None:
        alarm, _, check = key.partition(":")
        of_check = f" of check {check!r}" if check else ""
        self._remark(
            "alarm_cleared",
            f"step {step}: alarm {alarm}{of_check} is over (raised at step {raised_at})",
            alarm=alarm,
            step=step,
            raised_at=raised_at,
            **({"check": check} if check else {}),
        )


def findings(update: Update, *, told_apart: frozenset[str] = frozenset()) -> list[Finding]:
    """What holds in one step.

    Args: told_apart: names of checks that have not passed some completion of an earlier step.
    """
    groups = update.taken.groups
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    zero_reward = _zero_reward(groups, rollouts)
    is_zero = zero_reward is not None
    found = [
        zero_reward,
        _no_signal(update.shaped, rollouts, is_implied=is_zero),
        _truncated(rollouts),
        _entropy_collapse(update.metrics, rollouts),
        *_of_checks(groups, told_apart, is_zero=is_zero),
    ]
    return [finding for finding in found if finding is not None]


def _zero_reward(groups: Sequence[Group], rollouts: Sequence[Rollout]) -> Finding | None:
    rewards = _rewards(rollouts)
    if not rewards or any(rewards):
        return None
    checks = groups[0].prompt.checks
    check = next((c for c in checks if c.role is Role.REWARD), checks[0])
    return Finding(
        alarm=Alarm.ZERO_REWARD,
        what=f"every reward was 0{_why_zero(groups, rollouts)}",
        advice="Read some of the completions; `rlvr verify "
        f"{check.verifier} --explain --completion TEXT --reference TEXT` says how one is judged. "
        + _usual_causes(rollouts),
        examples=_ids(rollouts),
        facts={"mean_reward": 0.0},
    )


def _usual_causes(rollouts: Sequence[Rollout]) -> str:
    """What to look at first: where a check that pays has passed some, what took their reward away."""
    right = [
        r for r in rollouts if any(r.verdicts[k].passed for k in r.reward_parts if k in r.verdicts)
    ]
    if not right:
        return (
            "Usual causes: prompt_format does not say how to give the answer, rollout.max_completion_tokens is too "
            "small, or the problems are too hard for this model"
        )
    if all(map(_is_cut, right)):
        return (
            "Right answers were cut off and so earned nothing: raise rollout.max_completion_tokens"
        )
    return f"{len(right)} of {len(rollouts)} answers were right and vetoed: see the reasons of the gate"


def _why_zero(groups: Sequence[Group], rollouts: Sequence[Rollout]) -> str:
    """What the completions have in common, as a clause in brackets; "" where there is nothing to say."""
    num_cut = sum(_is_cut(rollout) for rollout in rollouts)
    reasons = [(num_cut, "cut off at the length limit")]
    roles = {check.name: check.role for group in groups for check in group.prompt.checks}
    for name, role in roles.items():
        verdicts = _verdicts_of(name, rollouts)
        if role is Role.REWARD:
            num_unread = sum(map(has_no_readable_answer, verdicts))
            reasons.append((num_unread, f"without an answer that check {name!r} can read"))
        elif role is Role.GATE:
            num_vetoed = sum(not v.passed for v in verdicts)
            reasons.append((num_vetoed, f"vetoed by gate {name!r}"))
    told = [f"{count / len(rollouts):.0%} {reason}" for count, reason in reasons if count]
    return f" ({', '.join(told)})" if told else ""


def _no_signal(
    shaped: Mapping[str, Shaped], rollouts: Sequence[Rollout], *, is_implied: bool
) -> Finding | None:
    # A KL penalty in the reward makes advantages differ where no verdict does.
    paid = [one.reward + (one.kl_penalty or 0.0) for one in shaped.values()]
    has_advantages = any(abs(one.advantage or 0.0) > EQUAL for one in shaped.values())
    if has_advantages and max(paid) - min(paid) > EQUAL:
        return None
    rewards = _rewards(rollouts)
    mean = sum(rewards) / len(rewards) if rewards else None
    if not rewards:
        what = "no completion could be judged, so nothing is learned"
        advice = "See the verifier_error events"
    elif max(rewards) - min(rewards) > EQUAL:
        what = "no group had completions of different reward, so nothing is learned"
        advice = f"Each prompt is solved always or never: {_KNOBS}"
    elif max(rewards) > EQUAL:
        what = f"every completion earned the same reward, {rewards[0]:g}, so nothing is learned"
        advice = (
            "The prompts are too easy, or the check accepts everything: read some completions, then take harder "
            "prompts or a stricter check"
        )
    else:
        what = "every completion earned the same reward, 0, so nothing is learned"
        advice = f"See the alarm zero_reward; if some prompts can be solved, {_KNOBS}"
    return Finding(
        alarm=Alarm.NO_SIGNAL,
        what=what,
        advice=advice,
        examples=_ids(rollouts),
        is_implied=is_implied,
        facts={"mean_reward": mean},
    )


def _truncated(rollouts: Sequence[Rollout]) -> Finding | None:
    cut = [rollout for rollout in rollouts if _is_cut(rollout)]
    rate = len(cut) / max(1, len(rollouts))
    if rate <= TRUNCATED_RATE:
        return None
    return Finding(
        alarm=Alarm.TRUNCATED,
        what=f"most completions were cut off at the length limit ({rate:.0%}; the alarm is above {TRUNCATED_RATE:.0%})",
        advice="Raise rollout.max_completion_tokens, ask for a shorter answer in prompt_format, or set "
        "rollout.stop_strings where the model goes on after its answer",
        examples=_ids(cut),
        facts={"rate": rate, "threshold": TRUNCATED_RATE},
    )


def _entropy_collapse(metrics: Mapping[str, float], rollouts: Sequence[Rollout]) -> Finding | None:
    entropy = metrics.get("policy/entropy")
    if entropy is None or not entropy < ENTROPY_NATS:
        return None
    rate = sum(map(is_passed, rollouts)) / max(1, len(rollouts))
    if rate >= SOLVED_RATE:
        return None
    return Finding(
        alarm=Alarm.ENTROPY_COLLAPSE,
        what=f"the policy was nearly certain of every token (entropy {entropy:.2g} nats, below {ENTROPY_NATS:g}) while "
        f"{rate:.0%} of its completions pass",
        advice="It explores no more: go back to an earlier checkpoint with a lower learner.lr, a higher "
        "rollout.temperature or algorithm.entropy_coef",
        examples=_ids(rollouts),
        facts={"entropy": entropy, "threshold": ENTROPY_NATS, "pass_rate": rate},
    )


def _of_checks(
    groups: Sequence[Group], told_apart: frozenset[str], *, is_zero: bool
) -> Iterator[Finding]:
    """Findings about single checks. A checker that breaks is `rlvr.run.broken_checkers`' matter.

    Args: is_zero: every reward is 0, and `zero_reward` says how many answers were unreadable.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    checks = {check.name: check for group in groups for check in group.prompt.checks}
    is_one_of_several = {
        c.name: len(group.prompt.checks) > 1 for group in groups for c in group.prompt.checks
    }
    for name, check in checks.items():
        judged = [r for r in rollouts if name in r.verdicts and r.verdicts[name].score is not None]
        verdicts = _verdicts_of(name, judged)
        if not verdicts:
            continue
        if all(map(has_no_readable_answer, verdicts)):
            yield Finding(
                alarm=Alarm.UNPARSED,
                check=name,
                what=f"check {name!r} could read no answer in any completion",
                advice="Say in prompt_format how the answer is to be given; `rlvr verifiers show "
                f"{check.verifier}` says what is read",
                examples=_ids(judged),
                is_implied=is_zero and check.role is Role.REWARD,
                facts={},
            )
        elif not is_one_of_several[name]:
            continue  # then zero_reward and no_signal say it
        elif not any(verdict.score for verdict in verdicts):
            yield Finding(
                alarm=Alarm.CHECK_NEVER_PASSES,
                check=name,
                what=f"check {name!r} ({check.role}) gave every completion the score 0",
                advice="Read its reasons; `rlvr verify "
                f"{check.verifier} --explain --completion TEXT --reference TEXT` tries one",
                examples=_ids(judged),
                facts={"role": str(check.role)},
            )
        elif name not in told_apart and all(verdict.passed for verdict in verdicts):
            yield Finding(
                alarm=Alarm.CHECK_ALWAYS_PASSES,
                check=name,
                what=f"check {name!r} ({check.role}) has passed every completion of the run",
                advice="It tells nothing apart: make it stricter, or leave it out if that is not meant",
                examples=_ids(judged),
                facts={"role": str(check.role)},
            )


def _with_a_failure(groups: Sequence[Group]) -> set[str]:
    """Names of checks that have not passed some completion."""
    return {
        name
        for group in groups
        for rollout in group.rollouts
        for name, verdict in rollout.verdicts.items()
        if not verdict.passed
    }


def _verdicts_of(name: str, rollouts: Sequence[Rollout]) -> list[Verdict]:
    return [rollout.verdicts[name] for rollout in rollouts if name in rollout.verdicts]


def _rewards(rollouts: Sequence[Rollout]) -> list[float]:
    return [rollout.reward for rollout in rollouts if rollout.reward is not None]


def _is_cut(rollout: Rollout) -> bool:
    return rollout.completion.finish_reason is FinishReason.LENGTH


def _ids(rollouts: Sequence[Rollout]) -> tuple[str, ...]:
    return tuple(rollout.completion.completion_id for rollout in rollouts[:_NUM_EXAMPLES])
