r"""Comparing two readings: one function for each pair of types that can be equal; any other pair is not.

Every value of another type is wrong without arithmetic: {1,2} is not (1,2), and "0 = 0" is not 0.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .answers import (
    Alternatives,
    Answer,
    Based,
    Chain,
    Chained,
    Equation,
    Family,
    Formula,
    Labelled,
    Matrix,
    Named,
    Parts,
    Reading,
)  # fmt: skip
from .decision import Decision, Problem
from .equations import chains, equation_formula, equations, families, family_formula, formula_family
from .method import Method
from .numbers import Form, Number
from .parts import expr_of, matrices, parts, parts_region, region_parts, regions, single
from .regions import Region
from .session import Session, no
from .spelling import compact
from .values import (
    based,
    choices,
    clocks,
    dates,
    formula_number,
    formulas,
    number_formula,
    numbers,
    phrases,
)
from .words import Choice, Clock, Date, Phrase

if TYPE_CHECKING:
    from .nodes import Expr


def compare_answers(
    gold: Answer, answer: Answer, *, bounded: bool, decimal_digits: int
) -> Decision:
    """Whether the answer equals the gold in some of their readings."""
    return Session(_compare_readings, bounded=bounded, decimal_digits=decimal_digits).answers(
        gold, answer
    )


def _compare_readings(
    session: Session, gold: Reading, answer: Reading, depth: int
) -> Decision | None:
    """The decision on two readings; None when their types cannot be equal."""
    compare = _COMPARISONS.get((type(gold), type(answer)))
    if compare is not None:
        return compare(session, gold, answer, depth)
    for wrapper, unwrap in _UNWRAPPED.items():
        if isinstance(answer, wrapper) and not isinstance(gold, wrapper):
            return unwrap(session, gold, answer, depth, False)
        if isinstance(gold, wrapper) and not isinstance(answer, wrapper):
            return unwrap(session, answer, gold, depth, True)
    return None


def _named(session: Session, gold: Named, answer: Named, depth: int) -> Decision:
    if len(gold.arguments) != len(answer.arguments):
        if {gold.name, answer.name} & {"y"}:
            return session.answers(gold.value, answer.value, depth + 1)
        return no(Method.STRUCTURE, "it defines something else")
    if gold.name != answer.name and not (gold.arguments and "y" in (gold.name, answer.name)):
        return no(Method.STRUCTURE, f"it gives {answer.name} and not {gold.name}")
    value = answer.value
    if gold.arguments != answer.arguments:
        value = _renamed(value, dict(zip(answer.arguments, gold.arguments, strict=True)))
    return session.answers(gold.value, value, depth + 1)


def _renamed(answer: Answer, names: dict[str, str]) -> Answer:
    from .expression import Var, substituted, variables

    readings: list[Reading] = []
    for reading in answer.readings:
        if isinstance(reading, Formula):
            try:
                if any(
                    new in variables(reading.expr()) and new not in names for new in names.values()
                ):
                    continue  # the new name means something else there
                values: dict[str, Expr] = {old: Var(new) for old, new in names.items()}
                reading = Formula("", reading.unit, substituted(reading.expr(), values))
            except ValueError:
                continue
        readings.append(reading)
    return Answer("", tuple(readings))


def _value_of(
    session: Session, other: Reading, named: Named, depth: int, is_gold: bool
) -> Decision | None:
    """A value against `name = value`: the left side may be left out."""
    if isinstance(other, (Equation, Region, Chain)):
        return None
    bare = Answer("", (other,))
    if is_gold:
        return session.answers(named.value, bare, depth + 1)
    return session.answers(bare, named.value, depth + 1)


def _label_of(
    session: Session, other: Reading, labelled: Labelled, depth: int, is_gold: bool
) -> Decision | None:
    if isinstance(other, (Equation, Region, Chain)) or (
        isinstance(other, Named) and other.arguments
    ):
        return None
    bare = Answer("", (other,))
    if is_gold:
        if re.search(r"[+\-*=]", labelled.quantity):
            return None  # a gold equation is no value: 2x + z = 1 is not 1
        return session.answers(labelled.value, bare, depth + 1)
    return session.answers(bare, labelled.value, depth + 1)


def _labels(session: Session, gold: Labelled, answer: Labelled, depth: int) -> Decision | None:
    if gold.quantity.replace(" ", "") != answer.quantity.replace(" ", ""):
        return None
    return session.answers(gold.value, answer.value, depth + 1)


def _chained(
    session: Session, other: Reading, chain: Chained, depth: int, is_gold: bool
) -> Decision | None:
    """Values between equality signs: every number among them has to be the answer, but for a rounded decimal
    at the side of an exact one.
    """
    if is_gold:
        return session.answers(chain.values[-1], Answer("", (other,)), depth + 1)
    if chain.is_named and not _is_rounded(chain.values[-1]):
        bare = Answer("", (other,))
        decision = session.answers(bare, chain.values[-1], depth + 1)
        earlier = (session.answers(bare, value, depth + 1) for value in chain.values[:-1])
        if decision.result is False and any(one.result for one in earlier):
            return no(Method.STRUCTURE, "it ends in another value", Problem.AMBIGUOUS)
        return decision
    if len({compact(value.text) for value in chain.values}) == 1:
        return no(Method.STRUCTURE, "it says that something equals itself", Problem.AMBIGUOUS)
    return _agreeing(session, other, chain.values, depth)


def _alternatives(
    session: Session, other: Reading, said: Alternatives, depth: int, is_gold: bool
) -> Decision | None:
    """Two values between "or": both have to be the answer. Nothing but one value is said in two ways."""
    if is_gold or isinstance(other, (Parts, Region, Chain, Equation, Choice, Phrase)):
        return None
    if len({compact(value.text) for value in said.values}) == 1:
        return None
    bare = Answer("", (other,))
    decisions = [session.answers(bare, value, depth + 1) for value in said.values]
    if any(decision.result is False for decision in decisions):
        return no(Method.STRUCTURE, "it offers values that are not all equal", Problem.AMBIGUOUS)
    return next((one for one in decisions if one.result is None), decisions[-1])


def _agreeing(session: Session, other: Reading, said: tuple[Answer, ...], depth: int) -> Decision:
    """Every number among the values has to be the answer; a rounded one only near an exact one that is."""
    values = list({compact(value.text): value for value in said}.values())
    bare = Answer("", (other,))
    decisions = [session.answers(bare, value, depth + 1) for value in values]
    stated = [i for i, value in enumerate(values) if _is_literal(value)]
    rounded = [i for i in stated if _is_rounded(values[i])]
    exact = [i for i in stated if i not in rounded]
    way = [i for i in range(len(values)) if i not in stated]  # what is no number leads there
    judged = exact or rounded or way
    if not exact and any(decisions[i].result is False for i in rounded):
        judged = way or rounded
    open_ones = [decisions[i] for i in judged if decisions[i].result is None]
    if open_ones:
        return open_ones[0]
    is_right = all(decisions[i].result for i in judged)
    if is_right and all(_is_near(values[i], values[judged[-1]]) for i in rounded):
        return decisions[judged[-1]]
    if any(decision.result for decision in decisions):
        return no(Method.STRUCTURE, "it states values that are not equal", Problem.AMBIGUOUS)
    return decisions[judged[-1]]


def _two_chains(session: Session, gold: Chained, answer: Chained, depth: int) -> Decision:
    """The same value at the end, and before it nothing else: log_6(218) = 3 is not log_6(216) = 3."""
    decision = session.answers(gold.values[-1], Answer("", (answer,)), depth + 1)
    if gold.is_named:
        return decision
    said = {compact(value.text) for value in gold.values}
    for value in answer.values:
        if decision.result and compact(value.text) not in said and not _is_rounded(value):
            decision = session.answers(gold.values[-1], value, depth + 1)
    return decision


def _is_literal(answer: Answer) -> bool:
    return bool(answer.readings) and isinstance(answer.readings[0], Number)


def _is_rounded(answer: Answer) -> bool:
    first = answer.readings[0] if answer.readings else None
    return isinstance(first, Number) and first.form is Form.DECIMAL and first.decimals >= 2


def _is_near(rounded: Answer, exact: Answer) -> bool:
    """Whether a decimal is the exact value to its own places, give or take one in the last."""
    decimal, expr = rounded.readings[0], expr_of(exact)
    if not isinstance(decimal, Number) or expr is None:
        return True
    from .numeric import real_interval

    bounds = real_interval(expr)
    return bounds is None or any(
        abs(float(decimal.value) - bound) * 10**decimal.decimals <= 1 for bound in bounds
    )


_COMPARISONS: dict[tuple[type, type], Callable[..., Decision | None]] = {
    (Number, Number): numbers,
    (Number, Formula): number_formula,
    (Formula, Number): formula_number,
    (Formula, Formula): formulas,
    (Phrase, Phrase): phrases,
    (Choice, Choice): choices,
    (Clock, Clock): clocks,
    (Date, Date): dates,
    (Based, Based): based,
    (Parts, Parts): parts,
    (Named, Named): _named,
    (Labelled, Labelled): _labels,
    (Chained, Chained): _two_chains,
    (Equation, Equation): equations,
    (Equation, Formula): equation_formula,
    (Chain, Chain): chains,
    (Region, Region): regions,
    (Region, Parts): region_parts,
    (Parts, Region): parts_region,
    (Matrix, Matrix): matrices,
    (Family, Family): families,
    (Family, Formula): family_formula,
    (Formula, Family): formula_family,
}
_UNWRAPPED: dict[type, Callable[..., Decision | None]] = {
    Chained: _chained,
    Alternatives: _alternatives,
    Named: _value_of,
    Labelled: _label_of,
    Parts: single,
}
