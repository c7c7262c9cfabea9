r"""Compares two readings, with one function for each pair of types that can be equal.

A reading of any other type is wrong without arithmetic: {1,2} is not (1,2), and "0 = 0" is not 0.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.congruences import congruence_of, congruences, residues
from rlvr_verifiers.mathcheck.compare.equations import (
    chains,
    equation_formula,
    equations,
    families,
    family_formula,
    formula_family,
)
from rlvr_verifiers.mathcheck.compare.parts import expr_of, matrices, parts, parts_region, region_parts, regions, single
from rlvr_verifiers.mathcheck.compare.piecewise import piecewise_formula, piecewise_functions
from rlvr_verifiers.mathcheck.compare.session import Session, no, yes
from rlvr_verifiers.mathcheck.compare.values import (
    based,
    based_number,
    choices,
    clocks,
    dates,
    formula_number,
    formulas,
    number_based,
    number_formula,
    numbers,
    phrases,
)
from rlvr_verifiers.mathcheck.decision import Decision, Problem
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.text.spelling import compact
from rlvr_verifiers.mathcheck.values.answers import (
    Alternatives,
    Answer,
    Based,
    Chain,
    Chained,
    Congruence,
    Equation,
    Family,
    Formula,
    Labelled,
    Matrix,
    Named,
    Parts,
    Piecewise,
    Reading,
)
from rlvr_verifiers.mathcheck.values.numbers import Form, Number
from rlvr_verifiers.mathcheck.values.regions import Region
from rlvr_verifiers.mathcheck.values.words import Choice, Clock, Date, Phrase

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr


def compare_answers(gold: Answer, answer: Answer, *, bounded: bool, decimal_digits: int) -> Decision:
    """Whether some reading of the answer equals some reading of the gold answer."""
    return Session(_compare_readings, bounded=bounded, decimal_digits=decimal_digits).answers(gold, answer)


def _compare_readings(session: Session, gold: Reading, answer: Reading, depth: int) -> Decision | None:
    """The decision on two readings; None if their types cannot be equal."""
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
    decision = session.answers(gold.value, value, depth + 1)
    if decision.result is False and gold.arguments == answer.arguments == ():
        sets = residues(gold), residues(answer)
        if sets[0] is not None and sets[0] == sets[1]:
            return yes(Method.NUMBER, "the same numbers, with another letter for the integer")
    return decision


def _renamed(answer: Answer, names: dict[str, str]) -> Answer:
    from rlvr_verifiers.mathcheck.parse.expression import Var, substituted, variables

    readings: list[Reading] = []
    for reading in answer.readings:
        if isinstance(reading, Formula):
            try:
                if any(new in variables(reading.expr()) and new not in names for new in names.values()):
                    continue  # the new name already means something else there
                values: dict[str, Expr] = {old: Var(new) for old, new in names.items()}
                reading = Formula("", reading.unit, substituted(reading.expr(), values))
            except ValueError:
                continue
        readings.append(reading)
    return Answer("", tuple(readings))


def _value_of(session: Session, other: Reading, named: Named, depth: int, is_gold: bool) -> Decision | None:
    """Compares a value with `name = value`: the name may be omitted."""
    if isinstance(other, (Equation, Region, Chain)) and not _has_type(named.value, type(other)):
        return None
    bare = Answer("", (other,))
    if is_gold:
        return session.answers(named.value, bare, depth + 1)
    return session.answers(bare, named.value, depth + 1)


def _has_type(answer: Answer, kind: type) -> bool:
    """Whether the answer may be a region, as in D = [-2, 3)."""
    return kind is Region and any(isinstance(one, (Region, Parts)) for one in answer.readings)


def _label_of(session: Session, other: Reading, labelled: Labelled, depth: int, is_gold: bool) -> Decision | None:
    if (isinstance(other, (Equation, Region, Chain)) and not _has_type(labelled.value, type(other))) or (
        isinstance(other, Named) and other.arguments
    ):
        return None
    bare = Answer("", (other,))
    if is_gold:
        if re.search(r"[+\-*=]", labelled.quantity):
            return None  # a gold equation is not a value: 2x + z = 1 is not 1
        return session.answers(labelled.value, bare, depth + 1)
    return session.answers(bare, labelled.value, depth + 1)


def _labels(session: Session, gold: Labelled, answer: Labelled, depth: int) -> Decision | None:
    if gold.quantity.replace(" ", "") != answer.quantity.replace(" ", ""):
        return None
    return session.answers(gold.value, answer.value, depth + 1)


def _chained(session: Session, other: Reading, chain: Chained, depth: int, is_gold: bool) -> Decision | None:
    """Values joined by equality signs: every number among them must be the answer, except a rounded decimal next to the
    exact value.
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


def _alternatives(session: Session, other: Reading, said: Alternatives, depth: int, is_gold: bool) -> Decision | None:
    """Values joined by "or": all must be the answer, written in different ways."""
    if is_gold or isinstance(other, (Parts, Region, Chain, Equation, Choice, Phrase)):
        return None
    if len({compact(value.text) for value in said.values}) == 1:
        return None
    bare = Answer("", (other,))
    decisions = [session.answers(bare, value, depth + 1) for value in said.values]
    decisions = _in_other_units(session, said.values, decisions)
    if any(decision.result is False for decision in decisions):
        return no(Method.STRUCTURE, "it offers values that are not all equal", Problem.AMBIGUOUS)
    return next((one for one in decisions if one.result is None), decisions[-1])


def _agreeing(session: Session, other: Reading, said: tuple[Answer, ...], depth: int) -> Decision:
    """Whether every number among the values is the answer; a rounded one must only be close to an exact one that is."""
    values = list({compact(value.text): value for value in said}.values())
    bare = Answer("", (other,))
    decisions = [session.answers(bare, value, depth + 1) for value in values]
    decisions = _in_other_units(session, values, decisions)
    stated = [i for i, value in enumerate(values) if _is_literal(value)]
    rounded = [i for i in stated if _is_rounded(values[i])]
    exact = [i for i in stated if i not in rounded]
    way = [i for i in range(len(values)) if i not in stated]  # anything else is working
    decisive = exact or rounded or way
    if not exact and any(decisions[i].result is False for i in rounded):
        decisive = way or rounded
    open_ones = [decisions[i] for i in decisive if decisions[i].result is None]
    if open_ones:
        return open_ones[0]
    is_right = all(decisions[i].result for i in decisive)
    if is_right and len(values) > 2 and decisions[-1].result is False and not _is_rounded(values[-1]):
        return no(Method.STRUCTURE, "it ends in another value", Problem.AMBIGUOUS)
    if is_right and all(_is_near(values[i], values[decisive[-1]]) for i in rounded):
        return decisions[decisive[-1]]
    if any(decision.result for decision in decisions):
        return no(Method.STRUCTURE, "it states values that are not equal", Problem.AMBIGUOUS)
    return decisions[decisive[-1]]


def _in_other_units(session: Session, values: Sequence[Answer], decisions: list[Decision]) -> list[Decision]:
    """The decisions, where a value that repeats a right one in another unit is right too: 12 cm = 0.12 m."""
    stated = [next((r for r in one.readings if isinstance(r, Number)), None) for one in values]
    right = [
        (number, decision)
        for number, decision in zip(stated, decisions, strict=True)
        if number is not None and number.unit is not None and decision.result
    ]
    found: list[Decision] = []
    for number, decision in zip(stated, decisions, strict=True):
        if decision.result is False and number is not None and number.unit is not None:
            same = (d for other, d in right if numbers(session, other, number, 0).result)
            decision = next(same, decision)
        found.append(decision)
    return found


def _two_chains(session: Session, gold: Chained, answer: Chained, depth: int) -> Decision:
    """Whether both end in the same value and nothing before it differs: log_6(218) = 3 is not log_6(216) = 3."""
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
    """Whether a decimal is within one unit in its last place of the exact value."""
    decimal, expr = rounded.readings[0], expr_of(exact)
    if not isinstance(decimal, Number) or expr is None:
        return True
    from rlvr_verifiers.mathcheck.algebra.numeric import real_interval

    bounds = real_interval(expr)
    return bounds is None or any(abs(float(decimal.value) - bound) * 10**decimal.decimals <= 1 for bound in bounds)


def chain_parts(session: Session, gold: Chain, answer: Parts, depth: int) -> Decision | None:
    """Compares a < b < c with its single inequalities: b > a, c > b."""
    links = _links(gold)
    return None if links is None else session.matched(links, answer.items, depth)


def parts_chain(session: Session, gold: Parts, answer: Chain, depth: int) -> Decision | None:
    links = _links(answer)
    return None if links is None else session.matched(gold.items, links, depth)


def _links(chain: Chain) -> tuple[Answer, ...] | None:
    """The single inequalities of a longer chain."""
    if len(chain.operands) < 3:
        return None
    return tuple(
        Answer("", (Chain((first, second), (sign,)),))
        for first, second, sign in zip(chain.operands, chain.operands[1:], chain.signs, strict=False)
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
    (Based, Number): based_number,
    (Number, Based): number_based,
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
    (Congruence, Congruence): congruences,
    (Piecewise, Piecewise): piecewise_functions,
    (Piecewise, Formula): piecewise_formula,
    (Chain, Parts): chain_parts,
    (Parts, Chain): parts_chain,
}
_UNWRAPPED: dict[type, Callable[..., Decision | None]] = {
    Chained: _chained,
    Alternatives: _alternatives,
    Congruence: congruence_of,
    Named: _value_of,
    Labelled: _label_of,
    Parts: single,
}
