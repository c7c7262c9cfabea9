"""Token rows whose log-probs show whether two models are the same, and the difference of two lists of log-probs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROW_TOKENS = 129  # 128 of them have a log-prob
SYNC_TOKENS = 17
TRIAL_TOKENS = 128

Rows = tuple[tuple[int, ...], ...]
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The token rows on which a run's weight proofs compare log-probs.

    sync: one short row, for every sync. trial: for each group of tensors at the start. wide: for noise and drift; it
    begins with the rows of `trial`.
    """

    sync: Rows
    trial: Rows
    wide: Rows


def build_canary(
    prompts: Sequence[Sequence[int]], *, vocabulary: Sequence[int], num_tokens: int, max_row_tokens: int, seed: int
) -> Canary:
    """Rows that begin with real prompt tokens and continue with tokens drawn from the whole vocabulary.

    Args:
        prompts: token ids of some prompts of the run; may be empty.
        vocabulary: token ids to draw from.
        num_tokens: the least number of tokens with a log-prob in `wide`.
        max_row_tokens: the longest row that learner and engines accept.
    """
    width = max(2, min(ROW_TOKENS, max_row_tokens))
    generator = np.random.Generator(np.random.Philox(key=seed))
    count = -(-num_tokens // (width - 1))
    rows: list[tuple[int, ...]] = []
    for index in range(count):
        drawn = generator.choice(np.asarray(vocabulary), size=width).tolist()
        head = list(prompts[index % len(prompts)])[: width // 2] if prompts else []
        rows.append((*head, *drawn[len(head) :]))
    wide = tuple(rows)
    # Both ends of the first row: the prompt's first tokens, and drawn ones.
    half = SYNC_TOKENS // 2
    sync = (wide[0] if width <= SYNC_TOKENS else (*wide[0][: half + 1], *wide[0][-half:]),)
    return Canary(sync=sync, trial=wide[: max(1, TRIAL_TOKENS // (width - 1))], wide=wide)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean absolute difference of log-probs, nats, and the standard error of that mean."""

    mean: float
    standard_error: float


def difference(one: Scores, other: Scores) -> Difference:
    """The difference of two lists of log-probs of the same rows; infinite where one is not finite.

    >>> difference([[-1.0, -2.0]], [[-1.5, -2.0]]).mean
    0.25
    """
    gaps = [abs(a - b) for row, twin in zip(one, other, strict=True) for a, b in zip(row, twin, strict=True)]
    if not all(math.isfinite(gap) for gap in gaps):
        return Difference(mean=math.inf, standard_error=0.0)
    mean = math.fsum(gaps) / len(gaps)
    variance = math.fsum((gap - mean) ** 2 for gap in gaps) / max(1, len(gaps) - 1)
    return Difference(mean=mean, standard_error=math.sqrt(variance / len(gaps)))


def mean_size(scores: Scores) -> float:
    """The mean of |log-prob|; an engine's rounding errors grow with it."""
    values = [abs(value) for row in scores for value in row]
    return math.fsum(values) / len(values)
