"""The two number types for numerical values: doubles, and mpmath at a chosen precision."""

import cmath
import functools
import math
import threading
from fractions import Fraction
from typing import Any

Value = tuple[Any, Any]  # a number of the kernel (real or complex) and the bound on its error


class Undetermined(ArithmeticError):  # noqa: N818 - a finding about the value
    """The value cannot be determined at this precision, at this point or within the limits."""


class Doubles:
    """Python's floats and complex numbers."""

    eps = 2.0**-51
    pi = math.pi
    e = math.e
    i = 1j

    @staticmethod
    def number(value: Fraction) -> float:
        return value.numerator / value.denominator  # raises OverflowError when it is too large

    @staticmethod
    def is_exact(value: Fraction) -> bool:
        return value.denominator == 1 and abs(value.numerator) < 2**53

    @staticmethod
    def is_real(value: Any) -> bool:
        return type(value) is not complex

    @staticmethod
    def sqrt(x: Any) -> Any:
        return math.sqrt(x) if type(x) is not complex and x >= 0 else cmath.sqrt(x)

    @staticmethod
    def log(x: Any) -> Any:
        return math.log(x) if type(x) is not complex and x > 0 else cmath.log(x)

    @staticmethod
    def exp(x: Any) -> Any:
        return math.exp(x) if type(x) is not complex else cmath.exp(x)

    @staticmethod
    def sin(x: Any) -> Any:
        return math.sin(x) if type(x) is not complex else cmath.sin(x)

    @staticmethod
    def cos(x: Any) -> Any:
        return math.cos(x) if type(x) is not complex else cmath.cos(x)

    @staticmethod
    def asin(x: Any) -> Any:
        return math.asin(x) if type(x) is not complex and -1 <= x <= 1 else cmath.asin(x)

    @staticmethod
    def acos(x: Any) -> Any:
        return math.acos(x) if type(x) is not complex and -1 <= x <= 1 else cmath.acos(x)

    @staticmethod
    def atan(x: Any) -> Any:
        return math.atan(x) if type(x) is not complex else cmath.atan(x)

    floor = staticmethod(math.floor)
    logarithm = staticmethod(math.log)


class Precise:
    """mpmath with a given number of digits, in a separate context."""

    def __init__(self, digits: int) -> None:
        context = _context(threading.get_ident())
        context.dps = digits
        self._complex = context.mpc
        self._real = context.mpf
        self.eps = context.mpf(2) ** (3 - context.prec)
        self.pi = +context.pi
        self.e = +context.e
        self.i = context.mpc(0, 1)
        self.sqrt, self.log, self.exp = context.sqrt, context.log, context.exp
        self.sin, self.cos = context.sin, context.cos
        self._magnitude, self._floor = context.mag, context.floor
        self.asin, self.acos, self.atan = context.asin, context.acos, context.atan

    def number(self, value: Fraction) -> Any:
        return self._real(value.numerator) / value.denominator

    @staticmethod
    def is_exact(value: Fraction) -> bool:
        return value.denominator == 1 and abs(value.numerator) < 2**150

    def is_real(self, value: Any) -> bool:
        return not isinstance(value, self._complex)

    def logarithm(self, size: Any) -> float:
        """The approximate natural logarithm of a positive real, also of one outside the range of doubles."""
        return 0.6931 * int(self._magnitude(size)) if size != 1 else 0.0

    def floor(self, value: Any) -> int:
        return int(self._floor(value))


@functools.lru_cache(maxsize=16)
def _context(thread: int) -> Any:
    """An mpmath context per thread, separate from the global one, so that nobody else changes its precision."""
    import mpmath

    return mpmath.MPContext()


Kernel = Doubles | Precise
DOUBLES = Doubles()
