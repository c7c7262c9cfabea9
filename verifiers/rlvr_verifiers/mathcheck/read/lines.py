r"""Reads lines with a parameter, `(1, 2) + t(3, 4)`, also with column vectors, as the tuple of their coordinates."""

import re
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.text.spelling import split_outside
from rlvr_verifiers.mathcheck.values.answers import Answer, Formula, Group, Parts, Reader, Reading
from rlvr_verifiers.mathcheck.values.numbers import Number

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

_COLUMN = re.compile(r"\\begin\s*\{[pb]matrix\}((?:(?!\\begin).)*?)\\end\s*\{[pb]matrix\}", re.DOTALL)
_LETTER = r"(?P<parameter>[a-z]|\\(?:lambda|mu|alpha)\s?)"
_TUPLE = r"\((?P<{0}>[^()]*,[^()]*)\)"
_LINE = re.compile(rf"{_TUPLE.format('point')}\s*(?P<sign>[+-])\s*{_LETTER}\s*(?:\\cdot\s*)?{_TUPLE.format('way')}")
_TURNED = re.compile(
    rf"(?P<sign>-?)\s*{_LETTER}\s*(?:\\cdot\s*)?{_TUPLE.format('way')}\s*\+\s*{_TUPLE.format('point')}"
)
_PARAMETERS = frozenset(("s", "t", "u", "k", "r", "lambda", "mu", "alpha"))


def line(text: str, reader: Reader) -> list[Reading] | None:
    """The coordinates of a point plus a multiple of a vector; None for anything else."""
    if "+" not in text and "-" not in text:
        return None
    if "\\begin" in text:
        text = _COLUMN.sub(lambda m: f"({m[1].replace(chr(92) * 2, ',').strip().strip(',')})", text)
        if "&" in text:
            return None
    match = _LINE.fullmatch(text) or _TURNED.fullmatch(text)
    if match is None:
        return None
    points, ways = split_outside(match["point"], ","), split_outside(match["way"], ",")
    if len(points) != len(ways):
        return None
    sign, name = match["sign"] or "+", match["parameter"]
    texts = [f"({a}){sign}({name})({b})" for a, b in zip(points, ways, strict=True)]
    return [Parts(Group.TUPLE, tuple(Answer(one, (Formula(one),)) for one in texts))]


def with_parameter(gold: Parts, answer: Parts) -> Parts | None:
    """The answer with its parameter renamed to that of the gold answer; None if one is missing or both are equal."""
    if not (any(map(_is_formula, gold.items)) and any(map(_is_formula, answer.items))):
        return None
    from rlvr_verifiers.mathcheck.tree.nodes import Var, substituted, variables

    exprs = [[_expr(item) for item in side.items] for side in (gold, answer)]
    names: list[frozenset[str]] = []
    for side in exprs:
        if any(expr is None for expr in side):
            return None
        names.append(frozenset().union(*(variables(expr) for expr in side if expr is not None)))
    old, new = names[1] - names[0], names[0] - names[1]
    if len(old) != 1 or len(new) != 1 or not (old | new) <= _PARAMETERS:
        return None
    values: dict[str, Expr] = {next(iter(old)): Var(next(iter(new)))}
    items = tuple(Answer("", (Formula("", None, substituted(expr, values)),)) for expr in exprs[1] if expr is not None)
    return Parts(answer.group, items)


def _is_formula(item: Answer) -> bool:
    return not (item.readings and isinstance(item.readings[0], Number))


def _expr(answer: Answer) -> "Expr | None":
    from rlvr_verifiers.mathcheck.tree.nodes import Num

    for reading in answer.readings:
        if isinstance(reading, Number) and reading.unit is None:
            return Num(reading.value)
        if isinstance(reading, Formula):
            try:
                return reading.expr()
            except ValueError:
                return None
    return None
