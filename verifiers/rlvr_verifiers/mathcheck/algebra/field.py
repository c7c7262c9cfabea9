r"""Exact identities by one homomorphism into the integers modulo a large prime.

Every expression is sent to a number modulo P (149 bits): rationals to themselves, variables, pi and e to fixed
pseudo-random elements, sqrt(2), i, the cube root of 5 or cos(pi/60) to elements with the same algebraic relations, and
e^{x}, sin x, 2^n, ln 7 to elements that obey e^{a+b} = e^a e^b, sin^2 + cos^2 = 1, ln(ab) = ln a + ln b. Expressions
with equal images are equal (for a rational function of degree d this fails with probability d / 2^149, Schwartz 1980,
Zippel 1979). Expressions with different images are different if only rationals, variables, pi, e and radicals occur
(`is_free`); with other functions they may still be equal for a reason that the model does not know.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

from rlvr_verifiers.mathcheck.algebra.numeric import real_interval
from rlvr_verifiers.mathcheck.algebra.powers import DEGREE_SHARE, Powers
from rlvr_verifiers.mathcheck.algebra.residues import I, P, element, factored_fraction, inverse, name_root, residue
from rlvr_verifiers.mathcheck.text.vocabulary import words
from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value, function_value
from rlvr_verifiers.mathcheck.tree.nodes import (
    Add,
    Apply,
    Const,
    Div,
    Expr,
    Func,
    Mul,
    Num,
    Pow,
    TooBig,
    Unevaluated,
    Var,
    variables,
)

_MINUS_HALF_I = pow(2 * I, -1, P)
_HALF = pow(2, -1, P)
_CONST_E = Const("e")


@dataclass(frozen=True, slots=True)
class Image:
    """The image of an expression modulo P; with `is_free`, different images mean different functions."""

    value: int
    is_free: bool


@functools.lru_cache(maxsize=1024)
def image(expr: Expr) -> Image:
    """The image of an expression.

    Raises:
        Undefined: a division by zero.
        TooBig: an exponent or factorial over the limits.
    """
    work = _Image()
    value = work.of(expr)
    return Image(value, work.is_free)


class _Image(Powers):
    """Computes the image of every type of node."""

    def of(self, expr: Expr) -> int:
        if isinstance(expr, Num):
            return residue(expr.value)
        if isinstance(expr, Var):
            return pow(name_root(expr.name), 12, P)
        if isinstance(expr, Add):
            return sum(self.of(term) for term in expr.terms) % P
        if isinstance(expr, Mul):
            product = 1
            for factor in expr.factors:
                product = product * self.of(factor) % P
            return product
        if isinstance(expr, Div):
            return self.of(expr.top) * inverse(self.of(expr.bottom)) % P
        if isinstance(expr, Pow):
            return self.power(expr.base, expr.exponent)
        if isinstance(expr, Const):
            return self.constant(expr.name)
        if isinstance(expr, Func):
            return self.function(expr)
        if isinstance(expr, Apply):
            return element("apply", expr.name, *(self.of(argument) for argument in expr.args))
        if isinstance(expr, Unevaluated):
            self.is_free = False
            return element("unevaluated", expr.kind, expr.over, self.of(expr.body))
        raise TooBig(f"{type(expr).__name__} has no value")

    def constant(self, name: str) -> int:
        if name == "i":
            return I
        if name in ("pi", "e"):
            return pow(name_root(f"constant {name}"), 12, P)
        if name == "degree":
            return self.constant("pi") * residue(DEGREE_SHARE) % P
        self.is_free = False
        return element("constant", name)

    def function(self, expr: Func) -> int:
        name, args = expr.name, expr.args
        if name == "root":
            index = exact_value(args[1])
            if index is None:
                return self.opaque("root", self.of(args[0]), self.of(args[1]))
            if index.denominator != 1 or index < 1:
                raise Undefined("a root has a positive integer index")
            return self.rational_power(args[0], 1 / index)
        if name == "log":
            return self.logarithm(args)
        if name in _CIRCULAR:
            turn = self.rotation(args[0])
            back = inverse(turn)
            sine = (turn - back) * _MINUS_HALF_I % P
            cosine = (turn + back) * _HALF % P
            return _ratio(_CIRCULAR[name], sine, cosine)
        if name in _HYPERBOLIC:
            grown = self.exponential(args[0])
            back = inverse(grown)
            return _ratio(_HYPERBOLIC[name], (grown - back) * _HALF % P, (grown + back) * _HALF % P)
        values = [exact_value(argument) for argument in args]
        if all(value is not None for value in values):
            known = function_value(name, [value for value in values if value is not None])
            if known is not None:
                return residue(known)
        if name in ("abs", "floor", "ceil", "sgn", "max", "min", "conj", "re", "im"):
            found = self.ordered(name, args)
            if found is not None:
                return found
        if name in ("gcd", "lcm", "max", "min"):
            return self.opaque(name, *sorted(self.of(argument) for argument in args))
        if name in ANGLES and not variables(args[0]):
            angle = self.known_angle(name, args[0])
            if angle is not None:
                return angle
        if name in ("arcsin", "arctan"):
            value = self.of(args[0])
            if value > P - value:
                return -self.opaque(name, P - value) % P
            return self.opaque(name, value) if value else 0
        return self.opaque(name, *(self.of(argument) for argument in args))

    def known_angle(self, name: str, argument: Expr) -> int | None:
        """arcsin, arccos, arctan of a constant, if it is a multiple of pi/60: guessed with doubles, then proved."""
        bounds = real_interval(Func(name, (argument,)))
        if bounds is None:
            return None
        sixtieths = (bounds[0] + bounds[1]) / 2 / math.pi * 60
        count = round(sixtieths)
        if abs(sixtieths - count) > 1e-6:
            return None
        angle = Mul((Num(Fraction(count, 60)), Const("pi")))
        proof = _Image()
        if proof.of(Func(ANGLES[name], (angle,))) != proof.of(argument):
            return None
        return self.of(angle)

    def ordered(self, name: str, args: tuple[Expr, ...]) -> int | None:
        """A function of real constants that depends only on their order: |1 - sqrt 2|, floor(pi), max(2, e)."""
        if any(variables(argument) for argument in args):
            return None
        bounds = [real_interval(argument) for argument in args]
        if any(bound is None for bound in bounds):
            return None
        intervals = [bound for bound in bounds if bound is not None]
        low, high = intervals[0]
        if name in ("conj", "re"):
            return self.of(args[0])
        if name == "im":
            return 0
        if name in ("max", "min"):
            pick = max if name == "max" else min
            best = pick(range(len(args)), key=lambda k: intervals[k])
            for k, (other_low, other_high) in enumerate(intervals):
                if k != best and not (
                    other_high < intervals[best][0] if name == "max" else other_low > intervals[best][1]
                ):
                    return None
            return self.of(args[best])
        if name in ("abs", "sgn"):
            if low <= 0 <= high:
                return None
            sign = 1 if low > 0 else -1
            return sign * (self.of(args[0]) if name == "abs" else 1) % P
        whole = math.floor if name == "floor" else math.ceil
        return whole(low) % P if whole(low) == whole(high) else None

    def logarithm(self, args: tuple[Expr, ...]) -> int:
        """ln of a positive rational is a sum over its primes; ln of a power of e is its exponent."""
        top = self.natural_logarithm(args[0])
        if len(args) == 1 or args[1] == _CONST_E:
            return top
        return top * inverse(self.natural_logarithm(args[1])) % P

    def natural_logarithm(self, expr: Expr) -> int:
        value = exact_value(expr)
        if value is not None:
            if value == 0:
                raise Undefined("the logarithm of zero")
            if value < 0:
                return self.opaque("log", residue(value))
            total = 0
            for q, count in (factored_fraction(value) or {}).items():
                if q > 9409:
                    self.is_free = False  # it may be a product of known primes
                total += count * element("log", q)
            return total % P
        if expr == _CONST_E:
            return 1
        if isinstance(expr, Pow) and not variables(expr):
            exponent = exact_value(expr.exponent)
            if exponent is not None and real_interval(expr.base, positive=True):
                return residue(exponent) * self.natural_logarithm(expr.base) % P
            if expr.base == _CONST_E and real_interval(expr.exponent):
                return self.of(expr.exponent)
        if isinstance(expr, Func) and expr.name == "root" and not variables(expr):
            index = exact_value(expr.args[1])
            if index and real_interval(expr.args[0], positive=True):
                return self.natural_logarithm(expr.args[0]) * residue(1 / index) % P
        return self.opaque("log", self.of(expr))


def _ratio(kind: str, sine: int, cosine: int) -> int:
    if kind == "s":
        return sine
    if kind == "c":
        return cosine
    if kind == "s/c":
        return sine * inverse(cosine) % P
    if kind == "c/s":
        return cosine * inverse(sine) % P
    return inverse(cosine if kind == "1/c" else sine)


ANGLES = dict(zip(words("arcsin arccos arctan arccot arcsec arccsc"), words("sin cos tan cot sec csc"), strict=True))
_CIRCULAR = {"sin": "s", "cos": "c", "tan": "s/c", "cot": "c/s", "sec": "1/c", "csc": "1/s"}
_HYPERBOLIC = {"sinh": "s", "cosh": "c", "tanh": "s/c", "coth": "c/s", "sech": "1/c", "csch": "1/s"}
