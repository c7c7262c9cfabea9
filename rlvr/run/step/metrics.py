"""The metrics of one step's groups; the glossary in rlvr/README.md defines each.

A verifier contributes through `details`: `method` (how it decided), `problem` (why an answer could not be compared, or
not in the requested form) and `cross_check` ("agrees" or "disagrees": a second checker's result on some verdicts).
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlvr.records import FinishReason, Group, Role, Status, Verdict
from rlvr.run.step.buffer import Taken
from rlvr.run.step.shaping import DropReason, Shaped

NUMERIC = "numeric"
AMBIGUOUS = "ambiguous"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatistics:
    """What is counted over every rollout of a step, before any filter; reward_mean and reward_std: nan without one."""

    num_completions: int
    num_tokens: int
    max_tokens: int
    reward_mean: float
    reward_std: float
    unjudged_rate: float
    zero_variance_rate: float
    all_correct_rate: float
    error_rate: float
    unparsed_rate: float
    timeout_rate: float
    truncated_rate: float
    aborted_rate: float
    verify_s: float

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "RolloutStatistics":
        """The statistics of these groups."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        rewards = [r.reward for r in rollouts if r.reward is not None]
        verdicts = [v for r in rollouts for v in r.verdicts.values()]
        lengths = [len(r.completion.token_ids) for r in rollouts]
        judged_groups = [[x for x in group.rewards if x is not None] for group in groups]
        comparable = [x for x in judged_groups if len(x) >= 2]
        num_comparable = max(1, len(comparable))
        num_rollouts = max(1, len(rollouts))
        num_verdicts = max(1, len(verdicts))
        finished = [r.completion.finish_reason for r in rollouts]
        causes = [v.details.get("cause") for v in verdicts]
        return cls(
            num_completions=len(rollouts),
            num_tokens=sum(lengths),
            max_tokens=max(lengths, default=0),
            reward_mean=statistics.fmean(rewards) if rewards else math.nan,
            reward_std=statistics.pstdev(rewards) if rewards else math.nan,
            unjudged_rate=1 - len(rewards) / num_rollouts,
            zero_variance_rate=sum(max(x) == min(x) for x in comparable) / num_comparable,
            all_correct_rate=sum(min(x) == max(x) > 0 for x in comparable) / num_comparable,
            error_rate=sum(v.status is Status.ERROR for v in verdicts) / num_verdicts,
            unparsed_rate=sum(v.status is Status.UNPARSED for v in verdicts) / num_verdicts,
            timeout_rate=sum(cause in ("timeout", "crash") for cause in causes) / num_verdicts,
            truncated_rate=sum(x is not FinishReason.STOP for x in finished) / num_rollouts,
            aborted_rate=sum(x is FinishReason.ABORT for x in finished) / num_rollouts,
            verify_s=sum(v.seconds for v in verdicts),
        )


def rollout_metrics(groups: Sequence[Group], *, known: RolloutStatistics | None = None) -> dict[str, float]:
    """Reward, verifier and length metrics over every rollout of the step, before any filter.

    Args: known: the statistics of these groups, where they were computed before.
    """
    found = known or RolloutStatistics.of(groups)
    return {
        "reward/mean": found.reward_mean,
        "reward/std": found.reward_std,
        "reward/unjudged_rate": found.unjudged_rate,
        "reward/zero_variance_rate": found.zero_variance_rate,
        "reward/all_correct_rate": found.all_correct_rate,
        "verifier/error_rate": found.error_rate,
        "verifier/unparsed_rate": found.unparsed_rate,
        "verifier/timeout_rate": found.timeout_rate,
        "time/verify_s": found.verify_s,
        "rollout/length_mean_tokens": found.num_tokens / max(1, found.num_completions),
        "rollout/length_max_tokens": float(found.max_tokens),
        "rollout/truncated_rate": found.truncated_rate,
        "rollout/aborted_rate": found.aborted_rate,
        "rollout/num_completions": float(found.num_completions),
        **verdict_metrics(groups),
        **check_metrics(groups),
        **gate_metrics(groups),
    }


def staleness(groups: Sequence[Group], *, policy_version: int) -> dict[str, float]:
    """Staleness of the rollouts: the learner's version minus the version of a rollout's oldest token."""
    ages = [
        policy_version - min(rollout.completion.policy_versions)
        for group in groups
        for rollout in group.rollouts
        if rollout.completion.policy_versions
    ]
    return {"policy/staleness_mean": sum(ages) / max(1, len(ages)), "policy/staleness_max": float(max(ages, default=0))}


def selection_metrics(taken: Taken) -> dict[str, float]:
    """Numbers of groups dropped and replaced, and the share of sampled tokens that went unused."""
    zero = [reason for _, reason in taken.dropped if reason is DropReason.ZERO_ADVANTAGES]
    wasted = sum(_num_tokens(group) for group, _ in taken.dropped)
    return {
        "rollout/dropped_groups": float(len(taken.dropped) - len(zero)),
        "rollout/zero_variance_dropped_groups": float(len(zero)),
        "rollout/refilled_groups": float(taken.num_refilled),
        "rollout/wasted_tokens": float(wasted),
        "rollout/wasted_rate": wasted / max(1, sum(map(_num_tokens, taken.groups))),
    }


def penalty_metrics(shaped: Iterable[Shaped], *, has_overlong: bool) -> dict[str, float]:
    """The mean amount subtracted from the rewards, for each penalty in the recipe."""
    shaped = list(shaped)
    charged = [x.kl_penalty for x in shaped if x.kl_penalty is not None]
    found: dict[str, float] = {}
    if has_overlong and shaped:
        found["reward/overlong_penalty_mean"] = statistics.fmean(x.overlong_penalty for x in shaped)
    if charged:
        found["reward/kl_penalty_mean"] = statistics.fmean(charged)
    return found


def verdict_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`verifier/*` metrics over every verdict of the step, shadow checks included; {} without a verdict."""
    verdicts = [v for group in groups for r in group.rollouts for v in r.verdicts.values()]
    if not verdicts:
        return {}
    seconds = sorted(verdict.seconds for verdict in verdicts)
    metrics = {
        "verifier/pass_rate": _share(verdicts, Status.PASS),
        "verifier/fail_rate": _share(verdicts, Status.FAIL),
        "time/verify_p50_s": seconds[(len(seconds) - 1) // 2],
        "time/verify_p99_s": seconds[-(-99 * len(seconds) // 100) - 1],
    }
    if skipped := _share(verdicts, Status.SKIPPED):
        metrics["verifier/skipped_rate"] = skipped
    methods = Counter(str(v.details["method"]) for v in verdicts if "method" in v.details)
    for method, count in sorted(methods.items()):
        metrics[f"verifier/method_{method}_rate"] = count / len(verdicts)
    passed = [v.details.get("method") for v in verdicts if v.passed and "method" in v.details]
    if passed:
        metrics["verifier/numeric_only_rate"] = passed.count(NUMERIC) / len(passed)
    checked = [v.details.get("cross_check") for v in verdicts]
    num_checked = checked.count("agrees") + checked.count("disagrees")
    if num_checked:
        metrics["verifier/cross_checked"] = float(num_checked)
        metrics["verifier/disagreement_rate"] = checked.count("disagrees") / num_checked
    by_check = [found for group in groups for found in _by_check(group)]
    if methods:
        suspected = sum(map(_is_suspected, by_check))
        metrics["verifier/suspected_false_negative_rate"] = suspected / len(by_check)
    return metrics


def check_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`check/NAME/*` of each check, shadows and gates included; sources that share a check name are pooled.

    pass_rate, error_rate, unparsed_rate and (if any is SKIPPED) skipped_rate are shares of its verdicts; mean_score is
    over those with a score, nan if there is none; reward_mean is the mean of its part of the reward, which only a check
    with role reward has.
    """
    by_name: dict[str, list[Verdict]] = {}
    parts: dict[str, list[float]] = {}
    for group in groups:
        for rollout in group.rollouts:
            for name, verdict in rollout.verdicts.items():
                by_name.setdefault(name, []).append(verdict)
            for name, part in rollout.reward_parts.items():
                parts.setdefault(name, []).append(part)
    metrics: dict[str, float] = {}
    for name, verdicts in sorted(by_name.items()):
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        metrics |= {
            f"check/{name}/pass_rate": _share(verdicts, Status.PASS),
            f"check/{name}/mean_score": statistics.fmean(scores) if scores else math.nan,
            f"check/{name}/error_rate": _share(verdicts, Status.ERROR),
            f"check/{name}/unparsed_rate": _share(verdicts, Status.UNPARSED),
        }
        if skipped := _share(verdicts, Status.SKIPPED):
            metrics[f"check/{name}/skipped_rate"] = skipped
    return metrics | {f"check/{name}/reward_mean": statistics.fmean(given) for name, given in sorted(parts.items())}


def gate_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """The share of judged rollouts whose reward a gate made 0; {} without a gate or a judged rollout."""
    vetoed: list[bool] = []
    for group in groups:
        gates = [check.name for check in group.prompt.checks if check.role is Role.GATE]
        judged = [rollout for rollout in group.rollouts if rollout.reward is not None] if gates else []
        for rollout in judged:
            counted = [v for name, v in rollout.verdicts.items() if name in gates and v.status is not Status.SKIPPED]
            vetoed.append(not all(verdict.passed for verdict in counted))
    return {"reward/gated_rate": sum(vetoed) / len(vetoed)} if vetoed else {}


def has_no_readable_answer(verdict: Verdict) -> bool:
    """Whether no answer was found, or the marked answer cannot be read, as in `\\boxed{+++}`."""
    return verdict.status is Status.UNPARSED or (
        verdict.status is Status.FAIL and verdict.details.get("problem") == UNREADABLE
    )


def _num_tokens(group: Group) -> int:
    return sum(len(rollout.completion.token_ids) for rollout in group.rollouts)


def _share(verdicts: Sequence[Verdict], status: Status) -> float:
    return sum(verdict.status is status for verdict in verdicts) / len(verdicts)


def _by_check(group: Group) -> Iterator[list[Verdict]]:
    """The verdicts of each check of a group."""
    for check in group.prompt.checks:
        found = [r.verdicts[check.name] for r in group.rollouts if check.name in r.verdicts]
        if found:
            yield found


def _is_suspected(verdicts: Sequence[Verdict]) -> bool:
    """Whether none passed, and two completions agree on an answer that could not be compared in the requested form."""
    if any(verdict.passed for verdict in verdicts):
        return False
    answers = Counter(
        verdict.extracted.strip()
        for verdict in verdicts
        if verdict.extracted and verdict.details.get("problem", AMBIGUOUS) != AMBIGUOUS
    )
    return max(answers.values(), default=0) >= 2
