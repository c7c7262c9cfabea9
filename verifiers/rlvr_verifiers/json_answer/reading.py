"""Reads JSON from hostile text in bounded time and memory.

>>> parse_json('{"a": [1, 2.5, null]}', max_depth=10)
{'a': [1, 2.5, None]}
"""

import json
import math
from typing import Any, NoReturn, cast

from rlvr.records import Json

_MAX_NUMBER_CHARS = 400


class NotJson(ValueError):  # noqa: N818 - not a fault of this program
    """The text is not JSON, or has what is not accepted: duplicate keys, NaN, numbers out of range, deep nesting."""


def parse_json(text: str, *, max_depth: int) -> Json:
    """The value of a JSON text. Raises NotJson."""
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except NotJson:
        raise
    except RecursionError:
        raise NotJson("the JSON is nested too deeply") from None
    except ValueError as error:
        raise NotJson(f"the text is not JSON: {str(error)[:100]}") from error
    if depth_of(value, max_depth) > max_depth:
        raise NotJson(f"the JSON is nested deeper than {max_depth}")
    return value


def depth_of(value: Json, limit: int) -> int:
    """The depth of a JSON value; `limit` + 1 if it is deeper than that."""
    level, depth = [value], 0
    while level and depth <= limit:
        inner: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                inner += cast("dict[str, Json]", item).values()
            elif isinstance(item, list):
                inner += cast("list[Json]", item)
        level, depth = inner, depth + 1
    return depth


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise NotJson(f"the key {twice!r:.60} is there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON")


def _float(text: str) -> float:
    number = float(text) if len(text) <= _MAX_NUMBER_CHARS else math.inf
    if math.isinf(number):
        raise NotJson(f"the number {text[:40]} is out of range")
    return number


def _int(text: str) -> int:
    if len(text) > _MAX_NUMBER_CHARS:
        raise NotJson(f"the number {text[:40]} is out of range")
    return int(text)
