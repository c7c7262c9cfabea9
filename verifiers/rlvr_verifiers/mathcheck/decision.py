"""The outcome of one comparison."""

from dataclasses import dataclass
from enum import StrEnum

from rlvr_verifiers.mathcheck.method import Method


class Problem(StrEnum):
    """Why an answer could not be compared with a reference of this type."""

    TOO_BIG = "too_big"
    UNREADABLE = "unreadable"
    UNEVALUATED = "unevaluated"
    AMBIGUOUS = "ambiguous"
    OTHER_FORM = "other_form"  # readable, but not of the type of the reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of one comparison.

    Attributes:
        result: whether the answer is equal. None only with `bounded=True`: undecided, and left to a worker that can
            be killed.
        reason: one human-readable sentence.
        problem: why there was no value to compare; None if there was one.
    """

    result: bool | None
    method: Method
    reason: str
    problem: Problem | None = None
