"""A float that records how it was computed, so that a formula written with loops also gives its gradient.

Reference losses are written with these in place of tensors: no autograd, no masks, no broadcasting, none of the code
that they are compared with. A formula's stop-gradient is `still(x)`: the plain float.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Scalar: TypeAlias = "Number | float"


class Number:
    """A value in float64 and the partial derivatives with respect to what it was made from.

    >>> x = Number(3.0)
    >>> y = x * x - 2 * x
    >>> y.value, gradient(y, [x])
    (3.0, [4.0])
    """

    __slots__ = ("slopes", "value")

    def __init__(self, value: float, slopes: Sequence[tuple["Number", float]] = ()) -> None:
        self.value = value
        self.slopes = slopes

    def __add__(self, other: Scalar) -> "Number":
        return _made(self.value + still(other), (self, 1.0), (other, 1.0))

    __radd__ = __add__

    def __neg__(self) -> "Number":
        return _made(-self.value, (self, -1.0))

    def __sub__(self, other: Scalar) -> "Number":
        return _made(self.value - still(other), (self, 1.0), (other, -1.0))

    def __rsub__(self, other: Scalar) -> "Number":
        return -self + other

    def __mul__(self, other: Scalar) -> "Number":
        return _made(self.value * still(other), (self, still(other)), (other, self.value))

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> "Number":
        return _made(self.value / other, (self, 1.0 / other))


def _made(value: float, *slopes: tuple[Scalar, float]) -> Number:
    return Number(value, [(of, slope) for of, slope in slopes if isinstance(of, Number)])


def still(x: Scalar) -> float:
    """The plain value: detach or stop-gradient in a framework."""
    return x.value if isinstance(x, Number) else x


def gradient(y: Scalar, xs: Iterable[Number]) -> list[float]:
    """dy/dx for each x, 0 where y does not depend on it.

    >>> a, b = Number(2.0), Number(5.0)
    >>> gradient(exp(a - a) * b, [a, b])
    [0.0, 1.0]
    """
    slope_of: dict[int, float] = {id(y): 1.0}
    for node in reversed(_in_order_of_making(y) if isinstance(y, Number) else []):
        for parent, slope in node.slopes:
            slope_of[id(parent)] = slope_of.get(id(parent), 0.0) + slope * slope_of[id(node)]
    return [slope_of.get(id(x), 0.0) for x in xs]


def _in_order_of_making(y: Number) -> list[Number]:
    """Every number that y was made from, parents first, y last."""
    order: list[Number] = []
    seen: set[int] = set()
    stack: list[tuple[Number, bool]] = [(y, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.slopes]
    return order


def _applied(x: Scalar, *, value: float, slope: float) -> Scalar:
    return _made(value, (x, slope)) if isinstance(x, Number) else value


def exp(x: Scalar) -> Scalar:
    """e^x."""
    value = math.exp(still(x))
    return _applied(x, value=value, slope=value)


def sigmoid(x: Scalar) -> Scalar:
    """1 / (1 + e^-x)."""
    value = 1.0 / (1.0 + math.exp(-still(x)))
    return _applied(x, value=value, slope=value * (1.0 - value))


def lesser(a: Scalar, b: Scalar) -> Scalar:
    """The smaller one, with its gradient; the first one when they are equal."""
    return a if still(a) <= still(b) else b


def greater(a: Scalar, b: Scalar) -> Scalar:
    """The larger one, with its gradient; the first one when they are equal."""
    return a if still(a) >= still(b) else b


def clamp(x: Scalar, low: float, high: float) -> Scalar:
    """x held in [low, high]; no gradient where it is held.

    >>> clamp(1.5, 0.8, 1.2), clamp(1.0, 0.8, 1.2)
    (1.2, 1.0)
    """
    return x if low <= still(x) <= high else min(max(still(x), low), high)


def total(xs: Iterable[Scalar]) -> Scalar:
    """The sum; 0.0 of nothing."""
    numbers: list[Scalar] = list(xs)
    value = math.fsum(still(x) for x in numbers)
    return _made(value, *((x, 1.0) for x in numbers))
