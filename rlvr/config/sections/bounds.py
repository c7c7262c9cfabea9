"""Limits on the size of a recipe, and values that no recipe may hold."""

import math
import re

from pydantic import JsonValue

MAX_RECIPE_BYTES = 1 << 20
MAX_DEPTH = 32  # a recipe's own sections nest to 6
MAX_VALUES = 5_000  # of a recipe once its aliases are written out
MAX_DIGITS = 300  # of a number; a longer one fits neither a float nor a tensor
MAX_PROBLEMS = 100  # that are listed

_SURROGATE = re.compile("[\ud800-\udfff]")


def require_text(text: str) -> None:
    """Raises ValueError for half of a surrogate pair, which files and tokenizers cannot encode."""
    found = _SURROGATE.search(text)
    if found:
        raise ValueError(f"{found[0]!a} is half of a surrogate pair, not a character")


def is_finite(value: JsonValue) -> bool:
    """Whether every number in the value, at any depth, is finite.

    >>> is_finite({"a": [1, "inf"]}), is_finite({"a": [float("nan")]})
    (True, False)
    """
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
