"""Ragged rows of random log-probs, in plain Python: the input of reference losses and of ours."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Number

NUM_GROUPS = 6
GROUP_SIZE = 6
MAX_TOKENS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion: its loss tokens only, T of them, T >= 1. Log-probs and entropies in nats.

    logprobs_T, entropy_T: of the policy that learns; gradients are taken with respect to these.
    proximal_T: of the learner before the step. behavior_T: of the engine. ref_T: of the reference.
    is_truncated: it ended at the length limit.
    """

    group: int
    advantage: float
    logprobs_T: Sequence[Number]
    entropy_T: Sequence[Number]
    proximal_T: Sequence[float]
    behavior_T: Sequence[float]
    ref_T: Sequence[float]
    is_truncated: bool = False

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.logprobs_T)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far the policies are from each other: standard deviations of a token's log-ratio.

    step: policy against proximal. engine: proximal against behavior. reference: policy against reference.
    """

    step: float = 0.5
    engine: float = 0.3
    reference: float = 0.4


def make_rows(seed: int, spread: Spread | None = None) -> list[Row]:
    """NUM_GROUPS x GROUP_SIZE rows of 1 to MAX_TOKENS tokens, in random order of lengths.

    The second group's advantages are all 0; in the others both signs occur, and one row in six is truncated at
    MAX_TOKENS. Every eighth token moved three times as far as the others, so that ratios fall beyond every clip.
    """
    spread = spread or Spread()
    source = random.Random(seed)
    rows: list[Row] = []
    for index in range(NUM_GROUPS * GROUP_SIZE):
        group = index // GROUP_SIZE
        is_truncated = index % GROUP_SIZE == GROUP_SIZE - 1
        count = MAX_TOKENS if is_truncated else source.randint(1, MAX_TOKENS - 1)
        sign = 1.0 if index % 2 else -1.0
        drift = source.gauss(0.0, spread.engine / 2)
        rows.append(
            _make_row(
                source,
                spread=spread,
                group=group,
                count=count,
                drift=drift,
                advantage=0.0 if group == 1 else sign * source.uniform(0.2, 2.0),
                is_truncated=is_truncated,
            )
        )
    return rows


def _make_row(
    source: random.Random, *, spread: Spread, group: int, count: int, drift: float, advantage: float, is_truncated: bool
) -> Row:
    behavior: list[float] = []
    proximal: list[float] = []
    policy: list[float] = []
    ref: list[float] = []
    for _ in range(count):
        far = 3.0 if source.random() < 1 / 8 else 1.0
        behavior.append(_logprob(-source.expovariate(0.8)))
        proximal.append(_logprob(behavior[-1] + drift + far * source.gauss(0.0, spread.engine)))
        policy.append(_logprob(proximal[-1] + far * source.gauss(0.0, spread.step)))
        ref.append(_logprob(policy[-1] + source.gauss(0.0, spread.reference)))
    return Row(
        group=group,
        advantage=advantage,
        logprobs_T=[Number(x) for x in policy],
        entropy_T=[Number(source.uniform(0.05, 3.0)) for _ in range(count)],
        proximal_T=proximal,
        behavior_T=behavior,
        ref_T=ref,
        is_truncated=is_truncated,
    )


def _logprob(x: float) -> float:
    """A probability stays below 1."""
    return min(x, -0.01)


def make_groups(seed: int, *, has_unjudged: bool) -> list[GroupRewards]:
    """Five groups of five rollouts with two checks: mixed rewards, one group of equals, one with a single success.

    has_unjudged: one rollout of the first group and all but one of the last cannot be judged.
    """
    source = random.Random(seed)
    weights = {"right": 1.0, "form": 0.25}
    groups: list[GroupRewards] = []
    for index in range(5):
        scores = [{"right": float(source.random() < 0.5), "form": round(source.random(), 2)} for _ in range(5)]
        if index == 1:
            scores = [scores[0]] * 5
        if index == 2:
            scores = [{"right": float(i == 0), "form": 0.0} for i in range(5)]
        unjudged = {0: {2}, 4: {0, 1, 2, 3}}.get(index, set()) if has_unjudged else set()
        parts = [
            {} if i in unjudged else {name: weights[name] * value for name, value in row.items()}
            for i, row in enumerate(scores)
        ]
        groups.append(
            GroupRewards(
                rewards_G=[None if i in unjudged else sum(p.values()) for i, p in enumerate(parts)],
                parts_G=parts,
                weights=weights,
                num_tokens_G=[source.randint(1, MAX_TOKENS) for _ in range(5)],
            )
        )
    return groups
