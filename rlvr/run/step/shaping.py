"""Turns the verifiers' rewards into those that advantages are computed from, and finds groups that carry a signal.

    shaped reward = reward - overlong penalty - KL penalty

Rollouts keep the verifiers' reward; the run's files also hold the amounts subtracted. The KL penalty needs the
reference's log-probs and is applied later (`rlvr.run.step.update`), so the group filter does not include it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.lengths import overlong_penalty
from rlvr.config.recipe import RewardConfig, Truncated
from rlvr.records import Group, Rollout
from rlvr.reward import leaves_loss

EQUAL = 1e-9  # rewards and advantages closer than this differ only by rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """The shaped reward of one judged rollout. None: the rollout's group was dropped before, or there is no KL."""

    reward: float
    overlong_penalty: float
    kl_penalty: float | None = None
    advantage: float | None = None


class DropReason(StrEnum):
    """Why a group is not learned from."""

    UNJUDGED = "too few judged rollouts"
    EQUAL_REWARDS = "all judged rewards are equal"
    ALL_MASKED = "every judged rollout was cut off and is masked"
    ZERO_ADVANTAGES = "all advantages are 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """A group, why it must not reach the learner (None keeps it), and by completion id its shaped rewards."""

    group: Group
    reason: DropReason | None
    shaped: Mapping[str, Shaped]


GroupFilter = Callable[[Group], Screened]
"""Shapes a group's rewards and decides whether it may reach the learner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardShaping:
    """The shaping settings that depend only on the rollout."""

    max_completion_tokens: int
    buffer_tokens: int
    penalty: float
    truncated: Truncated

    @classmethod
    def of(cls, config: RewardConfig, *, max_completion_tokens: int) -> "RewardShaping":
        """The settings of a recipe."""
        return cls(
            max_completion_tokens=max_completion_tokens,
            buffer_tokens=config.overlong_buffer_tokens,
            penalty=config.overlong_penalty,
            truncated=config.truncated,
        )

    def shape(self, rollout: Rollout) -> Shaped | None:
        """The reward minus the overlong penalty; None when the rollout could not be judged."""
        if rollout.reward is None:
            return None
        penalty = overlong_penalty(
            num_loss_tokens(rollout),
            max_completion_tokens=self.max_completion_tokens,
            buffer_tokens=self.buffer_tokens,
            penalty=self.penalty,
        )
        return Shaped(reward=rollout.reward - penalty, overlong_penalty=penalty)

    def shape_group(self, group: Group) -> dict[str, Shaped]:
        """By completion id, what `shape` gives for each judged rollout."""
        return {
            rollout.completion.completion_id: shaped
            for rollout in group.rollouts
            if (shaped := self.shape(rollout)) is not None
        }

    def is_masked(self, rollout: Rollout) -> bool:
        """Whether a judged rollout counts in the baseline but not in the loss."""
        return leaves_loss(rollout.completion, truncated=self.truncated)


def signal_filter(*, min_judged: int, shaping: RewardShaping, is_signal_needed: bool) -> GroupFilter:
    """Returns a filter that drops groups with too few judged rollouts or, where a signal is needed, without one."""

    def why_dropped(group: Group, shaped: Mapping[str, Shaped]) -> DropReason | None:
        if group.num_judged < min_judged:
            return DropReason.UNJUDGED
        if not is_signal_needed:
            return None
        judged = [rollout for rollout in group.rollouts if rollout.reward is not None]
        rewards = [x.reward for x in shaped.values()]
        if max(rewards) - min(rewards) <= EQUAL:
            return DropReason.EQUAL_REWARDS
        if all(shaping.is_masked(rollout) for rollout in judged):
            return DropReason.ALL_MASKED
        return None

    def screen(group: Group) -> Screened:
        shaped = shaping.shape_group(group)
        return Screened(group=group, reason=why_dropped(group, shaped), shaped=shaped)

    return screen


def group_rewards(group: Group, shaped: Sequence[Shaped | None]) -> GroupRewards:
    """A group as the advantage functions take it. shaped: one per rollout, None where unjudged."""
    return GroupRewards(
        rewards_G=[None if x is None else x.reward for x in shaped],
        parts_G=[rollout.reward_parts for rollout in group.rollouts],
        weights={check.name: check.weight for check in group.prompt.checks},
        num_tokens_G=[num_loss_tokens(rollout) for rollout in group.rollouts],
    )


def num_loss_tokens(rollout: Rollout) -> int:
    """The number of tokens that the policy sampled."""
    return sum(rollout.completion.sampled_mask)
