"""Problems of one step: rewards without signal, truncated completions, checks that never discriminate.

Pure functions: groups and metrics in, findings out. `rlvr.run.monitor.alarms` raises those that persist as alarms.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlvr.records import FinishReason, Group, Json, Role, Rollout, Verdict
from rlvr.run.monitor.broken_checkers import broken_checkers
from rlvr.run.step.evaluation import is_passed
from rlvr.run.step.metrics import has_no_readable_answer
from rlvr.run.step.shaping import EQUAL, Shaped
from rlvr.run.step.update import Update

TRUNCATED_RATE = 0.5  # above this share of completions cut off at the length limit
BROKEN_RATE = 0.2  # above this share of a check's completions that hang or kill its checker
ENTROPY_NATS = 0.01  # below this mean entropy per token the policy always writes the same text
SOLVED_RATE = 0.9  # a policy that passes this often may have low entropy
_NUM_EXAMPLES = 3
_KNOBS = "raise rollout.group_size or rollout.temperature, or set data.difficulty.prefer_signal=true"


class Alarm(StrEnum):
    """The kind of problem. The first ones concern the whole step; those about a check carry its name."""

    NO_SIGNAL = "no_signal"  # no completion has an advantage other than 0: nothing is learned
    ZERO_REWARD = "zero_reward"  # every reward is 0
    TRUNCATED = "truncated"  # more than TRUNCATED_RATE of the completions are cut off at the length limit
    ENTROPY_COLLAPSE = "entropy_collapse"  # the policy has almost no entropy and is wrong
    CHECK_BREAKS = "check_breaks"  # a checker hangs or dies on more than BROKEN_RATE of the completions
    UNPARSED = "unparsed"  # a check finds no readable answer in any completion
    CHECK_NEVER_PASSES = "check_never_passes"  # one of several checks gives every completion 0
    CHECK_ALWAYS_PASSES = "check_always_passes"  # one of several checks has passed every completion of the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem found in one step.

    check: the check's name, if it concerns one. what: one clause, without the step. advice: one line.
    examples: ids of completions to read. is_implied: another finding of the step covers it, so the console omits it.
    facts: numbers for the event.
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
        """Identifies an alarm among those that can be raised at the same time."""
        return f"{self.alarm}:{self.check}" if self.check else str(self.alarm)


def findings(update: Update, *, failed_checks: frozenset[str] = frozenset()) -> list[Finding]:
    """The problems of one step.

    Args: failed_checks: names of checks that did not pass at least one completion of an earlier step.
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
        *_of_checks(groups, failed_checks, is_zero=is_zero),
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
    """What to check first; if some answers passed the check that gives reward, why they earned none."""
    right = [r for r in rollouts if any(r.verdicts[k].passed for k in r.reward_parts if k in r.verdicts)]
    if not right:
        return (
            "Usual causes: prompt_format does not say how to format the answer, rollout.max_completion_tokens is too "
            "small, or the problems are too hard for this model"
        )
    if all(map(_is_cut, right)):
        return "Correct answers were truncated and so earned nothing: raise rollout.max_completion_tokens"
    return f"{len(right)} of {len(rollouts)} answers were correct but vetoed: see the reasons of the gate"


def _why_zero(groups: Sequence[Group], rollouts: Sequence[Rollout]) -> str:
    """What the completions have in common, as a clause in brackets; "" for nothing."""
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
    shares = [f"{count / len(rollouts):.0%} {reason}" for count, reason in reasons if count]
    return f" ({', '.join(shares)})" if shares else ""


def _no_signal(shaped: Mapping[str, Shaped], rollouts: Sequence[Rollout], *, is_implied: bool) -> Finding | None:
    # A KL penalty in the reward makes advantages differ even when all verdicts are equal.
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
        what = "no group carried a signal (rewards are equal, or too few rollouts count), so nothing is learned"
        advice = f"Most prompts are either always or never solved: {_KNOBS}"
    elif max(rewards) > EQUAL:
        what = f"every completion earned the same reward, {rewards[0]:g}, so nothing is learned"
        advice = (
            "The prompts are too easy, or the check accepts everything: read some completions, then use harder "
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
        advice="It no longer explores: go back to an earlier checkpoint with a lower learner.lr, a higher "
        "rollout.temperature or algorithm.entropy_coef",
        examples=_ids(rollouts),
        facts={"entropy": entropy, "threshold": ENTROPY_NATS, "pass_rate": rate},
    )


def _breaking_checks(groups: Sequence[Group]) -> Iterator[Finding]:
    """Checks that break on too many completions; if nearly all break, the run ends anyway."""
    for broken in broken_checkers(groups):
        if broken.rate > BROKEN_RATE:
            yield Finding(
                alarm=Alarm.CHECK_BREAKS,
                check=broken.check,
                what=f"check {broken.check!r} broke ({broken.cause}) on {broken.rate:.0%} of the completions, which "
                f"therefore FAIL (the alarm is above {BROKEN_RATE:.0%}); first: {broken.reason}",
                advice=f"Find out whether they or the verifier is at fault: {broken.advice}",
                examples=broken.examples[:_NUM_EXAMPLES],
                facts={"rate": broken.rate, "threshold": BROKEN_RATE, "cause": broken.cause},
            )


def _of_checks(groups: Sequence[Group], failed_checks: frozenset[str], *, is_zero: bool) -> Iterator[Finding]:
    """Findings about single checks. Broken checkers are handled by `rlvr.run.monitor.broken_checkers`.

    Args: is_zero: every reward is 0, and `zero_reward` reports how many answers were unreadable.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    checks = {check.name: check for group in groups for check in group.prompt.checks}
    one_of_several = {c.name for group in groups if len(group.prompt.checks) > 1 for c in group.prompt.checks}
    for name, check in checks.items():
        judged = [r for r in rollouts if name in r.verdicts and r.verdicts[name].score is not None]
        verdicts = _verdicts_of(name, judged)
        if not verdicts:
            continue
        if all(map(has_no_readable_answer, verdicts)):
            yield Finding(
                alarm=Alarm.UNPARSED,
                check=name,
                what=f"check {name!r} found no readable answer in any completion",
                advice="Say in prompt_format how to give the answer; `rlvr verifiers show "
                f"{check.verifier}` describes the accepted formats",
                examples=_ids(judged),
                is_implied=is_zero and check.role is Role.REWARD,
                facts={},
            )
        elif name not in one_of_several:
            continue  # zero_reward and no_signal cover it
        elif not any(verdict.score for verdict in verdicts):
            yield Finding(
                alarm=Alarm.CHECK_NEVER_PASSES,
                check=name,
                what=f"check {name!r} ({check.role}) gave every completion the score 0",
                advice="Read its reasons; `rlvr verify "
                f"{check.verifier} --explain --completion TEXT --reference TEXT` tests one completion",
                examples=_ids(judged),
                facts={"role": str(check.role)},
            )
        elif name not in failed_checks and all(verdict.passed for verdict in verdicts):
            yield Finding(
                alarm=Alarm.CHECK_ALWAYS_PASSES,
                check=name,
                what=f"check {name!r} ({check.role}) has passed every completion of the run",
                advice="It never discriminates: make it stricter, or remove it unless that is intended",
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
