r"""Piecewise functions: `\begin{cases} x & x \ge 0 \\ -x & x < 0 \end{cases}`.

Two are equal if their values agree at every border and at sampled points in between. If both pieces agree at a border,
it does not matter to which of them it belongs.
"""

import itertools
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.parts import expr_of
from rlvr_verifiers.mathcheck.compare.session import OTHER_TYPE, Session, no, yes
from rlvr_verifiers.mathcheck.decision import Decision
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.values.answers import Answer, Formula, Piecewise, Reader, Reading
from rlvr_verifiers.mathcheck.values.regions import EVERYTHING, Region, complement, joined
from rlvr_verifiers.mathcheck.values.relations import region

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

_CASES = re.compile(
    r"(?:\\\{\s*)?\\begin\s*\{(?P<env>[dr]?cases|array)\}(?:\{[lcr| ]*\})?(?P<body>.*)\\end\s*\{(?P=env)\}\s*\.?",
    re.DOTALL,
)
_OTHERWISE = re.compile(r"\s*(?:\\text\s*\{)?\s*,?\s*(?:otherwise|else|elsewhere|other)\s*\.?\s*\}?\s*")
_LEAD = re.compile(r"\s*(?:\\text\s*\{\s*(?:if|for|when|,)*\s*\}|(?:if|for|when)\s)\s*")
_MAX_PIECES = 12
_SHARES = (Fraction(1, 7), Fraction(2, 5), Fraction(3, 4))


def piecewise(text: str, reader: Reader) -> list[Reading] | None:
    """The pieces with the regions in which they apply; None for anything else."""
    if "\\begin" not in text or (match := _CASES.fullmatch(text)) is None:
        return None
    pieces: list[tuple[Answer, Region]] = []
    rows = [row for row in match["body"].split("\\\\") if row.strip()]
    for row in rows[:_MAX_PIECES]:
        value, mark, condition = row.partition("&")
        condition = _LEAD.sub("", condition.strip().rstrip(".,;"))
        if _OTHERWISE.fullmatch(condition):
            found = complement(joined([piece for _, piece in pieces]))
        else:
            found = region(condition)
        if not mark or found is None or found.is_symbolic:
            return None
        pieces.append((reader.answer(value.strip().rstrip(",;")), found))
    return [Piecewise(tuple(pieces))] if pieces else None


def piecewise_functions(session: Session, gold: Piecewise, answer: Piecewise, depth: int) -> Decision:
    """Whether both have the same values at the borders and between them."""
    names = _names(gold) | _names(answer)
    borders = sorted(
        {
            end.exact
            for pieces in (gold.pieces, answer.pieces)
            for _, found in pieces
            for piece in found.pieces
            for end in (piece.low, piece.high)
            if end.exact is not None
        }
    )
    if len(names) != 1 or not _are_exact(gold) or not _are_exact(answer):
        return OTHER_TYPE
    (name,) = names
    ends = [borders[0] - 7, *borders, borders[-1] + 9] if borders else [Fraction(-7), Fraction(9)]
    points = [*borders, ends[0], ends[-1]]
    for low, high in itertools.pairwise(ends):
        points.extend(low + (high - low) * share for share in _SHARES)
    is_open = False
    for point in points:
        values = _value_at(gold, point), _value_at(answer, point)
        if (values[0] is None) != (values[1] is None):
            return no(Method.STRUCTURE, f"only one of them has a value at {point}")
        if values[0] is None or values[1] is None:
            continue
        found = session.formulas(_at(values[0], name, point), _at(values[1], name, point))
        if found.result is False:
            return no(found.method, f"it has another value at {name} = {point}")
        is_open = is_open or found.result is None
    if is_open:
        return Decision(result=None, method=Method.NUMERIC, reason="the same values in doubles")
    return yes(Method.NUMBER, "the same values at the borders and between them")


def piecewise_formula(session: Session, gold: Piecewise, answer: Formula, depth: int) -> Decision:
    """Compares with a single formula for the whole function, such as |x|."""
    whole = Piecewise(((Answer(answer.text, (answer,)), Region("", EVERYTHING)),))
    return piecewise_functions(session, gold, whole, depth)


def _names(function: Piecewise) -> frozenset[str]:
    from rlvr_verifiers.mathcheck.tree.nodes import variables

    exprs = [expr_of(value) for value, _ in function.pieces]
    return frozenset().union(*(variables(expr) for expr in exprs if expr is not None))


def _are_exact(function: Piecewise) -> bool:
    """Whether every border is rational and every value an expression."""
    ends = [end for _, found in function.pieces for p in found.pieces for end in (p.low, p.high)]
    is_exact = all(end.exact is not None or math.isinf(end.value) for end in ends)
    return is_exact and all(expr_of(value) is not None for value, _ in function.pieces)


def _value_at(function: Piecewise, point: Fraction) -> "Expr | None":
    """The expression of the piece that applies at a point; None if no piece does."""
    for value, found in function.pieces:
        for piece in found.pieces:
            above = piece.low.value == -math.inf or (
                piece.low.exact is not None
                and (piece.low.exact < point or (piece.has_low and piece.low.exact == point))
            )
            below = piece.high.value == math.inf or (
                piece.high.exact is not None
                and (point < piece.high.exact or (piece.has_high and piece.high.exact == point))
            )
            if above and below:
                return expr_of(value)
    return None


def _at(expr: "Expr", name: str, point: Fraction) -> Formula:
    from rlvr_verifiers.mathcheck.tree.nodes import Num, substituted

    return Formula("", None, substituted(expr, {name: Num(point)}))
