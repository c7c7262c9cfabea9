"""The outcome of one comparison."""

from dataclasses import dataclass
from enum import StrEnum

from rlvr_verifiers.mathcheck.method import Method


class Problem(StrEnum):
    """Why an answer could not be compared as the kind of thing that was asked for."""

    TOO_BIG = "too_big"
    UNREADABLE = "unreadable"
    UNEVALUATED = "unevaluated"
    AMBIGUOUS = "ambiguous"
    OTHER_FORM = "other_form"  # readable, but of another type than the gold


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of one comparison.

    Attributes:
        result: None only with `bounded=True`: a symbolic leftover for a worker that can be killed.
        reason: one sentence for a person.
        problem: set when the answer is wrong for want of a comparable value.
    """

    result: bool | None
    method: Method
    reason: str
    problem: Problem | None = None
