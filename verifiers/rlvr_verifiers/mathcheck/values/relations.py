r"""Sets of real numbers: intervals, inequalities, set-builders, unions and excluded points, in one normal form.

`[2,9)`, `2 \le x < 9` and `\{x \mid 2 \le x < 9\}` are the same `Region`: sorted disjoint intervals whose ends are
expressions. Ends are ordered by their values as doubles; the comparison decides whether two ends are equal.
"""

import math
import re
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.text.spelling import is_balanced, split_outside, unwrapped_text
from rlvr_verifiers.mathcheck.values.numbers import Form, parse_number
from rlvr_verifiers.mathcheck.values.regions import (
    EVERYTHING,
    INFINITY,
    MAX_PIECES,
    MINUS_INFINITY,
    End,
    Interval,
    Region,
    both,
    complement,
    joined,
    merged,
    without,
)

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

_VARIABLE = r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?"
_NAME = re.compile(r"[A-Za-z](?:_\{?[A-Za-z0-9]+\}?)?|\\[A-Za-z]+(?:_\{?\w+\}?)?|[A-Za-z]\([A-Za-z]\)")
_MEMBER = re.compile(rf"(?P<name>{_VARIABLE})\s*∈\s*(?P<set>.+)")
_BUILDER = re.compile(
    r"\\\{\s*(?P<name>\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*(?:∈\s*\\mathbb\{R\}\s*)?(?:[|:;])\s*(?P<condition>.+)\\\}"
)
_POINT = re.compile(rf"(?P<name>{_VARIABLE})\s*=\s*(?P<value>[^=]+)")
_RELATION = re.compile(r"[<>≤≥≠]")
_EXCEPT = re.compile(
    r"(?:\\text\{)?\s*(?:all|any|every)?\s*(?:real\s+numbers?|reals?|real\s+values?|values?)?(?:\s*\}?\s*(?:of\s+)?\$?[a-z]?\$?\s*(?:\\text\{)?)?"
    r"\s*(?:except|other than|excluding|but not|such that)(?:\s+for)?\s*\}?\s*(?P<rest>.+)",
    re.IGNORECASE,
)
_OR = re.compile(r"\\text\s*\{\s*,?\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|∪")
_AND = re.compile(r"\\text\s*\{\s*,?\s*(?:and|but)\s*\}|(?<![A-Za-z\\])(?:and|but)(?![A-Za-z])|∩")
_INFINITE = {"\\infty": INFINITY, "+\\infty": INFINITY, "-\\infty": MINUS_INFINITY}
_ALL_REALS = frozenset([
    "all real numbers", "all reals", "real numbers", "the set of all real numbers", "any real number",
    "all real values",
])  # fmt: skip
_FLIPPED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}


def region(text: str) -> Region | None:
    r"""The set of reals that a tidied text describes; None if it describes anything else.

    A pair in round brackets is read as an open interval; the caller handles the case that it is a point.

    >>> region(r"x ≠ 1") == region(r"(-\infty,1)∪(1,\infty)")
    False
    >>> region(r"x ≠ 1").pieces == region(r"(-\infty,1)∪(1,\infty)").pieces
    True
    >>> region("1 < x ≤ 3").pieces == region("(1,3]").pieces == region("x > 1, x ≤ 3").pieces
    True
    """
    if not any(sign in text for sign in "<>≤≥≠∈∪∩∖[](R|{") and "real" not in text:
        return None
    found = _read(text.strip(), 0)
    if found is None or len(found.pieces) > MAX_PIECES:
        return None
    if any(math.isnan(end.value) for piece in found.pieces for end in (piece.low, piece.high)):
        return replace(found, is_symbolic=True)
    return replace(found, pieces=merged(found.pieces))


def _read(text: str, depth: int) -> Region | None:
    if depth > 6 or not text:
        return None
    if text in ("\\mathbb{R}", "(-\\infty ,\\infty )", "\\text{R}"):
        return Region("", EVERYTHING)
    if depth and text in ("∅", "\\{\\}"):
        return Region("", ())
    if (match := _BUILDER.fullmatch(text)) and is_balanced(match["condition"]):
        inner = _read(match["condition"].strip(), depth + 1)
        return inner and replace(inner, variable="")
    if (match := _MEMBER.fullmatch(text)) and _RELATION.search(split_outside(text, ",")[0]) is None:
        head, *conditions = split_outside(match["set"], ",")
        inner = _read(head, depth + 1)
        for condition in conditions:
            other = _read(condition, depth + 1)
            inner = None if inner is None or other is None else both(inner, other)
        return inner and replace(inner, variable=match["name"])
    return _combined(text, depth)


def _combined(text: str, depth: int) -> Region | None:
    plain = unwrapped_text(text).strip().casefold()
    if plain in _ALL_REALS:
        return Region("", EVERYTHING)
    if "real" in plain and (match := _EXCEPT.fullmatch(text)):
        return without(Region("", EVERYTHING), _points(match["rest"]))
    if (parts := _split_on(text, _OR)) is not None:
        return joined([_read(part, depth + 1) for part in parts])
    if (parts := _split_on(text, _AND)) is not None:
        regions = [_read(part, depth + 1) for part in parts]
        found = regions[0]
        for other in regions[1:]:
            found = None if found is None or other is None else both(found, other)
        return found
    for sign in ("∖", "-\\{", "- \\{", "-{"):
        head, mark, tail = text.partition(sign)
        if mark and head.strip() and is_balanced(head):
            base = _read(head.strip(), depth + 1)
            rest = (sign.lstrip("∖- ") + tail).strip()
            points = _points(rest)
            if points is not None or base is None:
                return without(base, points)
            outside = complement(_read(rest, depth + 1))
            return outside and both(base, outside)
    if _RELATION.search(text):
        return _inequality(text, depth)
    if depth and (match := _POINT.fullmatch(text)):
        points = _points(match["value"])
        return None if points is None else Region(match["name"], tuple(points))
    if text.startswith(("\\{", "{")) and text.endswith("}"):
        points = _points(text)
        return None if points is None else Region("", tuple(points))
    return _interval(text)


def _split_on(text: str, pattern: re.Pattern[str]) -> list[str] | None:
    """The pieces between those matches that are outside brackets; None if there is no match."""
    pieces: list[str] = []
    start = position = depth = 0
    for match in pattern.finditer(text):
        if len(pieces) > MAX_PIECES:
            return None
        between = text[position : match.start()]
        depth += sum(map(between.count, "([{")) - sum(map(between.count, ")]}"))
        position = match.start()
        if depth == 0 and is_balanced(text[start:position]):
            pieces.append(text[start:position].strip(" ,"))
            start = position = match.end()
    if not pieces:
        return None
    return [*pieces, text[start:].strip(" ,")]


def _interval(text: str) -> Region | None:
    if len(text) < 5 or text[0] not in "([]" or text[-1] not in ")][":
        return None
    inner = text[1:-1]
    ends = split_outside(inner, ",;")
    if len(ends) != 2 or not is_balanced(inner):
        return None
    is_foreign = text[0] == "]" or text[-1] == "["
    low, high = _end(ends[0]), _end(ends[1])
    if low is None or high is None:
        return None
    has_low = text[0] == "["
    has_high = text[-1] == "]"
    if is_foreign and text[0] == "(":
        return None
    if low.value > high.value or (low.value == high.value and not (has_low and has_high)):
        return None  # a point in the plane, not an interval
    return Region("", (Interval(low, high, has_low, has_high),))


def _inequality(text: str, depth: int) -> Region | None:
    parts = split_outside(text, ",;")
    if len(parts) > 1:
        return _listed(parts, depth)
    operands = [piece.strip() for piece in _RELATION.split(text)]
    signs = _RELATION.findall(text)
    if len(signs) == 1 and "|" in text and (found := _absolute(operands, signs[0])) is not None:
        return found
    if len(signs) == 1:
        left, right, sign = operands[0], operands[1], signs[0]
        if not _NAME.fullmatch(left) and _NAME.fullmatch(right):
            left, right, sign = right, left, _FLIPPED[sign]
        if not _NAME.fullmatch(left) or _is_constant(left):
            return None
        return _half_line(left, sign, right)
    if len(signs) == 2 and _NAME.fullmatch(operands[1]) and "≠" not in signs:
        if _is_upward(signs[0]) != _is_upward(signs[1]):
            return None
        if not _is_upward(signs[0]):
            operands.reverse()
            signs = [_FLIPPED[sign] for sign in reversed(signs)]
        low, high = _end(operands[0]), _end(operands[2])
        if low is None or high is None or _mentions(operands[0] + operands[2], operands[1]):
            return None
        piece = Interval(low, high, signs[0] == "≤", signs[1] == "≤")
        return Region(operands[1], (piece,))
    return None


def _absolute(operands: list[str], sign: str) -> Region | None:
    """|ax + b| < c with rational a, b and c as an interval or its complement; None for anything else."""
    left, right = operands
    if not left.startswith("|"):
        left, right, sign = right, left, _FLIPPED[sign]
    bound = parse_number(right)
    inner = left[1:-1]
    if bound is None or bound.unit is not None or bound.value <= 0 or left[-1:] != "|" or "|" in inner:
        return None
    line = _line(inner)
    if line is None or sign == "≠":
        return None
    name, slope, offset = line
    ends = sorted(((-bound.value - offset) / slope, (bound.value - offset) / slope))
    low, high = (End(str(value), float(value), value) for value in ends)
    if sign in "<≤":
        return Region(name, (Interval(low, high, sign == "≤", sign == "≤"),))
    below = Interval(MINUS_INFINITY, low, False, sign == "≥")
    return Region(name, (below, Interval(high, INFINITY, sign == "≥", False)))


def _line(text: str) -> tuple[str, Fraction, Fraction] | None:
    """The variable, a and b of ax + b; None for anything else."""
    from rlvr_verifiers.mathcheck.parse.expression import Num, parse, substituted, variables
    from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

    try:
        expr = parse(text)
        names = variables(expr)
        if len(names) != 1:
            return None
        (name,) = names
        values = [exact_value(substituted(expr, {name: Num(Fraction(at))})) for at in (0, 1, 2, 5, -3)]
    except (ValueError, Undefined):
        return None
    kept = [value for value in values if value is not None]
    if len(kept) != len(values) or kept[0] == kept[1]:
        return None
    slope = kept[1] - kept[0]
    is_line = all(v == kept[0] + slope * at for v, at in zip(kept, (0, 1, 2, 5, -3), strict=True))
    return (name, slope, kept[0]) if is_line else None


def _listed(parts: list[str], depth: int) -> Region | None:
    """Inequalities separated by commas: their intersection; their union if that is empty. `x ≠ 1, 2` excludes both."""
    if "≠" in parts[0] and not any(_RELATION.search(part) for part in parts[1:]):
        first = _read(parts[0], depth + 1)
        points = [point for part in parts[1:] for point in _points(part) or ()]
        return first and without(first, points) if len(points) == len(parts) - 1 else None
    found: Region | None = None
    regions = [_read(part, depth + 1) for part in parts]
    for other in regions:
        if other is None or (_RELATION.search(parts[0]) is None):
            return None
        found = other if found is None else both(found, other)
        if found is None:
            return None
    return found if found is not None and found.pieces else joined(regions)


def _half_line(name: str, sign: str, bound: str) -> Region | None:
    end = _end(bound)
    if end is None or _mentions(bound, name):
        return None
    if math.isinf(end.value):  # x < oo holds for every x
        is_empty = (end.value > 0) != (sign == "<")
        return None if is_empty or sign not in "<>" else Region(name, EVERYTHING)
    below = Interval(MINUS_INFINITY, end, False, sign == "≤")
    above = Interval(end, INFINITY, sign == "≥", False)
    if sign == "≠":
        return Region(name, (below, above))
    return Region(name, (below if sign in "<≤" else above,))


def _is_upward(sign: str) -> bool:
    return sign in "<≤"


def _is_constant(name: str) -> bool:
    return name in ("\\pi", "e", "\\infty", "i")


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])", text) is not None


def _points(text: str) -> list[Interval] | None:
    """The points of `\\{1, 2\\}`, `1, 2` or `1 and 2` as intervals; None if one of them is not a number."""
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    elif text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    if match := re.fullmatch(r"[A-Za-z]\s*=\s*(.+)", text):
        text = match[1]
    if "≠" in text:
        text = text.partition("≠")[2]
    text = _AND.sub(",", _OR.sub(",", text))
    points: list[Interval] = []
    for part in split_outside(text, ",;"):
        end = _end(part) if part else None
        if not part:
            continue
        if end is None or math.isinf(end.value):
            return None
        points.append(Interval(end, end, True, True))
    return points or None


def _end(text: str) -> End | None:
    """An end of an interval; None if the text is neither a number nor an expression."""
    text = text.strip()
    infinite = _INFINITE.get(text.replace(" ", ""))
    if infinite is not None:
        return infinite
    number = parse_number(text)
    if number is not None and (number.unit is None or number.unit.dims == (("degree", 1),)):
        value = number.value / 100 if number.form is Form.PERCENT else number.value
        try:
            return End(text, float(value), value)
        except OverflowError:
            return None
    if not text or any(sign in text for sign in "<>≤≥≠∈∪∩∖,=") or "\\text" in text:
        return None
    from rlvr_verifiers.mathcheck.parse.expression import TooBig, Unreadable, parse, variables

    try:
        expr = parse(text)
    except (Unreadable, TooBig):
        return None
    if variables(expr):
        return End(text, math.nan)
    return End(text, _approximate(expr))


def _approximate(expr: "Expr") -> float:
    """The value of a constant as a double; nan if it is not real or cannot be bounded."""
    from rlvr_verifiers.mathcheck.algebra.numeric import real_interval

    bounds = real_interval(expr)
    return math.nan if bounds is None else (bounds[0] + bounds[1]) / 2
