"""Values of an expression at a point, each with a bound on its error.

One evaluator runs over two kernels: doubles, which are only ever used to prove that two values differ, and mpmath
at a chosen precision. The bound is propagated to first order through every operation, so that cancellation,
1/2004! next to 1/2006!, or 10^{-40} next to 1 are compared by the known error and not by an absolute tolerance.
Magnitudes are checked before each operation, so that nothing here can take long.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rlvr_verifiers.mathcheck.algebra.bounded_arithmetic import SAFETY, Arithmetic
from rlvr_verifiers.mathcheck.algebra.kernels import DOUBLES, Kernel, Undetermined, Value
from rlvr_verifiers.mathcheck.text.vocabulary import words
from rlvr_verifiers.mathcheck.tree.nodes import Add, Apply, Const, Div, Expr, Func, Mul, Num, Pow, Var


def value_at(expr: Expr, point: dict[str, Fraction], kernel: Kernel, *, real: bool = False) -> Value:
    """The value and a bound on its error; with `real`, no intermediate value may leave the reals.

    Raises:
        Undetermined: the value cannot be determined here.
    """
    try:
        return _Evaluation(point, kernel, real).of(expr)
    except (OverflowError, ZeroDivisionError, ValueError) as error:
        raise Undetermined(f"no value at this precision: {error}") from error


def is_apart(first: Value, second: Value) -> bool:
    """Whether two values certainly differ."""
    return bool(abs(first[0] - second[0]) > SAFETY * (first[1] + second[1]) + _tiny(first[0]))


def _tiny(value: Any) -> float:
    return 1e-290 if isinstance(value, float | complex) else 0.0


def real_interval(expr: Expr, *, positive: bool = False) -> tuple[float, float] | None:
    """Bounds on a real constant from doubles; None if it is complex, unknown or (with `positive`) not positive."""
    try:
        value, error = value_at(expr, {}, DOUBLES)
    except Undetermined:
        return None
    if type(value) is complex:
        if abs(value.imag) > SAFETY * error:
            return None
        value = value.real
    low, high = value - SAFETY * error, value + SAFETY * error
    if not math.isfinite(low) or not math.isfinite(high) or (positive and low <= 0):
        return None
    return low, high


class _Evaluation(Arithmetic):
    """The values of the nodes at one point."""

    def __init__(self, point: dict[str, Fraction], kernel: Kernel, real: bool) -> None:
        super().__init__(kernel, real)
        self.point = point

    def of(self, expr: Expr) -> Value:
        method = _BY_TYPE.get(type(expr))
        if method is None:
            raise Undetermined(f"{type(expr).__name__} has no value")
        return method(self, expr)

    def num(self, expr: Num) -> Value:
        return self.number(expr.value)

    def var(self, expr: Var) -> Value:
        value = self.point.get(expr.name)
        if value is None:
            raise Undetermined(f"{expr.name} has no value")
        return self.number(value)

    def const(self, expr: Const) -> Value:
        kernel = self.kernel
        if expr.name == "i":
            return kernel.i, 0.0
        if expr.name == "pi":
            return kernel.pi, self.eps * 4
        if expr.name == "e":
            return kernel.e, self.eps * 3
        if expr.name == "degree":
            return kernel.pi / 180, self.eps
        raise Undetermined("infinity has no value")

    def add(self, expr: Add) -> Value:
        total, error = self.of(expr.terms[0])
        size = abs(total)
        for term in expr.terms[1:]:
            value, bound = self.of(term)
            total = total + value
            error = error + bound
            size = size + abs(value)
        return total, error + self.eps * size

    def mul(self, expr: Mul) -> Value:
        product = self.of(expr.factors[0])
        for factor in expr.factors[1:]:
            product = self.times(product, self.of(factor))
        return product

    def div(self, expr: Div) -> Value:
        return self.over(self.of(expr.top), self.of(expr.bottom))

    def pow(self, expr: Pow) -> Value:
        base, exponent = expr.base, expr.exponent
        if isinstance(exponent, Num):
            value = self.of(base)
            if exponent.value.denominator == 1:
                return self.whole_power(value, exponent.value.numerator)
            if exponent.value == Fraction(1, 2):
                return self.sqrt(value)
            if exponent.value.denominator % 2 and self.is_negative(value):
                found = self.general_power((-value[0], value[1]), self.number(exponent.value))
                return (-found[0], found[1]) if exponent.value.numerator % 2 else found
            return self.general_power(value, self.number(exponent.value))
        if base == _E:
            return self.exp(self.of(exponent))
        value = self.of(base)
        power = self.of(exponent)
        if self.kernel.is_real(power[0]) and power[1] < 1e-6:
            nearest = self.kernel.floor(power[0] + 0.5)
            if abs(power[0] - nearest) <= SAFETY * power[1]:
                return self.whole_power(value, nearest)
        return self.general_power(value, power)

    def func(self, expr: Func) -> Value:
        name = expr.name
        values = [self.of(argument) for argument in expr.args]
        if name == "root":
            return self.root(values[0], values[1])
        if name == "log":
            top = self.log(values[0])
            if len(values) == 1 or expr.args[1] == _E:
                return top
            return self.over(top, self.log(values[1]))
        if name in _CIRCULAR:
            sine, cosine = self.sin_cos(values[0])
            return self.ratio(_CIRCULAR[name], sine, cosine)
        if name in _HYPERBOLIC:
            grown, back = self.exp(values[0]), self.exp((-values[0][0], values[0][1]))
            error = (grown[1] + back[1]) / 2 + self.eps * (abs(grown[0]) + abs(back[0]))
            sine = ((grown[0] - back[0]) / 2, error)
            return self.ratio(_HYPERBOLIC[name], sine, ((grown[0] + back[0]) / 2, error))
        if name in _INVERSE:
            return self.inverse(name, values[0])
        if name in ("abs", "re", "im", "conj", "arg"):
            return self.part(name, values[0])
        if not all(self.kernel.is_real(value) for value, _ in values):
            raise Undetermined(f"{name} of a complex number")
        if name in ("max", "min"):
            best = (max if name == "max" else min)(value for value, _ in values)
            return best, max(error for _, error in values)
        return self.stepped(name, values)

    def ratio(self, kind: str, sine: Value, cosine: Value) -> Value:
        if kind == "s":
            return sine
        if kind == "c":
            return cosine
        if kind == "s/c":
            return self.over(sine, cosine)
        if kind == "c/s":
            return self.over(cosine, sine)
        return self.over((1, 0.0), cosine if kind == "1/c" else sine)

    def inverse(self, name: str, value: Value) -> Value:
        kernel = self.kernel
        if name in ("arcsec", "arccsc"):
            value = self.over((1, 0.0), value)
            name = "arccos" if name == "arcsec" else "arcsin"
        a, ea = value
        if name in ("arcsin", "arccos"):
            found = self.kept_real(kernel.asin(a) if name == "arcsin" else kernel.acos(a))
            gap = abs(1 - a * a)
            if gap <= 8 * ea:
                error = 4 * kernel.sqrt(ea + self.eps)
            else:
                error = 2 * ea / kernel.sqrt(gap)
            return found, error + self.eps * abs(found)
        if name in ("arctan", "arccot"):
            if abs(1 + a * a) <= 8 * ea:
                raise Undetermined("an arctangent at its pole")
            found = kernel.atan(a)
            error = 2 * ea / abs(1 + a * a) + self.eps * 2
            return (found if name == "arctan" else kernel.pi / 2 - found), error
        if name == "artanh":
            low = self.add_number(value, 1)
            high = self.add_number((-a, ea), 1)
            found = self.log(self.over(low, high))
            return found[0] / 2, found[1]
        square = self.times(value, value)
        inner = self.sqrt(self.add_number(square, 1 if name == "arsinh" else -1))
        total = a + inner[0]
        return self.log((total, ea + inner[1] + self.eps * (abs(a) + abs(inner[0]))))

    def part(self, name: str, value: Value) -> Value:
        a, ea = value
        if name == "abs":
            return abs(a), ea + self.eps * abs(a)
        if name == "arg":
            found = self.log(value)
            return (0.0 if self.kernel.is_real(found[0]) else found[0].imag), found[1]
        if self.kernel.is_real(a):
            return (a, ea) if name != "im" else (0.0, 0.0)
        if name == "conj":
            return a.conjugate(), ea
        return (a.real if name == "re" else a.imag), ea

    def stepped(self, name: str, values: list[Value]) -> Value:
        """Step functions and functions of integers."""
        a, ea = values[0]
        if name in ("floor", "ceil"):
            if abs(a) > 1e15 or ea > 1e-6:
                raise Undetermined("a floor of a large number")
            nearest = self.kernel.floor(a + 0.5)
            if abs(a - nearest) <= SAFETY * ea:
                return nearest, 0.0
            return self.kernel.floor(a) + (name == "ceil"), 0.0
        if name == "sgn":
            if abs(a) <= SAFETY * ea:
                if ea:
                    raise Undetermined("the sign of what may be zero")
                return 0, 0.0
            return (1 if a > 0 else -1), 0.0
        whole = [self.whole(value) for value in values]
        if name in ("gcd", "lcm"):
            return self.number(Fraction((math.gcd if name == "gcd" else math.lcm)(*whole)))
        if name == "mod" and whole[1]:
            return whole[0] % whole[1], 0.0
        first = whole[0]
        if name in ("factorial", "double_factorial") and 0 <= first <= 3000:
            product = math.factorial(first) if name == "factorial" else math.prod(range(first, 0, -2))
            return self.number(Fraction(product))
        if name == "binom" and 0 <= first <= 10_000:
            second = whole[1]
            if second < 0:
                return 0, 0.0
            if min(second, abs(first - second)) <= 1000:
                return self.number(Fraction(math.comb(first, second)))
        raise Undetermined(f"{name} has no value here")

    def apply(self, expr: Apply) -> Value:
        """A generic smooth function: (a + b z + c z^2) / (1 + z^2) with coefficients from its name."""
        total: Value = (0.0, 0.0)
        for place, argument in enumerate(expr.args):
            a, b, c = _coefficients(expr.name, place)
            z, ez = self.of(argument)
            if not self.kernel.is_real(z):
                raise Undetermined("an unknown function of a complex number")
            found = (a + b * z + c * z * z) / (1 + z * z)
            size = abs(a) + abs(b) + abs(c)
            total = (total[0] + found, total[1] + size * (2 * ez + self.eps * 4))
        return total


@functools.lru_cache(maxsize=256)
def _coefficients(name: str, place: int) -> tuple[int, int, int]:
    digest = hashlib.blake2b(f"{name}/{place}".encode(), digest_size=3).digest()
    return digest[0] + 1, digest[1] + 1, digest[2] + 1


_E = Const("e")
_CIRCULAR = {"sin": "s", "cos": "c", "tan": "s/c", "cot": "c/s", "sec": "1/c", "csc": "1/s"}
_HYPERBOLIC = {"sinh": "s", "cosh": "c", "tanh": "s/c", "coth": "c/s", "sech": "1/c", "csch": "1/s"}
_INVERSE = frozenset(words("arcsin arccos arctan arccot arcsec arccsc arsinh arcosh artanh"))
_BY_TYPE: dict[type, Callable[[_Evaluation, Any], Value]] = {
    Num: _Evaluation.num,
    Var: _Evaluation.var,
    Const: _Evaluation.const,
    Add: _Evaluation.add,
    Mul: _Evaluation.mul,
    Div: _Evaluation.div,
    Pow: _Evaluation.pow,
    Func: _Evaluation.func,
    Apply: _Evaluation.apply,
}
