r"""The exact rational value of an expression, with every bound checked before the operation.

>>> from rlvr_verifiers.mathcheck.parse.expression import parse
>>> exact_value(parse(r"\binom{5}{2} + 3! + \sqrt{16} + \log_2 8"))
Fraction(23, 1)
>>> exact_value(parse(r"\sqrt{2}")) is None
True
"""

import math
from fractions import Fraction

from rlvr_verifiers.mathcheck.tree.nodes import Add, Const, Div, Expr, Func, Mul, Num, Pow, TooBig

MAX_BITS = 20_000
MAX_COUNT = 1000
_MAX_ROOT_BITS = 2000


class Undefined(ArithmeticError):  # noqa: N818 - a finding about the value
    """A division by zero, or a function outside its domain."""


def exact_value(expr: Expr) -> Fraction | None:
    """The value, if it is rational and rational arithmetic finds it; else None.

    Raises:
        TooBig: an intermediate value would exceed 20,000 bits, or n! has n above the limit.
        Undefined: a division by zero, or a function outside its domain.
    """
    kind = type(expr)
    if kind is Num:
        return expr.value  # type: ignore[attr-defined] - narrowed by hand: this is the hot path
    if isinstance(expr, Add):
        total = Fraction(0)
        for term in expr.terms:
            value = exact_value(term)
            if value is None:
                return None
            total += value
        return _bounded(total)
    if isinstance(expr, Mul):
        product = Fraction(1)
        for factor in expr.factors:
            value = exact_value(factor)
            if value is None:
                return None
            product = _bounded(product * value)
        return product
    if isinstance(expr, Div):
        top = exact_value(expr.top)
        bottom = exact_value(expr.bottom)
        if bottom == 0:
            raise Undefined("it divides by zero")
        return None if top is None or bottom is None else _bounded(top / bottom)
    if isinstance(expr, Pow):
        base = exact_value(expr.base)
        exponent = exact_value(expr.exponent)
        return None if base is None or exponent is None else power(base, exponent)
    if isinstance(expr, Func):
        return _function(expr)
    return None


def bits(value: Fraction) -> int:
    """The bits of the numerator and the denominator together."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def _bounded(value: Fraction) -> Fraction:
    if bits(value) > 2 * MAX_BITS:
        raise TooBig(f"a value on the way has {bits(value)} bits, over the limit of {2 * MAX_BITS}")
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """base ** exponent if it is rational; None if it is irrational or complex."""
    if base == 0:
        if exponent < 0:
            raise Undefined("zero has no negative power")
        return Fraction(1) if exponent == 0 else base
    if exponent.denominator != 1:
        base_root = root(base, exponent.denominator)
        if base_root is None:
            return None
        base, exponent = base_root, Fraction(exponent.numerator)
    count = exponent.numerator
    if base in (1, -1):
        return base if count % 2 else Fraction(1)
    if abs(count) * (bits(base) - 1) > MAX_BITS:
        raise TooBig(f"a power is over the limit of {MAX_BITS} bits")
    return base**count


def root(value: Fraction, index: int) -> Fraction | None:
    """The real `index`-th root if it is rational, else None."""
    if value < 0:
        if index % 2 == 0:
            return None
        positive = root(-value, index)
        return None if positive is None else -positive
    if index > 64 or bits(value) > _MAX_ROOT_BITS:
        return None
    top = whole_root(value.numerator, index)
    if top is None:
        return None
    bottom = whole_root(value.denominator, index)
    return None if bottom is None else Fraction(top, bottom)


def whole_root(value: int, index: int) -> int | None:
    """The integer r >= 0 with r ** index == value; None if there is none."""
    if index == 2:
        found = math.isqrt(value)
        return found if found * found == value else None
    if value < 2:
        return value
    low, high = 1, 1 << (value.bit_length() // index + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**index < value:
            low = middle + 1
        else:
            high = middle
    return low if low**index == value else None


def _function(expr: Func) -> Fraction | None:
    if expr.name == "log":
        return _logarithm(expr)
    values: list[Fraction] = []
    for argument in expr.args:
        value = exact_value(argument)
        if value is None:
            return None
        values.append(value)
    return function_value(expr.name, values)


def _logarithm(expr: Func) -> Fraction | None:
    argument = exact_value(expr.args[0])
    if argument == 1:
        return Fraction(0)
    if len(expr.args) == 1:
        return None
    if expr.args[1] == Const("e"):
        return None
    base = exact_value(expr.args[1])
    if argument is None or base is None:
        return None
    if argument <= 0 or base <= 0 or base == 1:
        raise Undefined("a logarithm outside its domain")
    return rational_logarithm(argument, base)


def rational_logarithm(argument: Fraction, base: Fraction) -> Fraction | None:
    """log_base(argument) if it is a ratio of small integers: log_4 8 = 3/2; else None."""
    if bits(argument) > MAX_BITS or bits(base) > MAX_BITS:
        return None
    try:
        estimate = _log(argument) / _log(base)
    except (ValueError, ZeroDivisionError):
        return None
    for denominator in (1, 2, 3, 4, 5, 6):
        numerator = round(estimate * denominator)
        if abs(estimate * denominator - numerator) > 1e-6 or abs(numerator) > MAX_BITS:
            continue
        if abs(numerator) * bits(base) > MAX_BITS or denominator * bits(argument) > MAX_BITS:
            continue
        if argument**denominator == base**numerator:
            return Fraction(numerator, denominator)
    return None


def _log(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)


def function_value(name: str, values: list[Fraction]) -> Fraction | None:
    """A known function at rational arguments; None if the value is irrational or the function is not handled here.

    >>> function_value("floor", [Fraction(7, 2)])
    Fraction(3, 1)
    """
    first = values[0]
    are_whole = all(value.denominator == 1 for value in values)
    if name == "root":
        index = values[1]
        if index.denominator != 1 or index < 1:
            return None
        return root(first, int(index))
    if name == "abs":
        return abs(first)
    if name == "floor":
        return Fraction(math.floor(first))
    if name == "ceil":
        return Fraction(math.ceil(first))
    if name == "sgn":
        return Fraction((first > 0) - (first < 0))
    if name in ("max", "min"):
        return max(values) if name == "max" else min(values)
    if name in ("re", "conj"):
        return first
    if name == "im":
        return Fraction(0)
    if not are_whole:
        return None
    if name == "gcd":
        return Fraction(math.gcd(*(int(value) for value in values)))
    if name == "lcm":
        return _bounded(Fraction(math.lcm(*(int(value) for value in values))))
    if name == "mod":
        if values[1] == 0:
            raise Undefined("it divides by zero")
        return first % values[1]
    if name in ("factorial", "double_factorial"):
        return Fraction(_factorial(int(first), 1 if name == "factorial" else 2))
    if name == "binom":
        return Fraction(_binomial(int(first), int(values[1])))
    return None


def _factorial(count: int, step: int) -> int:
    if count < 0:
        raise Undefined("the factorial of a negative number")
    if count > MAX_COUNT * 2:
        raise TooBig(f"a factorial is over the limit of {MAX_COUNT * 2}!")
    return math.factorial(count) if step == 1 else math.prod(range(count, 0, -2))


def _binomial(top: int, bottom: int) -> int:
    if bottom < 0:
        return 0
    if abs(top) > MAX_COUNT * 10 or min(bottom, abs(top - bottom)) > MAX_COUNT:
        raise TooBig("a binomial coefficient is over the limit")
    if top >= 0:
        return math.comb(top, bottom)
    return (-1) ** bottom * math.comb(bottom - top - 1, bottom)
