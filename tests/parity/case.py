"""One comparison: what a peer computes, what we compute, and how far apart they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from pydantic import TypeAdapter

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.build import build_kl
from rlvr.algorithms.kl import kl_penalties
from rlvr.algorithms.lengths import overlong_penalty
from rlvr.config.sections.algorithm import AdvantageConfig, AlgorithmConfig, KlEstimator
from tests.parity.number import Scalar, gradient, still
from tests.parity.ours import MAX_COMPLETION_TOKENS, our_advantages, our_loss
from tests.parity.rows import Row, Spread, make_groups, make_rows

SEED = 17
ADVANTAGE: TypeAdapter[AdvantageConfig] = TypeAdapter(AdvantageConfig)


class Claim(StrEnum):
    """The claim about a comparison."""

    EQUAL = "equal"
    SAME_GRADIENT = "same gradient"  # the reported values differ, without meaning
    DIFFERS = "differs on purpose"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Largest absolute differences, and the largest of the peer's numbers. gradient: None where there is none."""

    value: float
    gradient: float | None
    value_scale: float
    gradient_scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The fields of every comparison. reason: why the two differ; empty where they do not."""

    peer: str
    algorithm: str
    settings: str
    claim: Claim = Claim.EQUAL
    reason: str = ""

    def measure(self) -> Difference:
        """Runs both sides on the same seeded input."""
        raise NotImplementedError


def same_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """Both sides learn from the same rows."""
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCase(Case):
    """A loss over rows of log-probs, with its gradient.

    reference: the peer's loss. ours: the `algorithm` section of a recipe. our_rows: which rows reach our loss.
    """

    reference: Callable[[Sequence[Row]], Scalar]
    ours: Mapping[str, Any]
    spread: Spread = field(default_factory=Spread)
    rows: Callable[[Sequence[Row]], Sequence[Row]] = same_rows
    our_rows: Callable[[Sequence[Row]], Sequence[Row]] = same_rows

    @property
    def config(self) -> AlgorithmConfig:
        """Our settings, as a recipe would hold them."""
        return AlgorithmConfig.model_validate(self.ours)

    def measure(self) -> Difference:
        """Value, and gradient at every log-prob and entropy of the rows that reach our loss; it is 0 at the others."""
        rows = self.rows(make_rows(SEED, self.spread))
        reached = self.our_rows(rows)
        mine = our_loss(self.config, reached)
        theirs = self.reference(rows)
        left = [row for row in rows if all(row is not other for other in reached)]
        leaves = [x for row in (*reached, *left) for x in (*row.logprobs_T, *row.entropy_T)]
        slopes = gradient(theirs, leaves)
        our_slopes = [
            x
            for both in zip(mine.logprob_slopes_B_T, mine.entropy_slopes_B_T, strict=True)
            for side in both
            for x in side
        ]
        our_slopes += [0.0] * (len(slopes) - len(our_slopes))
        return Difference(
            value=_largest([mine.value - still(theirs)]),
            gradient=_largest([a - b for a, b in zip(our_slopes, slopes, strict=True)]),
            value_scale=_largest([still(theirs)]),
            gradient_scale=_largest(slopes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageCase(Case):
    """Advantages of groups of rewards. reference: the peer's. ours: the `algorithm.advantage` section of a recipe.

    has_unjudged: some rollouts have no reward. What leaves our loss counts as an advantage of 0.
    """

    reference: Callable[[Sequence[GroupRewards]], list[list[float]]]
    ours: Mapping[str, Any]
    has_unjudged: bool = False

    def measure(self) -> Difference:
        """The largest difference of any rollout's advantage."""
        groups = make_groups(SEED, has_unjudged=self.has_unjudged)
        mine = our_advantages(ADVANTAGE.validate_python(self.ours), groups)
        theirs = self.reference(groups)
        pairs = [
            (a or 0.0, b)
            for our_row, their_row in zip(mine, theirs, strict=True)
            for a, b in zip(our_row, their_row, strict=True)
        ]
        return _of_values(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongCase(Case):
    """The reward added to a completion near the limit. reference: by its number of tokens."""

    reference: Callable[[int], float]
    buffer_tokens: int
    penalty: float

    def measure(self) -> Difference:
        """At every length up to the limit."""
        pairs = [
            (
                -overlong_penalty(
                    count,
                    max_completion_tokens=MAX_COMPLETION_TOKENS,
                    buffer_tokens=self.buffer_tokens,
                    penalty=self.penalty,
                ),
                self.reference(count),
            )
            for count in range(MAX_COMPLETION_TOKENS + 1)
        ]
        return _of_values(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardKlCase(Case):
    """The penalty of the KL to the reference in each row's reward, where engine and learner agree."""

    reference: Callable[[Row], float]
    estimator: KlEstimator
    coef: float

    def measure(self) -> Difference:
        """Row by row."""
        rows = make_rows(SEED, Spread(engine=0.0))
        pairs = [(self._ours(row), self.reference(row)) for row in rows]
        return _of_values(pairs)

    def _ours(self, row: Row) -> float:
        penalty = kl_penalties(
            torch.tensor([row.behavior_T], dtype=torch.float64),
            ref_logprobs=torch.tensor([row.ref_T], dtype=torch.float64),
            loss_mask=torch.ones(1, row.num_tokens, dtype=torch.bool),
            coef=self.coef,
            estimator=build_kl(self.estimator),
        )
        return float(penalty[0])


def _of_values(pairs: Sequence[tuple[float, float]]) -> Difference:
    return Difference(
        value=_largest([a - b for a, b in pairs]),
        gradient=None,
        value_scale=_largest([b for _, b in pairs]),
        gradient_scale=0.0,
    )


def _largest(values: Sequence[float]) -> float:
    """The largest absolute value; inf when one is nan."""
    return max((math.inf if math.isnan(v) else abs(v) for v in values), default=0.0)
