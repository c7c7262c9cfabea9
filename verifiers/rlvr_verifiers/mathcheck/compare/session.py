"""The state of one comparison, and the comparison of parts in order and in any order."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.decision import Decision, Problem
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.text.spelling import compact
from rlvr_verifiers.mathcheck.text.units import conversion
from rlvr_verifiers.mathcheck.values.answers import Answer, Chained, Formula, Parts, Reading
from rlvr_verifiers.mathcheck.values.numbers import Form, Number
from rlvr_verifiers.mathcheck.values.words import Choice, Clock

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.algebra.equality import Equality

MAX_COMPARISONS = 4000
_MAX_DEPTH = 6
_PROBLEM_ORDER = (Problem.AMBIGUOUS, Problem.UNEVALUATED, Problem.TOO_BIG, Problem.UNREADABLE, Problem.OTHER_FORM)
Comparisons = Callable[["Session", Reading, Reading, int], Decision | None]


def yes(method: Method, reason: str) -> Decision:
    return Decision(result=True, method=method, reason=reason)


def no(method: Method, reason: str, problem: Problem | None = None) -> Decision:
    return Decision(result=False, method=method, reason=reason, problem=problem)


OTHER_TYPE = no(Method.STRUCTURE, "it is an answer of another type", Problem.OTHER_FORM)
SAME_NUMBER = yes(Method.NUMBER, "the numbers are equal")
OTHER_NUMBER = no(Method.NUMBER, "it is another number")
_TOO_MANY = no(Method.STRUCTURE, f"it needs more than {MAX_COMPARISONS} comparisons of parts", Problem.TOO_BIG)


class Session:
    """One comparison of an answer with a gold answer: its options and its budget of comparisons."""

    def __init__(self, comparisons: Comparisons, *, bounded: bool, decimal_digits: int) -> None:
        self.bounded = bounded
        self.decimal_digits = decimal_digits
        self._comparisons = comparisons
        self._left = MAX_COMPARISONS

    def answers(self, gold: Answer, answer: Answer, depth: int = 0) -> Decision:
        """Whether some reading of the answer equals some reading of the gold answer."""
        if gold.text == answer.text and _is_text_enough(gold):
            return yes(Method.STRING, "the texts are the same")
        best: Decision | None = None
        are_choices = _has_letter(gold) and _has_letter(answer)
        are_times = _has_time(gold) and _has_time(answer)
        for gold_reading in gold.readings:
            for reading in answer.readings:
                if are_times and isinstance(gold_reading, Parts):
                    continue  # 8:15 and 16:30 are times, not ratios
                if are_choices and not isinstance(gold_reading, Choice):
                    continue  # (B) 12 is not (C) 12
                decision = self.readings(gold_reading, reading, depth)
                if decision is None:
                    continue
                if decision.result:
                    return decision
                if best is None or _rank(decision) > _rank(best):
                    best = decision
        return best or OTHER_TYPE

    def readings(self, gold: Reading, answer: Reading, depth: int) -> Decision | None:
        """The decision on two readings; None if their types cannot be equal."""
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            return _TOO_MANY
        return self._comparisons(self, gold, answer, depth)

    def formulas(self, gold: Formula, answer: Formula) -> Decision:
        """Whether two expressions are equal, in compatible units."""
        factor = conversion(gold.unit, answer.unit)
        if factor is None:
            return no(Method.STRUCTURE, "it has another unit")
        try:
            gold_expr = gold.expr()
            expr = answer.expr()
        except ValueError as error:
            return self.unreadable(gold, answer, error)
        from rlvr_verifiers.mathcheck.algebra.equality import same
        from rlvr_verifiers.mathcheck.parse.expression import Mul, Num

        if factor != 1:
            expr = Mul((Num(factor), expr))
        return decided(same(gold_expr, expr, bounded=self.bounded))

    def unreadable(self, gold: Formula, answer: Formula, error: ValueError) -> Decision:
        if gold.text and compact(gold.text) == compact(answer.text):
            return yes(Method.STRING, "the texts are the same")
        from rlvr_verifiers.mathcheck.parse.expression import TooBig

        if isinstance(error, TooBig):
            return no(Method.STRUCTURE, f"it is too big to compare: {error}", Problem.TOO_BIG)
        return no(Method.STRUCTURE, f"it cannot be read as mathematics: {error}", Problem.UNREADABLE)

    def all_of(self, pairs: Sequence[tuple[Answer, Answer]], depth: int) -> Decision:
        """Whether all pairs are equal."""
        is_open: Decision | None = None
        method = Method.NUMBER
        for gold, answer in pairs:
            decision = self.answers(gold, answer, depth + 1)
            if decision.result is False:
                reason = f"its part {answer.text[:60]!r} is not {gold.text[:60]!r}"
                return no(later(decision.method, Method.STRUCTURE), reason, decision.problem)
            if decision.result is None:
                is_open = decision
            method = later(method, decision.method)
        return is_open or yes(later(method, Method.STRUCTURE), "all parts are equal")

    def matched(self, golds: Sequence[Answer], answers: Sequence[Answer], depth: int) -> Decision:
        """Whether the parts are equal in some order, each used exactly once."""
        if len(golds) != len(answers):
            return no(Method.STRUCTURE, f"it has {len(answers)} parts and not {len(golds)}")
        numbers = [bare_numbers(side) for side in (golds, answers)]
        if numbers[0] is not None and numbers[1] is not None:
            if sorted(numbers[0]) == sorted(numbers[1]):
                return yes(Method.NUMBER, "the numbers are the same in some order")
            return no(Method.NUMBER, "its numbers are others")
        sure: list[list[int]] = []
        possible: list[list[int]] = []
        problem: Problem | None = None
        for gold in golds:
            row_sure: list[int] = []
            row_possible: list[int] = []
            for index, answer in enumerate(answers):
                decision = self.answers(gold, answer, depth + 1)
                if decision.problem is Problem.TOO_BIG:
                    problem = Problem.TOO_BIG
                if decision.result is not False:
                    row_possible.append(index)
                    if decision.result:
                        row_sure.append(index)
            if not row_possible:
                return no(Method.STRUCTURE, f"no part of it is {gold.text[:60]!r}", problem)
            sure.append(row_sure)
            possible.append(row_possible)
        if _has_matching(sure, len(answers)):
            return yes(Method.STRUCTURE, "the parts are equal in some order")
        if _has_matching(possible, len(answers)):
            return Decision(result=None, method=Method.SYMBOLIC, reason="some parts need computer algebra")
        return no(Method.STRUCTURE, "its parts do not match one to one", problem)


def decided(equality: "Equality") -> Decision:
    """The result of comparing two expressions, as a decision."""
    is_too_big = equality.result is False and equality.reason.startswith("it is too big")
    return Decision(
        result=equality.result,
        method=equality.method,
        reason=equality.reason,
        problem=Problem.TOO_BIG if is_too_big else None,
    )


def _rank(decision: Decision) -> int:
    """The priority of a decision that is not a match: undecided first, then wrong ones, by how much they explain."""
    if decision.result is None:
        return 10
    return 5 - _PROBLEM_ORDER.index(decision.problem) if decision.problem else 6


def later(first: Method, second: Method) -> Method:
    order = list(Method)
    return first if order.index(first) > order.index(second) else second


def _has_time(answer: Answer) -> bool:
    return any(isinstance(reading, Clock) for reading in answer.readings)


def _has_letter(answer: Answer) -> bool:
    return any(isinstance(reading, Choice) and not reading.is_bare for reading in answer.readings)


def _is_text_enough(gold: Answer) -> bool:
    """Whether equal texts mean equal answers; not for tautologies, nor for constructed parts without a text."""
    return bool(gold.text) and not any(isinstance(reading, Chained) for reading in gold.readings)


def bare_numbers(answers: Sequence[Answer]) -> list[Fraction] | None:
    values: list[Fraction] = []
    for answer in answers:
        if len(answer.readings) != 1:
            return None
        reading = answer.readings[0]
        if not isinstance(reading, Number) or reading.unit is not None or reading.form is Form.PERCENT:
            return None
        values.append(reading.value)
    return values


def _has_matching(edges: list[list[int]], size: int) -> bool:
    """Whether every row can be matched with a different column (augmenting paths)."""
    owner = [-1] * size

    def place(row: int, seen: set[int]) -> bool:
        for column in edges[row]:
            if column in seen:
                continue
            seen.add(column)
            if owner[column] < 0 or place(owner[column], seen):
                owner[column] = row
                return True
        return False

    return all(place(row, set()) for row in range(len(edges)))
