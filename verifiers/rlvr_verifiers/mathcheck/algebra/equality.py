r"""Decides whether two expressions are equal: by tree, by image in a large finite field, or by values.

1. Equal trees, after ± is expanded, are equal (`structure`).
2. The images in `field` decide exactly, in both directions, for rational functions, radicals and complex numbers, and
   prove most identities of powers, exponentials, logarithms and angles (`number` for constants, `symbolic` with
   variables).
3. The rest is compared at seeded points: doubles with error bounds can prove a difference (`numeric`, final), and,
   unless `bounded`, values with 60 or more digits accept equality.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rlvr_verifiers.mathcheck.algebra.field import image
from rlvr_verifiers.mathcheck.algebra.residues import P
from rlvr_verifiers.mathcheck.algebra.sampling import Relation, agree, differ, seed_of
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.tree.exact import Undefined
from rlvr_verifiers.mathcheck.tree.nodes import (
    Apply,
    Const,
    Expr,
    Func,
    Mul,
    Num,
    PlusMinus,
    Pow,
    TooBig,
    Var,
    substituted,
    transformed,
    variables,
    walk,
)
from rlvr_verifiers.mathcheck.tree.rewriting import (
    at,
    bound_renamed,
    expanded_signs,
    expanded_sums,
    is_unevaluated,
    range_names,
)

_INFINITY = Const("oo")
_BOUNDS = range(1, 9)


@dataclass(frozen=True, slots=True)
class Equality:
    """The result of comparing two expressions.

    Attributes:
        result: None only with `bounded`: undecided, and left to a worker with mpmath.
        problem: why there was nothing to compare (too_big, unevaluated, undefined); "" if there was.
    """

    result: bool | None
    method: Method
    reason: str
    problem: str = ""


def same(gold: Expr, answer: Expr, *, bounded: bool) -> Equality:
    r"""Whether both are equal as functions of their variables wherever both are real. Never raises.

    >>> from .expression import parse
    >>> same(parse(r"\cos 2x"), parse(r"1-2\sin^2 x"), bounded=True).result
    True
    >>> same(parse("x"), parse(r"\sqrt{x^2}"), bounded=True).result
    False
    """
    return _compared(gold, answer, Relation.EQUAL, bounded)


def proportional(gold: Expr, answer: Expr, *, bounded: bool) -> Equality:
    """Whether gold = c * answer for a constant c != 0, that is, `gold = 0` and `answer = 0` are equivalent.

    >>> from .expression import parse
    >>> proportional(parse("3x-y-2"), parse("2y-6x+4"), bounded=True).result
    True
    """
    return _compared(gold, answer, Relation.PROPORTIONAL, bounded)


def same_up_to_constant(gold: Expr, answer: Expr, *, bounded: bool) -> Equality:
    """Whether gold - answer is a constant: for antiderivatives without their constants C.

    >>> from .expression import parse
    >>> same_up_to_constant(parse(r"\\sin^2 x"), parse(r"-\\cos^2 x"), bounded=True).result
    True
    """
    return _compared(gold, answer, Relation.SHIFTED, bounded)


def _compared(gold: Expr, answer: Expr, relation: Relation, bounded: bool) -> Equality:
    if gold == answer:
        return Equality(True, Method.STRUCTURE, "both are written the same way")
    try:
        found = _with_signs(gold, answer, relation, bounded)
    except TooBig as error:
        return Equality(False, Method.STRUCTURE, f"it is too big to evaluate: {error}", "too_big")
    except Undefined as error:
        return Equality(False, Method.NUMBER, f"it has no value: {error}", "undefined")
    if found.result is not False:
        bases = _bases(gold) | _bases(answer)
        if None in bases and Const("e") in bases:  # if ln occurs too, a bare log is in base ten
            return _compared(_log_in_base_ten(gold), _log_in_base_ten(answer), relation, bounded)
        return found
    if relation is Relation.EQUAL and not found.problem:
        for other_gold, other_answer in _other_readings(gold, answer):
            other = _compared(other_gold, other_answer, relation, bounded)
            if other.result is not False:
                return other
    return found


def _other_readings(gold: Expr, answer: Expr) -> list[tuple[Expr, Expr]]:
    """Pairs to try if the plain reading fails: i as a unit vector, a bare log in base ten."""
    found: list[tuple[Expr, Expr]] = []
    names = variables(gold), variables(answer)
    units = [{name for name in side if name.startswith("vec:")} for side in names]
    if bool(units[0]) != bool(units[1]):
        plain = [_as_vectors(expr, units[0] | units[1]) for expr in (gold, answer)]
        if (plain[0], plain[1]) != (gold, answer):
            found.append((plain[0], plain[1]))
    logs = [_bases(expr) for expr in (gold, answer)]
    if None in logs[0] | logs[1]:
        found.append((_log_in_base_ten(gold), _log_in_base_ten(answer)))
    applied = {node.name for expr in (gold, answer) for node in walk(expr) if isinstance(node, Apply)}
    multiplied = applied & (names[0] | names[1])
    if multiplied:
        found.append((_as_product(gold, multiplied), _as_product(answer, multiplied)))
    return found


def _as_vectors(expr: Expr, units: set[str]) -> Expr:
    """The tree with i, j, k and other letters read as the vectors of the other side."""

    def change(node: Expr) -> Expr:
        if isinstance(node, Var | Const) and f"vec:{node.name}" in units:
            return Var(f"vec:{node.name}")
        return node

    return transformed(expr, change)


def _bases(expr: Expr) -> set[Expr | None]:
    return {
        node.args[1] if len(node.args) == 2 else None
        for node in walk(expr)
        if isinstance(node, Func) and node.name == "log"
    }


def _log_in_base_ten(expr: Expr) -> Expr:
    ten = Num(Fraction(10))

    def change(node: Expr) -> Expr:
        if isinstance(node, Func) and node.name == "log" and len(node.args) == 1:
            return Func("log", (node.args[0], ten))
        return node

    return transformed(expr, change)


def _as_product(expr: Expr, names: set[str]) -> Expr:
    """The tree with f(x) read as f times x for names that also occur alone; f(x)^2 is then f x^2."""

    def change(node: Expr) -> Expr:
        if isinstance(node, Apply) and node.name in names and len(node.args) == 1:
            return Mul((Var(node.name), node.args[0]))
        return node

    def powers(node: Expr) -> Expr:
        if isinstance(node, Pow) and isinstance(node.base, Apply) and node.base.name in names:
            return Mul((Var(node.base.name), Pow(node.base.args[0], node.exponent)))
        return node

    return transformed(transformed(expr, powers), change)


def _with_signs(gold: Expr, answer: Expr, relation: Relation, bounded: bool) -> Equality:
    """Handles ±, sums and infinity, then compares."""
    has_sign = [any(isinstance(node, PlusMinus) for node in walk(e)) for e in (gold, answer)]
    if has_sign[0] != has_sign[1]:
        return Equality(False, Method.STRUCTURE, "only one of them has the sign ±")
    if has_sign[0]:
        return _same_lists(
            expanded_signs(gold), expanded_signs(answer), lambda g, a: _compared(g, a, relation, bounded)
        )
    if is_unevaluated(answer) and not is_unevaluated(gold):
        return Equality(False, Method.STRUCTURE, "the answer was left unevaluated", problem="unevaluated")
    if is_unevaluated(gold):
        gold, answer = bound_renamed(expanded_sums(gold)), bound_renamed(expanded_sums(answer))
        names = range_names(gold) | range_names(answer)
        if len(names) == 1 and relation is Relation.EQUAL:
            found = _at_whole_numbers(gold, answer, next(iter(names)), bounded)
            if found is not None:
                return found
    infinite = _infinite_sign(gold), _infinite_sign(answer)
    if infinite != (0, 0):
        is_same = infinite[0] == infinite[1] is not None
        return Equality(is_same, Method.NUMBER, "infinity equals only infinity of the same sign")
    return _decided(gold, answer, relation, bounded)


def _at_whole_numbers(gold: Expr, answer: Expr, name: str, bounded: bool) -> Equality | None:
    """Compares sums and products with a variable bound by expanding them for its first values."""
    for value in _BOUNDS:
        number = Num(Fraction(value))
        sides = [expanded_sums(at(expr, {name: number})) for expr in (gold, answer)]
        if any(map(is_unevaluated, sides)):
            return None
        found = _compared(sides[0], sides[1], Relation.EQUAL, bounded)
        if not found.result:
            return found
    return Equality(True, Method.SYMBOLIC, f"equal for {name} = 1 to {_BOUNDS[-1]}")


def _same_lists(
    golds: tuple[Expr, ...], answers: tuple[Expr, ...], compared: Callable[[Expr, Expr], Equality]
) -> Equality:
    """Whether two lists have the same values, each once, in any order."""
    left = list(answers)
    if len(golds) != len(left):
        return Equality(False, Method.STRUCTURE, "the signs ± make lists of other lengths")
    is_open = False
    method = Method.STRUCTURE
    for gold in golds:
        for place, answer in enumerate(left):
            found = compared(gold, answer)
            if found.result is not False:
                is_open = is_open or found.result is None
                method = found.method
                del left[place]
                break
        else:
            return Equality(False, Method.NUMERIC, "a value of ± has no partner")
    if is_open:
        return Equality(None, method, "the values of ± agree in double precision")
    return Equality(True, method, "all values of ± are equal")


def _infinite_sign(expr: Expr) -> int | None:
    """1 or -1 for plus or minus infinity, 0 for an expression without infinity, None for any other use of it."""
    if expr == _INFINITY:
        return 1
    if isinstance(expr, Mul) and expr.factors[-1] == _INFINITY:
        rest = expr.factors[:-1]
        if all(isinstance(factor, Num) and factor.value for factor in rest):
            negative = sum(isinstance(factor, Num) and factor.value < 0 for factor in rest)
            return -1 if negative % 2 else 1
    return None if any(node == _INFINITY for node in walk(expr)) else 0


def _decided(gold: Expr, answer: Expr, relation: Relation, bounded: bool) -> Equality:
    first, second = image(gold), image(answer)
    has_names = bool(variables(gold) or variables(answer))
    method = Method.SYMBOLIC if has_names else Method.NUMBER
    holds = _holds(gold, answer, first.value, second.value, relation)
    if holds:
        return Equality(True, method, f"{relation} in exact arithmetic")
    if first.is_free and second.is_free:
        return Equality(False, method, f"not {relation} in exact arithmetic")
    if is_unevaluated(gold):
        return Equality(False, Method.STRUCTURE, "another unevaluated expression", "unevaluated")
    seed = seed_of(*sorted((first.value, second.value)))
    if differ(gold, answer, relation, seed):
        return Equality(False, Method.NUMERIC, f"not {relation} at a point")
    if bounded:
        return Equality(None, Method.NUMERIC, f"{relation} in double precision, which proves nothing")
    verdict = agree(gold, answer, relation, seed)
    if verdict is None:
        return Equality(False, Method.NUMERIC, "no point where both have a real value", "undefined")
    return Equality(verdict, Method.NUMERIC, f"{'' if verdict else 'not '}{relation} to 30 digits")


def _holds(gold: Expr, answer: Expr, first: int, second: int, relation: Relation) -> bool:
    """Whether the images prove the relation; ratios and differences are compared at two elements of the field."""
    if relation is Relation.EQUAL:
        return first == second
    if relation is Relation.PROPORTIONAL and 0 in (first, second):
        return first == second
    renamed: dict[str, Expr] = {name: Var(f"{name}~") for name in variables(gold) | variables(answer)}
    other_first = image(substituted(gold, renamed)).value
    other_second = image(substituted(answer, renamed)).value
    if relation is Relation.PROPORTIONAL:
        return first * other_second % P == second * other_first % P
    return (first - second - other_first + other_second) % P == 0
