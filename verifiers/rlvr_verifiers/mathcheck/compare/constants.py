r"""Arbitrary constants: `y = Ae^{-x}` is `y = Ce^{-x}`, and `x^2 + K` is `x^2 + C`."""

import itertools
import re
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.session import Session, decided
from rlvr_verifiers.mathcheck.decision import Decision
from rlvr_verifiers.mathcheck.values.answers import Formula

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

_CONSTANT = re.compile(r"[CcKkABD]|[CcKkAB]_?\d|alpha|beta")
_ADDED = re.compile(r"[CK](?:_?\d)?")
_NUMBERED = re.compile(r"[Cc]_\d")
_ARGUMENT = re.compile(r"[n-zX](?:_\w)?|theta|phi")
_MAX_CONSTANTS = 3


def same_family(session: Session, gold: Formula, answer: Formula) -> Decision | None:
    """Whether two formulas are equal up to the names of their arbitrary constants, or up to what an additive constant
    absorbs; None if no constant shows that they are families.
    """
    from rlvr_verifiers.mathcheck.parse.expression import variables

    try:
        exprs = gold.expr(), answer.expr()
    except ValueError:
        return None
    if gold.unit is not None or answer.unit is not None:
        return None
    names = variables(exprs[0]), variables(exprs[1])
    extra = sorted(names[0] - names[1]), sorted(names[1] - names[0])
    common = names[0] & names[1]
    found = _renamed(session, exprs, extra, common)
    if found is None or found.result is False:
        found = _added(session, exprs, names) or found
    return found


def _renamed(
    session: Session, exprs: "tuple[Expr, Expr]", extra: tuple[list[str], list[str]], common: frozenset[str]
) -> Decision | None:
    """Renames the constants; numbered ones may be permuted."""
    from rlvr_verifiers.mathcheck.algebra.equality import same
    from rlvr_verifiers.mathcheck.parse.expression import Var, substituted

    golds, answers = extra
    numbered = sorted(name for name in common if _NUMBERED.fullmatch(name))
    if not golds and not answers and len(numbered) > 1:
        golds = answers = numbered
    others = common - set(golds)
    if not 0 < len(golds) == len(answers) <= _MAX_CONSTANTS or not any(_ARGUMENT.fullmatch(name) for name in others):
        return None
    if not all(_CONSTANT.fullmatch(name) for name in (*golds, *answers)):
        return None
    best: Decision | None = None
    for order in itertools.permutations(golds):
        values: dict[str, Expr] = {old: Var(new) for old, new in zip(answers, order, strict=True)}
        found = decided(same(exprs[0], substituted(exprs[1], values), bounded=session.bounded))
        if found.result is not False:
            return found
        best = found
    return best


def _added(
    session: Session, exprs: "tuple[Expr, Expr]", names: tuple[frozenset[str], frozenset[str]]
) -> Decision | None:
    """Compares F(x) + C with G(x) + 2C, which are the same family if F - G is constant."""
    from rlvr_verifiers.mathcheck.algebra.equality import same_up_to_constant
    from rlvr_verifiers.mathcheck.parse.expression import variables

    bodies: list[Expr] = []
    for expr, found, small in zip(exprs, names, ("", "c"), strict=True):
        constants = [name for name in found if _ADDED.fullmatch(name) or name == small]
        others = found - set(constants)
        is_function = others and all(map(_ARGUMENT.fullmatch, others))
        if len(constants) != 1 or not is_function:
            return None
        body = _body(expr, constants[0])
        if body is None:
            return None
        bodies.append(body)
    if variables(bodies[0]) != variables(bodies[1]):
        return None
    return decided(same_up_to_constant(bodies[0], bodies[1], bounded=session.bounded))


def _body(expr: "Expr", name: str) -> "Expr | None":
    """The expression without its additive constant, which must be linear with a numeric factor."""
    from rlvr_verifiers.mathcheck.algebra.equality import same
    from rlvr_verifiers.mathcheck.parse.expression import Add, Num, negated, substituted
    from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

    at = [substituted(expr, {name: Num(Fraction(value))}) for value in (0, 1, 2)]
    steps = [Add((at[1], negated(at[0]))), Add((at[2], negated(at[1])))]
    try:
        for factor in _factors(expr):
            step = Num(factor)
            if all(same(step, one, bounded=True).result for one in steps) and exact_value(step):
                return at[0]
    except (ValueError, Undefined):
        return None
    return None


def _factors(expr: "Expr") -> list[Fraction]:
    """The possible factors of an additive constant: ±1, and the numbers in the expression and their inverses."""
    from rlvr_verifiers.mathcheck.tree.nodes import Num, walk

    numbers = {abs(node.value) for node in walk(expr) if isinstance(node, Num) and node.value}
    candidates = {Fraction(1)} | numbers | {1 / number for number in numbers}
    return sorted([*candidates, *(-one for one in candidates)], key=lambda one: (abs(one), -one))[:20]
