"""Tree transformations: expand ±, expand sums over small ranges, drop degrees."""

import itertools
from dataclasses import replace
from fractions import Fraction

from rlvr_verifiers.mathcheck.tree.exact import exact_value
from rlvr_verifiers.mathcheck.tree.nodes import (
    MINUS_ONE,
    ONE,
    Add,
    Const,
    Expr,
    Mul,
    Num,
    PlusMinus,
    TooBig,
    Unevaluated,
    Var,
    substituted,
    transformed,
    variables,
    walk,
)

_MAX_SIGNS = 4
_MAX_TERMS = 1000
_MAX_NODES = 5000


def negated(expr: Expr) -> Expr:
    """-expr, with a leading number or an inner minus folded in."""
    if isinstance(expr, Num):
        return Num(-expr.value)
    if isinstance(expr, Mul) and isinstance(expr.factors[0], Num):
        first = expr.factors[0].value
        rest = expr.factors[1:]
        if first == -1:
            return rest[0] if len(rest) == 1 else Mul(rest)
        return Mul((Num(-first), *rest))
    if isinstance(expr, Mul):
        return Mul((MINUS_ONE, *expr.factors))
    return Mul((MINUS_ONE, expr))


def is_unevaluated(expr: Expr) -> bool:
    """Whether the tree holds an integral, sum, product, limit or derivative."""
    return any(isinstance(node, Unevaluated) for node in walk(expr))


def expanded_signs(expr: Expr) -> tuple[Expr, ...]:
    r"""The expressions that ± means, all plus first; (expr,) if there is no ±.

    If a ∓ occurs, the signs are linked (upper with upper); otherwise they are independent.

    Raises:
        TooBig: more than four signs.
    """
    signs = [node for node in walk(expr) if isinstance(node, PlusMinus)]
    if not signs:
        return (expr,)
    if len(signs) > _MAX_SIGNS:
        raise TooBig(f"it has {len(signs)} signs ±; at most {_MAX_SIGNS} are written out")
    if any(node.flipped for node in signs):
        choices = [(1,) * len(signs), (-1,) * len(signs)]
    else:
        choices = list(itertools.product((1, -1), repeat=len(signs)))
    found: list[Expr] = []
    for choice in choices:
        upcoming = iter(choice)

        def change(node: Expr, upcoming: "itertools.chain[int] | object" = upcoming) -> Expr:
            if not isinstance(node, PlusMinus):
                return node
            sign = next(upcoming)  # type: ignore[call-overload] - an iterator of signs
            return node.term if (sign > 0) != node.flipped else negated(node.term)

        found.append(transformed(expr, change))
    return tuple(found)


def expanded_sums(expr: Expr) -> Expr:
    r"""The tree with sums and products over explicit integer ranges expanded; others stay.

    Raises:
        TooBig: the expansion has more than 1,000 terms or 5,000 nodes.
    """

    def change(node: Expr) -> Expr:
        if not isinstance(node, Unevaluated) or node.kind not in ("sum", "prod"):
            return node
        if node.low is None or node.high is None:
            return node
        low, high = exact_value(node.low), exact_value(node.high)
        if low is None or high is None or low.denominator != 1 or high.denominator != 1:
            return node
        count = int(high - low) + 1
        size = sum(1 for _ in walk(node.body))
        if count > _MAX_TERMS or count * size > _MAX_NODES:
            raise TooBig(f"a {node.kind} is over the limit of {_MAX_TERMS} terms")
        terms = tuple(substituted(node.body, {node.variable: Num(low + k)}) for k in range(count))
        if node.kind == "sum":
            return Add(terms) if terms else Num(Fraction(0))
        return Mul(terms) if terms else ONE

    return transformed(expr, change)


def without_degrees(expr: Expr) -> Expr:
    """The tree with the degree sign read as 1: 60 degrees become the number 60."""
    return transformed(expr, lambda node: ONE if node == Const("degree") else node)


def at(expr: Expr, values: dict[str, Expr]) -> Expr:
    """The tree with variables replaced in the bounds of sums and products too."""

    def change(node: Expr) -> Expr:
        if isinstance(node, Var):
            return values.get(node.name, node)
        if isinstance(node, Unevaluated) and node.low is not None and node.high is not None:
            return replace(node, low=at(node.low, values), high=at(node.high, values))
        return node

    return transformed(expr, change)


def range_names(expr: Expr) -> frozenset[str]:
    """The variables in the bounds of sums and products."""
    names: frozenset[str] = frozenset()
    for node in walk(expr):
        if not isinstance(node, Unevaluated) or node.kind not in ("sum", "prod"):
            continue
        if node.low is not None and node.high is not None:
            names |= variables(node.low) | variables(node.high)
    return names


def bound_renamed(expr: Expr) -> Expr:
    """The tree with the variable of every integral, sum and product renamed to the same name."""

    def change(node: Expr) -> Expr:
        if not isinstance(node, Unevaluated):
            return node
        name = node.variable or _differential(node.body)
        if not name:
            return node
        over = node.over.replace(f"{{{name}", "{~", 1) if node.variable else node.over
        body = substituted(node.body, {name: Var("~")})
        return replace(node, over=over, body=body, variable="~" if node.variable else "")

    return transformed(expr, change)


def _differential(body: Expr) -> str:
    """The name v of the factor dv in an integrand; "" if there is none."""
    for node in walk(body):
        if isinstance(node, Mul):
            for first, second in itertools.pairwise(node.factors):
                if first == Var("d") and isinstance(second, Var):
                    return second.name
    return ""
