"""Equations, chains of inequalities, and families with an integer parameter."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.session import Session, decided, no, yes
from rlvr_verifiers.mathcheck.decision import Decision, Problem
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.values.answers import Chain, Equation, Family, Formula

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr


_INTEGER_NAMES = frozenset("kmnlpqt")


def difference(equation: Equation) -> "Expr":
    """left - right. Raises Unreadable or TooBig (both ValueError)."""
    from rlvr_verifiers.mathcheck.parse.expression import Add, negated

    return Add((equation.left.expr(), negated(equation.right.expr())))


def equations(session: Session, gold: Equation, answer: Equation, depth: int) -> Decision:
    """Whether left - right of one is a constant multiple of the other's, or one solves the other for a name."""
    from rlvr_verifiers.mathcheck.algebra.equality import proportional
    from rlvr_verifiers.mathcheck.parse.expression import TooBig

    try:
        first, second = difference(gold), difference(answer)
    except TooBig as error:
        return no(Method.STRUCTURE, f"it is too big to compare: {error}", Problem.TOO_BIG)
    except ValueError as error:
        texts = [f"{e.left.text}={e.right.text}".replace(" ", "") for e in (gold, answer)]
        if texts[0] == texts[1]:
            return yes(Method.STRING, "the texts are the same")
        return no(Method.STRUCTURE, f"it cannot be read as an equation: {error}", Problem.UNREADABLE)
    equality = proportional(first, second, bounded=session.bounded)
    if equality.result is False:
        for solved, other in ((gold, second), (answer, first)):
            if solves(session, solved, other):
                return yes(Method.STRUCTURE, "one equation solves the other")
    return decided(equality)


def equation_formula(session: Session, gold: Equation, answer: Formula, depth: int) -> Decision | None:
    """Compares a gold equation with an answer that omits a name: xy = 6 is y = 6/x."""
    from rlvr_verifiers.mathcheck.parse.expression import Var, variables

    try:
        zero = difference(gold)
        missing = variables(zero) - variables(answer.expr())
    except ValueError:
        return None
    if len(missing) != 1 or not variables(answer.expr()):
        return None
    (name,) = missing
    solved = Equation(Formula("", None, Var(name)), answer)
    if solves(session, solved, zero):
        return yes(Method.STRUCTURE, f"it is the equation solved for {name}")
    return None


def solves(session: Session, solved: Equation, zero: "Expr") -> bool:
    """Whether `y = f` is the solution of `difference = 0`, which is linear in y."""
    from rlvr_verifiers.mathcheck.algebra.equality import same
    from rlvr_verifiers.mathcheck.parse.expression import Add, Num, Var, substituted, variables
    from rlvr_verifiers.mathcheck.tree.nodes import ZERO

    for side, value in ((solved.left, solved.right), (solved.right, solved.left)):
        name = side.expr()
        if not isinstance(name, Var) or name.name in variables(value.expr()) or name.name not in variables(zero):
            continue
        body = value.expr()
        shifted = [
            substituted(zero, {name.name: Add((body, Num(Fraction(step)))) if step else body}) for step in (0, 1, -1)
        ]
        if (
            same(ZERO, shifted[0], bounded=session.bounded).result
            and same(ZERO, Add((shifted[1], shifted[2])), bounded=session.bounded).result
            and same(ZERO, shifted[1], bounded=session.bounded).result is False
        ):
            return True
    return False


def chains(session: Session, gold: Chain, answer: Chain, depth: int) -> Decision:
    """Whether both have the same operands and signs, or, with two sides, differences with a positive ratio."""
    if gold.signs != answer.signs:
        return no(Method.STRUCTURE, "its signs of order are others")
    pairs = zip(gold.operands, answer.operands, strict=True)
    decisions = [session.formulas(a, b) for a, b in pairs]
    if all(decision.result for decision in decisions):
        return yes(Method.STRUCTURE, "the same sides in the same order")
    if len(gold.operands) == 2:
        return _half_spaces(session, gold, answer)
    return (
        next((d for d in decisions if d.result is None), decisions[0])
        if not any(d.result is False for d in decisions)
        else next(d for d in decisions if d.result is False)
    )


def _half_spaces(session: Session, gold: Chain, answer: Chain) -> Decision:
    from rlvr_verifiers.mathcheck.algebra.equality import proportional

    try:
        first = difference(Equation(gold.operands[1], gold.operands[0]))
        second = difference(Equation(answer.operands[1], answer.operands[0]))
    except ValueError as error:
        return no(Method.STRUCTURE, f"it cannot be read as an inequality: {error}", Problem.UNREADABLE)
    equality = proportional(first, second, bounded=session.bounded)
    if equality.result and not _is_same_sign(first, second):
        return no(Method.STRUCTURE, "the inequality points the other way")
    return decided(equality)


def _is_same_sign(first: "Expr", second: "Expr") -> bool:
    """Whether the ratio of two proportional expressions is positive at the first point where it is defined."""
    from rlvr_verifiers.mathcheck.algebra.numeric import real_interval
    from rlvr_verifiers.mathcheck.parse.expression import Div, Num, substituted, variables

    names = sorted(variables(first) | variables(second))
    for seed in (3, 7, 19, 41):
        point: dict[str, Expr] = {
            name: Num(Fraction(seed * (index + 2) + index * index, 7)) for index, name in enumerate(names)
        }
        bounds = real_interval(Div(substituted(first, point), substituted(second, point)))
        if bounds is not None and bounds[0] * bounds[1] > 0 and math.isfinite(bounds[0] + bounds[1]):
            return bounds[0] > 0
    return False


def families(session: Session, gold: Family, answer: Family, depth: int) -> Decision:
    """Whether both are the same family up to the name, sign and shift of the integer."""
    from rlvr_verifiers.mathcheck.algebra.equality import same
    from rlvr_verifiers.mathcheck.parse.expression import Add, Mul, Num, Var, substituted

    try:
        first = gold.body.expr()
        second = substituted(answer.body.expr(), {answer.parameter: Var(gold.parameter)})
    except ValueError as error:
        return no(Method.STRUCTURE, f"it cannot be read as mathematics: {error}", Problem.UNREADABLE)
    decision = same(first, second, bounded=session.bounded)
    if decision.result:
        return yes(decision.method, "the same family")
    name = gold.parameter
    for sign in (1, -1):
        shift = _whole_shift(first, second, name)
        if shift is not None:
            index = Add((Mul((Num(Fraction(sign)), Var(name))), Num(Fraction(shift))))
            moved = same(first, substituted(second, {name: index}), bounded=session.bounded)
            if moved.result is not False:
                return Decision(result=moved.result, method=moved.method, reason="the same family, counted otherwise")
    return Decision(result=decision.result, method=decision.method, reason="it is another family")


def _whole_shift(first: "Expr", second: "Expr", name: str) -> int | None:
    """The integer s with first(0) = second(s), for families of constant step; None if no small s fits."""
    from rlvr_verifiers.mathcheck.algebra.numeric import real_interval
    from rlvr_verifiers.mathcheck.parse.expression import Num, substituted

    values: list[float] = []
    for expr, at in ((first, 0), (second, 0), (second, 1)):
        bounds = real_interval(substituted(expr, {name: Num(Fraction(at))}))
        if bounds is None:
            return None
        values.append((bounds[0] + bounds[1]) / 2)
    step = values[2] - values[1]
    if step == 0 or not math.isfinite(step):
        return None
    shift = (values[0] - values[1]) / step
    return round(shift) if math.isfinite(shift) and abs(shift - round(shift)) < 1e-6 and abs(shift) < 1000 else None


def formula_family(session: Session, gold: Formula, answer: Family, depth: int) -> Decision:
    """Compares a formula with an answer that declares the letter an integer, possibly under another name."""
    from rlvr_verifiers.mathcheck.parse.expression import variables

    try:
        own, named = variables(gold.expr()), variables(answer.body.expr())
    except ValueError:
        return session.formulas(gold, answer.body)
    (*others,) = own - named
    if answer.parameter in named - own and len(others) == 1 and others[0] in _INTEGER_NAMES:
        return families(session, Family(gold, others[0]), answer, depth)
    return session.formulas(gold, answer.body)


def family_formula(session: Session, gold: Family, answer: Formula, depth: int) -> Decision | None:
    """Compares a family with an answer that omits "k in Z": its only variable is the integer."""
    from rlvr_verifiers.mathcheck.parse.expression import variables

    try:
        names = variables(answer.expr())
        others = variables(gold.body.expr()) - {gold.parameter}
    except ValueError:
        return None
    free = [name for name in names if name not in others]
    if len(free) != 1 or free[0] not in _INTEGER_NAMES:
        return None
    return families(session, gold, Family(answer, free[0]), depth)
