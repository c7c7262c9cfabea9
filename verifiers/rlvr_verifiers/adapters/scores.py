"""Turns the scores of other people's reward code into verdicts: one stated, affine map to [0, 1] for all of them."""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.errors import PluginError
from rlvr.plugin import verdict
from rlvr.records import Json, Status, Verdict

_ROUNDING = 1e-6  # of the width of the range: scores of 32-bit arithmetic may be a little above the highest
_SHOWN_CHARS = 500


class ScoreRange(BaseModel):
    """from: the lowest and the highest score that the reward code gives. They become 0 and 1; the order is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    bounds: tuple[float, float] = Field(default=(0.0, 1.0), alias="from")

    @model_validator(mode="after")
    def _is_range(self) -> "ScoreRange":
        low, high = self.bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"from: [{low:g}, {high:g}] must be the lowest and the highest score, in this order")
        return self


class AdapterConfig(BaseModel):
    """Settings of all adapters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: ScoreRange = Field(
        default=ScoreRange(),
        description="{from: [LOWEST, HIGHEST]}: the range of the reward code's scores, which is mapped to [0, 1]",
    )
    pass_score: float | None = Field(
        default=None,
        description="the reward code's own score from which an answer counts as right (PASS); the default is its "
        "highest score",
    )

    @model_validator(mode="after")
    def _is_reachable(self) -> "AdapterConfig":
        low, high = self.scores.bounds
        if self.pass_score is not None and not low < self.pass_score <= high:
            raise ValueError(
                f"pass_score={self.pass_score:g} must be above the lowest score and at most the highest, which are "
                f"{low:g} and {high:g} (scores.from)"
            )
        return self


def scored(
    verifier: Any, config: AdapterConfig, answer: object, *, reason: str = "", details: Mapping[str, Json] | None = None
) -> Verdict:
    """The verdict for what reward code answered: a number, a bool, or None (SKIPPED: it does not apply to the row).

    Args:
        reason: the reward code's own words, if it has any.
        details: kept with the verdict; the score before the map is added as `score` if the map changes it.

    Raises: PluginError, which proposes a setting, for a score outside the range and for anything that is no score.
    """
    kept = dict(details or {})
    plain = as_number(answer)
    if plain is None:
        what = reason or "the reward code returned None: it does not apply to this row"
        return verdict(verifier, Status.SKIPPED, what, details=kept)
    if isinstance(plain, bool):
        status = Status.PASS if plain else Status.FAIL
        return verdict(verifier, status, reason or f"the reward code returned {plain}", details=kept)
    if not isinstance(plain, float) or not math.isfinite(plain):
        raise PluginError(
            f"the reward code returned {answer!r:.200} of type {type(answer).__name__}, which is not a score; it must "
            "return a number, a bool, or None for a row to which it does not apply"
        )
    low, high = config.scores.bounds
    slack = _ROUNDING * (high - low)
    if not low - slack <= plain <= high + slack:
        raise PluginError(_out_of_range(plain, low, high))
    pass_score = high if config.pass_score is None else config.pass_score
    status = Status.PASS if plain >= pass_score - slack else Status.FAIL
    if (low, high) != (0.0, 1.0):
        kept = {"score": plain, **kept}
    score = min(1.0, max(0.0, (plain - low) / (high - low)))
    words = reason or f"the reward code returned {plain:g} (PASS from {pass_score:g})"
    return verdict(verifier, status, words, score=score, details=kept)


def as_number(answer: object) -> object:
    """Numbers as float, including scalars of numpy and torch; bools, None and anything else unchanged.

    >>> as_number(1), as_number(True), as_number(None)
    (1.0, True, None)
    """
    if getattr(answer, "ndim", None) == 0 and callable(getattr(answer, "item", None)):
        answer = cast(Any, answer).item()
    if answer is None or isinstance(answer, bool):
        return answer
    return float(answer) if isinstance(answer, Real | Decimal) else answer


def as_json(value: object) -> Json:
    """The value if it is a JSON value, a scalar as a number, else its `repr`, shortened.

    >>> as_json({"acc": 1}), as_json({1, 1})
    ({'acc': 1}, '{1}')
    """
    plain = as_number(value)
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(plain)[:_SHOWN_CHARS]
    return plain


def _out_of_range(score: float, low: float, high: float) -> str:
    """The message for a score outside the range, with the setting that would contain it."""
    if (low, high) != (0.0, 1.0):
        return (
            f"the reward code returned {score:g}, which is outside of scores.from, [{low:g}, {high:g}]; give its true "
            "lowest and highest score"
        )
    proposed = f"[{min(0, math.floor(score))}, {max(1, math.ceil(score))}]"
    return (
        f"the reward code returned {score:g}, but a score of rlvr is in [0, 1]. State its lowest and its highest "
        f"score, and they become 0 and 1: settings: {{scores: {{from: {proposed}}}}}"
    )
