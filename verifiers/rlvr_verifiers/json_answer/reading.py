r"""Reads JSON from hostile text in bounded time and memory.

>>> parse_json('{"a": [1, 2.5, null]}', max_depth=10)
{'a': [1, 2.5, None]}
>>> json_text("Here:\n```json\n{}\n```\nDone.", source=Source.AUTO)
'{}'
"""

import json
import math
from enum import StrEnum
from typing import Any, NoReturn, cast

from rlvr.records import Json

_MAX_NUMBER_CHARS = 400
_FENCE = "```"


class Source(StrEnum):
    """The part of a completion that is the JSON."""

    AUTO = "auto"  # the last ```json block, else the last block without a language, else the whole text
    BLOCK = "block"  # the last ```json block
    WHOLE = "whole"  # the whole text


class NotJson(ValueError):  # noqa: N818 - not a fault of this program
    """The text is not JSON, or has what is not accepted: duplicate keys, NaN, numbers out of range, deep nesting."""


def json_text(text: str, *, source: Source) -> str | None:
    """The JSON's text; None if there is no such block, or it was never closed."""
    if source is Source.WHOLE:
        return text.strip()
    blocks, is_open = _blocks(text)
    tagged = [body for language, body in blocks if language.lower() == "json"]
    if is_open:
        return None
    if tagged:
        return tagged[-1].strip()
    if source is Source.BLOCK:
        return None
    plain = [body for language, body in blocks if not language]
    return plain[-1].strip() if plain else text.strip()


def _blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """The fenced blocks as (language, body), and whether the last was never closed."""
    blocks: list[tuple[str, str]] = []
    language, body_start = None, 0
    position = text.find(_FENCE)
    while position >= 0:
        line_start = text.rfind("\n", 0, position) + 1
        line_end = text.find("\n", position)
        line_end = len(text) if line_end < 0 else line_end
        is_fence = position - line_start < 4 and not text[line_start:position].strip()
        if is_fence and language is None:
            language, body_start = text[position + len(_FENCE) : line_end].strip(), line_end + 1
        elif is_fence and language is not None and not text[position + len(_FENCE) : line_end].strip():
            blocks.append((language, text[body_start:line_start]))
            language = None
        position = text.find(_FENCE, max(line_end, position + len(_FENCE)))
    return blocks, language is not None


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
