"""The expression tree: frozen nodes, flat sums and products, and functions on trees.

Depth is bounded by the parser, so plain recursion is safe everywhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction


class Unreadable(ValueError):  # noqa: N818 - a finding about the text
    """The text is not an expression of the grammar."""


class TooBig(ValueError):  # noqa: N818 - a finding about the text
    """The text, or an intermediate value, exceeds a size limit."""


class Expr:
    """A node; `parts` are its children in order."""

    __slots__ = ()

    @property
    def parts(self) -> "tuple[Expr, ...]":
        return ()

    def rebuilt(self, parts: "tuple[Expr, ...]") -> "Expr":
        """The same node with other children."""
        assert not parts
        return self


@dataclass(frozen=True, slots=True)
class Num(Expr):
    """An exact rational number; decimals are fractions too."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """pi, e, i, oo (infinity) or degree (pi/180)."""

    name: str


@dataclass(frozen=True, slots=True)
class Var(Expr):
    """A variable with its subscript and primes: x, x_1, E', theta, vec:i (a unit vector), bar:z."""

    name: str


@dataclass(frozen=True, slots=True)
class Add(Expr):
    """A flat sum; a - b is Add((a, Mul((Num(-1), b))))."""

    terms: tuple[Expr, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.terms

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Add(parts)


@dataclass(frozen=True, slots=True)
class Mul(Expr):
    """A flat product."""

    factors: tuple[Expr, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.factors

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Mul(parts)


@dataclass(frozen=True, slots=True)
class Div(Expr):
    """A quotient; a/b*c/d is Div(a c, b d)."""

    top: Expr
    bottom: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.top, self.bottom)

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Div(parts[0], parts[1])


@dataclass(frozen=True, slots=True)
class Pow(Expr):
    """A power."""

    base: Expr
    exponent: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.base, self.exponent)

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Pow(parts[0], parts[1])


@dataclass(frozen=True, slots=True)
class Func(Expr):
    r"""A known function: sin, log (argument, base), root (radicand, index), abs, floor, factorial, binom, ...

    `\ln x` is log(x, e); `\sqrt{x}` is root(x, 2).
    """

    name: str
    args: tuple[Expr, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.args

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Func(self.name, parts)


@dataclass(frozen=True, slots=True)
class Apply(Expr):
    """An unknown function applied to arguments: f(x), f'(x), P(A, B). It may turn out to be a product."""

    name: str
    args: tuple[Expr, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.args

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Apply(self.name, parts)


@dataclass(frozen=True, slots=True)
class PlusMinus(Expr):
    """A term with the sign ± (or ∓ when `flipped`)."""

    term: Expr
    flipped: bool = False

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.term,)

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return PlusMinus(parts[0], self.flipped)


@dataclass(frozen=True, slots=True)
class Unevaluated(Expr):
    """An integral, sum, product, limit or derivative that the answer did not evaluate.

    Attributes:
        kind: int, sum, prod, lim or derivative.
        over: the text of the bounds.
        variable, low, high: the index and bounds of a sum or product; "" and None if they are unreadable.
    """

    kind: str
    over: str
    body: Expr
    variable: str = ""
    low: Expr | None = None
    high: Expr | None = None

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.body,)

    def rebuilt(self, parts: tuple[Expr, ...]) -> Expr:
        return Unevaluated(self.kind, self.over, parts[0], self.variable, self.low, self.high)


ZERO = Num(Fraction(0))
ONE = Num(Fraction(1))
MINUS_ONE = Num(Fraction(-1))
TWO = Num(Fraction(2))


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node of a tree, root first."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        if parts := node.parts:
            stack.extend(parts)


def variables(expr: Expr) -> frozenset[str]:
    """The names of a tree's variables."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, Var))


def transformed(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """The tree with `change` applied to every node, children first."""
    parts = expr.parts
    if parts:
        new = tuple(transformed(part, change) for part in parts)
        if any(a is not b for a, b in zip(new, parts, strict=True)):
            expr = expr.rebuilt(new)
    return change(expr)


def substituted(expr: Expr, values: dict[str, Expr]) -> Expr:
    """The tree with variables replaced: {"m": Var("n")} renames m to n."""
    return transformed(expr, lambda node: values.get(node.name, node) if isinstance(node, Var) else node)
