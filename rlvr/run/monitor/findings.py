"""What is wrong with one step: rewards that teach nothing, completions cut off, checks that tell nothing apart.

Pure: groups and metrics in, findings out. `rlvr.run.monitor.alarms` makes alarms of those that last.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlvr.records import FinishReason, Group, Json, Role, Rollout, Verdict
from rlvr.run.monitor.broken_checkers import broken_checkers
from rlvr.run.step.evaluation import is_passed
from rlvr.run.step.shaping import EQUAL, Shaped
from rlvr.run.step.update import Update
from rlvr.run.step.verdict_metrics import has_no_readable_answer

TRUNCATED_RATE = 0.5  # above this share of completions cut off at the length limit
BROKEN_RATE = 0.2  # above this share of a check's completions that hang its checker or end it
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
    CHECK_BREAKS = "check_breaks"  # a check's checker hangs or ends on more than BROKEN_RATE of the completions
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
        *_breaking_checks(groups),
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
        what = "no group carried a signal (equal rewards in each, or too few that count), so nothing is learned"
        advice = f"Most prompts are solved always or never: {_KNOBS}"
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


def _breaking_checks(groups: Sequence[Group]) -> Iterator[Finding]:
    """Checks that cost more completions their reward than their own faults explain; nearly all end the run sooner."""
    for broken in broken_checkers(groups):
        if broken.rate > BROKEN_RATE:
            yield Finding(
                alarm=Alarm.CHECK_BREAKS,
                check=broken.check,
                what=f"check {broken.check!r} broke ({broken.cause}) on {broken.rate:.0%} of the completions, which "
                f"FAIL for it (the alarm is above {BROKEN_RATE:.0%}); first: {broken.reason}",
                advice=f"Are they at fault, or the verifier? {broken.advice}",
                examples=broken.examples[:_NUM_EXAMPLES],
                facts={"rate": broken.rate, "threshold": BROKEN_RATE, "cause": broken.cause},
            )


def _of_checks(
    groups: Sequence[Group], told_apart: frozenset[str], *, is_zero: bool
) -> Iterator[Finding]:
    """Findings about single checks. A checker that breaks is `rlvr.run.monitor.broken_checkers`' matter.

    Args: is_zero: every reward is 0, and `zero_reward` says how many answers were unreadable.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    checks = {check.name: check for group in groups for check in group.prompt.checks}
    one_of_several = {
        c.name for group in groups if len(group.prompt.checks) > 1 for c in group.prompt.checks
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
        elif name not in one_of_several:
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


def _verdicts_of(name: str, rollouts: Sequence[Rollout]) -> list[Verdict]:
    return [rollout.verdicts[name] for rollout in rollouts if name in rollout.verdicts]


def _rewards(rollouts: Sequence[Rollout]) -> list[float]:
    return [rollout.reward for rollout in rollouts if rollout.reward is not None]


def _is_cut(rollout: Rollout) -> bool:
    return rollout.completion.finish_reason is FinishReason.LENGTH


def _ids(rollouts: Sequence[Rollout]) -> tuple[str, ...]:
    return tuple(rollout.completion.completion_id for rollout in rollouts[:_NUM_EXAMPLES])
