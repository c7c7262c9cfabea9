r"""The public interface of the parser: `parse` and the nodes of the tree that it returns.

>>> parse(r"3\frac{1}{2}")
Num(value=Fraction(7, 2))
>>> parse("2(x+1)") == parse(r"2\cdot\left(x + 1\right)")
True
"""

from rlvr_verifiers.mathcheck.parse.grammar import parse
from rlvr_verifiers.mathcheck.tree.nodes import (
    Add,
    Apply,
    Const,
    Div,
    Expr,
    Func,
    Mul,
    Num,
    PlusMinus,
    Pow,
    TooBig,
    Unevaluated,
    Unreadable,
    Var,
    substituted,
    transformed,
    variables,
    walk,
)
from rlvr_verifiers.mathcheck.tree.rewriting import (
    expanded_signs,
    expanded_sums,
    is_unevaluated,
    negated,
    without_degrees,
)

__all__ = [
    "Add",
    "Apply",
    "Const",
    "Div",
    "Expr",
    "Func",
    "Mul",
    "Num",
    "PlusMinus",
    "Pow",
    "TooBig",
    "Unevaluated",
    "Unreadable",
    "Var",
    "expanded_signs",
    "expanded_sums",
    "is_unevaluated",
    "negated",
    "parse",
    "substituted",
    "transformed",
    "variables",
    "walk",
    "without_degrees",
]
