"""Answers of several parts: tuples, sets, lists, ratios, matrices; and regions of the reals."""

import math
from typing import TYPE_CHECKING

from .answers import Answer, Formula, Group, Matrix, Named, Parts, Reading
from .decision import Decision, Problem
from .method import Method
from .numbers import Form, Number
from .regions import End, Interval, Region, union
from .relations import region
from .session import OTHER_TYPE, SAME_NUMBER, Session, bare_numbers, later, no, yes
from .words import Choice, Phrase

if TYPE_CHECKING:
    from .nodes import Expr


def parts(session: Session, gold: Parts, answer: Parts, depth: int) -> Decision:
    groups = (gold.group, answer.group)
    if Group.RATIO in groups:
        return _ratios(session, gold, answer, depth) if groups[0] is groups[1] else OTHER_TYPE
    if groups[0] is not groups[1] and Group.LIST not in groups:
        return no(Method.STRUCTURE, f"a {groups[1]} is no {groups[0]}")
    if Group.TUPLE not in groups and Group.BRACKET not in groups:
        if groups == (Group.LIST, Group.LIST) and len(gold.items) == len(answer.items):
            letters, others = _letters(gold.items), _letters(answer.items)
            if len(set(letters)) == len(gold.items) and not any(others):
                return session.all_of(list(zip(gold.items, answer.items, strict=True)), depth)
        return session.matched(gold.items, answer.items, depth)
    if len(gold.items) != len(answer.items):
        return no(Method.STRUCTURE, f"it has {len(answer.items)} parts and not {len(gold.items)}")
    golds, answers = gold.items, answer.items
    if Group.LIST in groups:
        golds, answers = _by_name(golds), _by_name(answers)
    return session.all_of(list(zip(golds, answers, strict=True)), depth)


def _letters(items: tuple[Answer, ...]) -> list[str]:
    """The one-letter names of parts such as `x = 3`; "" and nothing more for other parts."""
    names = (
        next((reading.name for reading in item.readings if isinstance(reading, Named)), "")
        for item in items
    )
    return [name for name in names if len(name) == 1]


def _by_name(items: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """The parts of `y = 2, x = 1` in the order of their names; others, and longer names, as they stand."""
    names: list[str] = []
    for item in items:
        name = next((reading.name for reading in item.readings if isinstance(reading, Named)), "")
        if len(name) != 1:
            return items
        names.append(name)
    return tuple(
        item for _, item in sorted(zip(names, items, strict=True), key=lambda pair: pair[0])
    )


def _ratios(session: Session, gold: Parts, answer: Parts, depth: int) -> Decision:
    """a : b = c : d when they are proportional."""
    if len(gold.items) != len(answer.items):
        return no(Method.STRUCTURE, "it compares another number of quantities")
    golds, answers = bare_numbers(gold.items), bare_numbers(answer.items)
    if golds is None or answers is None:
        decision = session.all_of(list(zip(gold.items, answer.items, strict=True)), depth)
        if decision.result is False and len(gold.items) == 2:
            quotients = [quotient(parts) for parts in (gold, answer)]
            if quotients[0] is not None and quotients[1] is not None:
                return session.formulas(quotients[0], quotients[1])
        return decision
    if not golds[0] or not answers[0]:
        is_same = golds == answers
    else:
        is_same = all(a * golds[0] == b * answers[0] for a, b in zip(answers, golds, strict=True))
    if is_same:
        return yes(Method.NUMBER, "the ratios are equal")
    return no(Method.NUMBER, "it is another ratio")


def quotient(ratio: Parts) -> Formula | None:
    """first / second of a ratio as an expression."""
    from .expression import Div

    exprs = [expr_of(item) for item in ratio.items]
    if len(exprs) != 2 or exprs[0] is None or exprs[1] is None:
        return None
    return Formula("", None, Div(exprs[0], exprs[1]))


def expr_of(answer: Answer) -> "Expr | None":
    """The expression that an answer is; None when it is none."""
    from .expression import Num

    for reading in answer.readings:
        if isinstance(reading, Number) and reading.form is not Form.PERCENT:
            return Num(reading.value)
        if isinstance(reading, Formula):
            try:
                return reading.expr()
            except ValueError:
                return None
    return None


def single(
    session: Session, other: Reading, parts: Parts, depth: int, is_gold: bool
) -> Decision | None:
    """One value against a group: {5} is 5, a : b is a / b, a run of choice letters is their list."""
    if isinstance(other, Choice) and parts.items:
        found = [
            next((r for r in item.readings if isinstance(r, Choice)), None) for item in parts.items
        ]
        if all(found) and parts.group is not Group.RATIO and len(parts.items) > 1:
            letters: frozenset[str] = frozenset().union(*(r.letters for r in found if r))
            return (
                yes(Method.STRING, "they are the same choices")
                if letters == other.letters
                else OTHER_TYPE
            )
        return None
    if parts.group is Group.RATIO and isinstance(other, (Number, Formula)):
        value = quotient(parts)
        if value is None:
            return None
        pair = (value, other) if is_gold else (other, value)
        return session.readings(pair[0], pair[1], depth + 1)
    if parts.group is Group.SET and len(parts.items) == 1:
        item = parts.items[0]
        if isinstance(other, Phrase):
            return None  # the set with the empty set is not empty
        bare = Answer("", (other,))
        return (
            session.answers(item, bare, depth + 1)
            if is_gold
            else session.answers(bare, item, depth + 1)
        )
    if isinstance(other, Matrix) and parts.group is not Group.SET:
        try:
            cells = vector(other)
        except ValueError:
            return None
        if cells is None:
            return None
        pair_items = (parts.items, cells) if is_gold else (cells, parts.items)
        if len(pair_items[0]) != len(pair_items[1]):
            return no(Method.STRUCTURE, "it has another number of entries")
        return session.all_of(list(zip(*pair_items, strict=True)), depth)
    return None


def regions(session: Session, gold: Region, answer: Region, depth: int) -> Decision:
    if gold.variable and answer.variable and gold.variable != answer.variable:
        return no(Method.STRUCTURE, f"it is about {answer.variable} and not {gold.variable}")
    if len(gold.pieces) != len(answer.pieces):
        return no(
            Method.STRUCTURE, f"it has {len(answer.pieces)} pieces and not {len(gold.pieces)}"
        )
    is_open: Decision | None = None
    method = Method.STRUCTURE
    for first, second in zip(gold.pieces, answer.pieces, strict=True):
        if (first.has_low, first.has_high) != (second.has_low, second.has_high):
            return no(Method.STRUCTURE, "another end belongs to it")
        for a, b in ((first.low, second.low), (first.high, second.high)):
            decision = _ends(session, a, b)
            if decision.result is False:
                return decision
            if decision.result is None:
                is_open = decision
            method = later(method, decision.method)
    return is_open or yes(method, "it is the same set")


def _ends(session: Session, gold: End, answer: End) -> Decision:
    if gold.exact is not None and answer.exact is not None:
        return (
            SAME_NUMBER
            if gold.exact == answer.exact
            else no(Method.NUMBER, f"it ends at {answer.text} and not {gold.text}")
        )
    if math.isinf(gold.value) or math.isinf(answer.value):
        return (
            SAME_NUMBER
            if gold.value == answer.value
            else no(Method.STRUCTURE, f"it ends at {answer.text} and not {gold.text}")
        )
    decision = session.formulas(Formula(gold.text), Formula(answer.text))
    if decision.result is False:
        return no(decision.method, f"it ends at {answer.text} and not {gold.text}")
    return decision


def _points_region(
    session: Session, other: Parts, found: Region, depth: int, is_gold: bool
) -> Decision | None:
    """A set of numbers against a region of single points; a pair as an interval; a list of intervals as their union."""
    if other.pair:
        interval = region(other.pair)
        if interval is None:
            return None
        return regions(
            session, found if is_gold else interval, interval if is_gold else found, depth
        )
    if other.group is Group.TUPLE or other.group is Group.RATIO:
        return None
    found_regions = [
        next((r for r in item.readings if isinstance(r, Region)), None) for item in other.items
    ]
    if other.group is Group.LIST and len(found_regions) > 1 and all(found_regions):
        joined = union([r for r in found_regions if r is not None])
        if joined is not None:
            return regions(
                session, found if is_gold else joined, joined if is_gold else found, depth
            )
    ends: list[Answer] = []
    for piece in found.pieces:
        if not _is_point(piece):
            return None
        reading: Reading = (
            Number(piece.low.exact) if piece.low.exact is not None else Formula(piece.low.text)
        )
        ends.append(Answer(piece.low.text, (reading,)))
    if is_gold:
        return session.matched(ends, other.items, depth)
    return session.matched(other.items, ends, depth)


def _is_point(piece: Interval) -> bool:
    return piece.low == piece.high and piece.has_low and piece.has_high


def region_parts(session: Session, gold: Region, answer: Parts, depth: int) -> Decision | None:
    return _points_region(session, answer, gold, depth, True)


def parts_region(session: Session, gold: Parts, answer: Region, depth: int) -> Decision | None:
    return _points_region(session, gold, answer, depth, False)


def vector(matrix: Matrix) -> tuple[Answer, ...] | None:
    """The entries of a single row or column."""
    rows = _cells(matrix)
    if len(rows) == 1:
        return tuple(rows[0])
    return tuple(row[0] for row in rows) if len(rows[0]) == 1 else None


def _cells(matrix: Matrix) -> list[list[Answer]]:
    """The entries, multiplied by the factor before the matrix. Raises ValueError for one that cannot be read."""
    if matrix.factor is None:
        return [list(row) for row in matrix.rows]
    from .expression import Mul

    factor = matrix.factor.expr()
    rows: list[list[Answer]] = []
    for row in matrix.rows:
        cells: list[Answer] = []
        for cell in row:
            expr = expr_of(cell)
            if expr is None:
                raise ValueError(f"the entry {cell.text[:60]!r} is no expression")
            cells.append(Answer("", (Formula("", None, Mul((factor, expr))),)))
        rows.append(cells)
    return rows


def matrices(session: Session, gold: Matrix, answer: Matrix, depth: int) -> Decision:
    try:
        golds, answers = _cells(gold), _cells(answer)
    except ValueError as error:
        return no(Method.STRUCTURE, f"it cannot be read as a matrix: {error}", Problem.UNREADABLE)
    if [len(row) for row in golds] != [len(row) for row in answers]:
        return no(Method.STRUCTURE, "it is a matrix of another shape")
    pairs = [pair for rows in zip(golds, answers, strict=True) for pair in zip(*rows, strict=True)]
    return session.all_of(pairs, depth)
