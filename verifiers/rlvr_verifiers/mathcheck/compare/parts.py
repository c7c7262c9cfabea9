"""Compares answers with several parts (tuples, sets, lists, ratios, matrices) and sets of reals."""

import math
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.session import OTHER_TYPE, SAME_NUMBER, Session, bare_numbers, later, no, yes
from rlvr_verifiers.mathcheck.decision import Decision, Problem
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.read.lines import with_parameter
from rlvr_verifiers.mathcheck.values.answers import Answer, Formula, Group, Matrix, Named, Parts, Reading
from rlvr_verifiers.mathcheck.values.numbers import Form, Number
from rlvr_verifiers.mathcheck.values.regions import End, Interval, Region, union
from rlvr_verifiers.mathcheck.values.relations import region
from rlvr_verifiers.mathcheck.values.words import Choice, Phrase

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr


def parts(session: Session, gold: Parts, answer: Parts, depth: int) -> Decision:
    groups = (gold.group, answer.group)
    if Group.RATIO in groups:
        return _ratios(session, gold, answer, depth) if groups[0] is groups[1] else OTHER_TYPE
    if not _may_be_one(gold, answer):
        return no(Method.STRUCTURE, f"a {groups[1]} is no {groups[0]}")
    if _names_differ(gold, answer):
        return no(Method.STRUCTURE, "its parts have other names")
    if len(gold.items) == len(answer.items) and (_has_dots(gold) or _has_dots(answer)):
        return session.all_of(list(zip(gold.items, answer.items, strict=True)), depth)
    if Group.TUPLE not in groups and groups != (Group.BRACKET, Group.BRACKET):
        if groups == (Group.LIST, Group.LIST) and len(gold.items) == len(answer.items):
            letters, others = _letters(gold.items), _letters(answer.items)
            if len(set(letters)) == len(gold.items) and not any(others):
                return session.all_of(list(zip(gold.items, answer.items, strict=True)), depth)
        return session.matched(gold.items, answer.items, depth)
    if len(gold.items) != len(answer.items):
        return no(Method.STRUCTURE, f"it has {len(answer.items)} parts and not {len(gold.items)}")
    pairs = list(zip(*_in_one_order(gold, answer), strict=True))
    decision = session.all_of(pairs, depth)
    if decision.result is False and groups == (Group.TUPLE, Group.TUPLE):
        renamed = with_parameter(gold, answer)
        if renamed is not None:
            return session.all_of(list(zip(gold.items, renamed.items, strict=True)), depth)
    return decision


def _may_be_one(gold: Parts, answer: Parts) -> bool:
    """Whether the brackets of two groups are compatible: a bare list agrees with any brackets, square brackets with
    anything but a pair of numbers.
    """
    groups = {gold.group, answer.group}
    if len(groups) == 1:
        return True
    if Group.BRACKET in groups:
        return len(gold.items) > 2 or all(
            any(isinstance(reading, Parts) for reading in item.readings) for item in (*gold.items, *answer.items)
        )
    if Group.LIST not in groups:
        return False
    return Group.TUPLE not in groups or not (gold.is_apart or answer.is_apart)


def _named(item: Answer) -> str:
    """The name of a part such as `x = 3`; "" if it has none."""
    for reading in item.readings:
        if isinstance(reading, Named) and not reading.arguments:
            return reading.name
    return ""


def _names(parts: Parts) -> tuple[str, ...]:
    return parts.names or tuple(filter(None, map(_named, parts.items)))


def _names_differ(gold: Parts, answer: Parts) -> bool:
    """Whether both name their parts, with different names; x_1 and x_2 may be two values of x."""
    sides = [set(_names(side)) for side in (gold, answer)]
    if not sides[0] or not sides[1] or sides[0] == sides[1]:
        return False
    if min(map(len, sides)) > 1:
        return True
    bases = [{name.partition("_")[0] for name in side} for side in sides]
    return bases[0] != bases[1]


def _in_one_order(gold: Parts, answer: Parts) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
    """The parts of both in the order of their names, if both have names."""
    golds, answers = gold.items, answer.items
    names = [side.names if side.group is Group.TUPLE else tuple(map(_named, side.items)) for side in (gold, answer)]
    if set(names[0]) == set(names[1]) and len(set(names[0])) == len(golds) and "" not in names[0]:
        return golds, tuple(answers[names[1].index(name)] for name in names[0])
    if Group.LIST in (gold.group, answer.group) and not (gold.names or answer.names):
        return _by_name(golds), _by_name(answers)
    return golds, answers


def _has_dots(parts: Parts) -> bool:
    return any(item.text.strip() in ("\\ldots", "...", "..") for item in parts.items)


def _letters(items: tuple[Answer, ...]) -> list[str]:
    """The one-letter names of parts such as `x = 3`; "" for other parts."""
    return [name for name in map(_named, items) if len(name) == 1]


def _by_name(items: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """The parts of `y = 2, x = 1` sorted by name; unchanged if a part has no name or a longer one."""
    names = [_named(item) for item in items]
    if any(len(name) != 1 for name in names):
        return items
    return tuple(item for _, item in sorted(zip(names, items, strict=True), key=lambda pair: pair[0]))


def _ratios(session: Session, gold: Parts, answer: Parts, depth: int) -> Decision:
    """Whether a : b and c : d are proportional."""
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
    """The quotient of a ratio as an expression."""
    from rlvr_verifiers.mathcheck.parse.expression import Div

    exprs = [expr_of(item) for item in ratio.items]
    if len(exprs) != 2 or exprs[0] is None or exprs[1] is None:
        return None
    return Formula("", None, Div(exprs[0], exprs[1]))


def expr_of(answer: Answer) -> "Expr | None":
    """The answer as an expression; None if it is not one."""
    from rlvr_verifiers.mathcheck.parse.expression import Num

    for reading in answer.readings:
        if isinstance(reading, Number) and reading.form is not Form.PERCENT:
            return Num(reading.value)
        if isinstance(reading, Formula):
            try:
                return reading.expr()
            except ValueError:
                return None
    return None


def single(session: Session, other: Reading, parts: Parts, depth: int, is_gold: bool) -> Decision | None:
    """Compares one value with a group: {5} is 5, a : b is a / b, a run of choice letters is their list."""
    if isinstance(other, Choice) and parts.items:
        found = [next((r for r in item.readings if isinstance(r, Choice)), None) for item in parts.items]
        if all(found) and parts.group is not Group.RATIO and len(parts.items) > 1:
            letters: frozenset[str] = frozenset().union(*(r.letters for r in found if r))
            return yes(Method.STRING, "they are the same choices") if letters == other.letters else OTHER_TYPE
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
        return session.answers(item, bare, depth + 1) if is_gold else session.answers(bare, item, depth + 1)
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
        return no(Method.STRUCTURE, f"it has {len(answer.pieces)} pieces and not {len(gold.pieces)}")
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


def _points_region(session: Session, other: Parts, found: Region, depth: int, is_gold: bool) -> Decision | None:
    """Compares a group with a region: numbers as single points, a pair as an interval, a list of intervals as their
    union."""
    if other.pair:
        interval = region(other.pair)
        if interval is None:
            return None
        return regions(session, found if is_gold else interval, interval if is_gold else found, depth)
    if other.group is Group.TUPLE or other.group is Group.RATIO:
        return None
    found_regions = [next((r for r in item.readings if isinstance(r, Region)), None) for item in other.items]
    if other.group is Group.LIST and len(found_regions) > 1 and all(found_regions):
        joined = union([r for r in found_regions if r is not None])
        if joined is not None:
            return regions(session, found if is_gold else joined, joined if is_gold else found, depth)
    ends: list[Answer] = []
    for piece in found.pieces:
        if not _is_point(piece):
            return None
        reading: Reading = Number(piece.low.exact) if piece.low.exact is not None else Formula(piece.low.text)
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
    """The entries multiplied by the factor of the matrix. Raises ValueError if one cannot be read."""
    if matrix.factor is None:
        return [list(row) for row in matrix.rows]
    from rlvr_verifiers.mathcheck.parse.expression import Mul

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
