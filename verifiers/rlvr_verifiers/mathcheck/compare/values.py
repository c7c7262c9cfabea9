"""Compares single values: numbers with numbers and expressions, words, times, dates, digits in a base."""

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.constants import same_family
from rlvr_verifiers.mathcheck.compare.equations import families
from rlvr_verifiers.mathcheck.compare.session import OTHER_NUMBER, SAME_NUMBER, Session, no, yes
from rlvr_verifiers.mathcheck.decision import Decision
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.text.units import Unit
from rlvr_verifiers.mathcheck.values.answers import Based, Family, Formula
from rlvr_verifiers.mathcheck.values.numbers import Form, Number, agrees_when_rounded, same_number
from rlvr_verifiers.mathcheck.values.words import Choice, Clock, Date, Phrase, same_clock, same_date

if TYPE_CHECKING:
    pass

_INTEGER_NAMES = frozenset("klmnt")
_HAS_CONSTANT = re.compile(r"[CcKkABD]|\\\\(?:alpha|beta)")
_DEGREE = (("degree", 1),)


def numbers(session: Session, gold: Number, answer: Number, depth: int) -> Decision:
    if same_number(gold, answer):
        return SAME_NUMBER
    if session.decimal_digits and agrees_when_rounded(gold, answer, session.decimal_digits):
        return yes(Method.NUMBER, "the decimal is the gold, rounded")
    if gold.value == answer.value and gold.unit != answer.unit:
        return no(Method.NUMBER, "it has another unit")
    return OTHER_NUMBER


def number_formula(session: Session, gold: Number, answer: Formula, depth: int) -> Decision:
    return _formula_of(session, answer, gold, is_gold_number=True)


def formula_number(session: Session, gold: Formula, answer: Number, depth: int) -> Decision:
    decision = _formula_of(session, gold, answer, is_gold_number=False)
    if session.decimal_digits and decision.result is False and answer.form is Form.DECIMAL:
        return _rounded(session, gold, answer) or decision
    return decision


def _rounded(session: Session, gold: Formula, answer: Number) -> Decision | None:
    from rlvr_verifiers.mathcheck.algebra.numeric import real_interval

    bounds = real_interval(gold.expr())
    if bounds is None:
        return None
    value = Fraction((bounds[0] + bounds[1]) / 2)
    if agrees_when_rounded(Number(value, unit=gold.unit), answer, session.decimal_digits):
        return yes(Method.NUMBER, "the decimal is the gold, rounded")
    return None


def _formula_of(session: Session, formula: Formula, number: Number, *, is_gold_number: bool) -> Decision:
    """Compares a number with an expression: a percentage as either value, degrees also in radians."""
    from rlvr_verifiers.mathcheck.parse.expression import Const, Mul, Num, walk

    try:
        expr = formula.expr()
    except ValueError as error:
        other = Formula(str(number.value))
        if is_gold_number:
            return session.unreadable(other, formula, error)
        return session.unreadable(formula, other, error)
    values = [Num(number.value)]
    if number.form is Form.PERCENT:
        values.append(Num(number.value / 100))
    unit: Unit | None = number.unit
    candidates = [Formula("", unit, value) for value in values]
    if unit is not None and unit.dims == _DEGREE and any(node == Const("pi") for node in walk(expr)):
        candidates = []
    if unit is not None and unit.dims == _DEGREE:
        candidates.append(Formula("", None, Mul((Num(number.value / 180), Const("pi")))))
    decision = OTHER_NUMBER
    for candidate in candidates:
        if is_gold_number:
            decision = session.formulas(candidate, formula)
        else:
            decision = session.formulas(formula, candidate)
        if decision.result is not False:
            return decision
    return decision


def formulas(session: Session, gold: Formula, answer: Formula, depth: int) -> Decision:
    decision = session.formulas(gold, answer)
    if decision.result is False and _HAS_CONSTANT.search(gold.text):
        family = same_family(session, gold, answer)
        if family is not None and family.result is not False:
            return family
    if decision.result is False and "\\pi" in gold.text and "\\pi" in answer.text:
        # k pi and n pi: the name of the integer does not matter
        from rlvr_verifiers.mathcheck.parse.expression import variables

        try:
            names = [variables(formula.expr()) for formula in (gold, answer)]
        except ValueError:
            return decision
        if names[0] != names[1] and all(len(found) == 1 and found <= _INTEGER_NAMES for found in names):
            return families(session, Family(gold, *names[0]), Family(answer, *names[1]), depth)
    return decision


def phrases(session: Session, gold: Phrase, answer: Phrase, depth: int) -> Decision:
    if gold.key == answer.key:
        return yes(Method.STRING, "the words are the same")
    return no(Method.STRING, "the words differ")


def choices(session: Session, gold: Choice, answer: Choice, depth: int) -> Decision:
    if gold.letters == answer.letters:
        return yes(Method.STRING, "it is the same choice")
    return no(Method.STRING, "it is another choice")


def clocks(session: Session, gold: Clock, answer: Clock, depth: int) -> Decision:
    return SAME_NUMBER if same_clock(gold, answer) else no(Method.NUMBER, "it is another time of day")


def dates(session: Session, gold: Date, answer: Date, depth: int) -> Decision:
    return SAME_NUMBER if same_date(gold, answer) else no(Method.NUMBER, "it is another day")


def based(session: Session, gold: Based, answer: Based, depth: int) -> Decision:
    if gold.base != answer.base:
        return no(Method.NUMBER, f"it is in base {answer.base} and not {gold.base}")
    return SAME_NUMBER if gold.value == answer.value else OTHER_NUMBER


def based_number(session: Session, gold: Based, answer: Number, depth: int) -> Decision:
    """Compares digits whose base was omitted, which is allowed as for a unit."""
    if gold.base == 10:
        return SAME_NUMBER if gold.value == answer.value else OTHER_NUMBER
    if answer.unit is not None or answer.value.denominator != 1:
        return OTHER_NUMBER
    try:
        return SAME_NUMBER if int(str(answer.value), gold.base) == gold.value else OTHER_NUMBER
    except ValueError:
        return OTHER_NUMBER


def number_based(session: Session, gold: Number, answer: Based, depth: int) -> Decision:
    """A numeral with a stated base equals a plain number only in base ten."""
    is_same = answer.base == 10 and gold.value == answer.value
    return SAME_NUMBER if is_same else OTHER_NUMBER
