"""Equality of JSON values: 1 equals 1.0 and not true, the order of keys does not count.

>>> equal({"a": 1, "b": [1]}, {"b": [1.0], "a": 1}, subset=False, tolerance=0.0)
True
>>> equal({"a": 1, "b": 2}, {"a": 1}, subset=True, tolerance=0.0)
True
"""

from typing import Any, cast

from rlvr.records import Json

_MAX_EXACT_FLOAT = 2**53


def equal(value: Json, expected: Json, *, subset: bool, tolerance: float) -> bool:
    """Whether a value equals the expected one.

    Args:
        subset: objects may have further keys, at every level.
        tolerance: absolute, for numbers.
    """
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return False
        has, wanted = cast("dict[str, Json]", value), cast("dict[str, Json]", expected)
        if not subset and len(has) != len(wanted):
            return False
        return all(
            key in has and equal(has[key], item, subset=subset, tolerance=tolerance) for key, item in wanted.items()
        )
    if isinstance(expected, list):
        if not isinstance(value, list):
            return False
        items, others = cast("list[Json]", value), cast("list[Json]", expected)
        return len(items) == len(others) and all(
            equal(item, other, subset=subset, tolerance=tolerance) for item, other in zip(items, others, strict=True)
        )
    if is_number(expected) and is_number(value):
        if value == expected:
            return True
        is_small = abs(value) < _MAX_EXACT_FLOAT and abs(expected) < _MAX_EXACT_FLOAT
        return tolerance > 0.0 and is_small and abs(value - expected) <= tolerance
    return type(value) is type(expected) and value == expected


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def identity(value: Json) -> object:
    """A hashable key that equal values share."""
    if isinstance(value, dict):
        return ("object", frozenset((key, identity(item)) for key, item in cast("dict[str, Json]", value).items()))
    if isinstance(value, list):
        return ("array", tuple(identity(item) for item in cast("list[Json]", value)))
    return ("number" if is_number(value) else type(value).__name__, value)
