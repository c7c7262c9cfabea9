"""The metrics of one step's groups; the glossary in rlvr/README.md defines each."""

import math
import statistics
from collections.abc import Mapping, Sequence

from rlvr.records import FinishReason, Group, Status


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
        "rollout/num_completions": float(len(rollouts)),
    }


def staleness(groups: Sequence[Group], *, policy_version: int) -> float:
    """Mean over rollouts of the learner's version minus the version of the rollout's oldest token."""
    ages = [policy_version - min(r.completion.policy_versions) for g in groups for r in g.rollouts]
    return sum(ages) / max(1, len(ages))


def advantages_by_completion(
    groups: Sequence[Group], advantages: Mapping[str, Sequence[float | None]]
) -> dict[str, float]:
    """Advantages of judged rollouts by completion id, from lists by group id."""
    return {
        rollout.completion.completion_id: advantage
        for group in groups
        for rollout, advantage in zip(group.rollouts, advantages[group.group_id], strict=True)
        if advantage is not None
    }
