"""The metrics of one step's groups; the glossary in rlvr/README.md defines each."""

import math
import statistics
from collections.abc import Iterable, Sequence

from rlvr.records import FinishReason, Group, Status
from rlvr.run.step.buffer import DropReason, Taken
from rlvr.run.step.shaping import Shaped
from rlvr.run.step.verdict_metrics import check_metrics, verdict_metrics


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Reward, verifier and length metrics over every rollout of the step, before any filter."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    verdicts = [v for r in rollouts for v in r.verdicts.values()]
    lengths = [len(r.completion.token_ids) for r in rollouts]
    judged_groups = [[x for x in group.rewards if x is not None] for group in groups]
    comparable = [x for x in judged_groups if len(x) >= 2]
    num_rollouts = max(1, len(rollouts))
    num_verdicts = max(1, len(verdicts))
    return {
        "reward/mean": statistics.fmean(rewards) if rewards else math.nan,
        "reward/std": statistics.pstdev(rewards) if rewards else math.nan,
        "reward/unjudged_rate": 1 - len(rewards) / num_rollouts,
        "reward/zero_variance_rate": sum(max(x) == min(x) for x in comparable)
        / max(1, len(comparable)),
        "reward/all_correct_rate": sum(min(x) == max(x) > 0 for x in comparable)
        / max(1, len(comparable)),
        "verifier/error_rate": sum(v.status is Status.ERROR for v in verdicts) / num_verdicts,
        "verifier/unparsed_rate": sum(v.status is Status.UNPARSED for v in verdicts) / num_verdicts,
        "verifier/timeout_rate": sum(
            v.details.get("cause") in ("timeout", "crash") for v in verdicts
        )
        / num_verdicts,
        "time/verify_s": sum(v.seconds for v in verdicts),
        "rollout/length_mean_tokens": sum(lengths) / num_rollouts,
        "rollout/length_max_tokens": float(max(lengths, default=0)),
        "rollout/truncated_rate": sum(
            r.completion.finish_reason is not FinishReason.STOP for r in rollouts
        )
        / num_rollouts,
        "rollout/aborted_rate": sum(
            r.completion.finish_reason is FinishReason.ABORT for r in rollouts
        )
        / num_rollouts,
        "rollout/num_completions": float(len(rollouts)),
        **verdict_metrics(groups),
        **check_metrics(groups),
    }


def staleness(groups: Sequence[Group], *, policy_version: int) -> dict[str, float]:
    """How far behind the learner the rollouts are: its version minus the version of a rollout's oldest token."""
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
    """Groups that were dropped and replaced, and the sampled tokens that nothing was learned from."""
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
    """What was taken from the rewards on the mean, for each penalty that the recipe asks for."""
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
