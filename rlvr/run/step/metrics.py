"""The metrics of one step's groups; the glossary in rlvr/README.md defines each."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlvr.records import FinishReason, Group, Status
from rlvr.run.step.buffer import Taken
from rlvr.run.step.shaping import DropReason, Shaped
from rlvr.run.step.verdict_metrics import check_metrics, verdict_metrics


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
    }


def staleness(groups: Sequence[Group], *, policy_version: int) -> dict[str, float]:
    """Staleness of the rollouts: the learner's version minus the version of a rollout's oldest token."""
    ages = [
        policy_version - min(rollout.completion.policy_versions)
        for group in groups
        for rollout in group.rollouts
        if rollout.completion.policy_versions
    ]
    return {
        "policy/staleness_mean": sum(ages) / max(1, len(ages)),
        "policy/staleness_max": float(max(ages, default=0)),
    }


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


def _num_tokens(group: Group) -> int:
    return sum(len(rollout.completion.token_ids) for rollout in group.rollouts)
