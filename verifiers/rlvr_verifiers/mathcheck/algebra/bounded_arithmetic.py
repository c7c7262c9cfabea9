"""Arithmetic on values with first-order error bounds, over either kernel."""

import math
from fractions import Fraction
from typing import Any

from rlvr_verifiers.mathcheck.algebra.kernels import DOUBLES, Kernel, Undetermined, Value

MAX_GROWTH = 100_000  # |log| of a value
SAFETY = 8  # how many error bounds apart two values must be
_MAX_ANGLE = 1e12


class Arithmetic:
    """Operations on values over one kernel; with `real`, leaving the reals is an error."""

    def __init__(self, kernel: Kernel, real: bool) -> None:
        self.kernel = kernel
        self.real = real
        self.eps = kernel.eps

    def number(self, value: Fraction) -> Value:
        kernel = self.kernel
        found = kernel.number(value)
        return found, (0.0 if kernel.is_exact(value) else self.eps * abs(found))

    def times(self, first: Value, second: Value) -> Value:
        (a, ea), (b, eb) = first, second
        product = a * b
        self.check(product)
        return product, abs(a) * eb + abs(b) * ea + ea * eb + self.eps * abs(product)

    def over(self, first: Value, second: Value) -> Value:
        (a, ea), (b, eb) = first, second
        size = abs(b)
        if size <= 2 * eb:
            raise Undetermined("it may divide by zero")
        quotient = a / b
        self.check(quotient)
        return quotient, (ea + abs(quotient) * eb) / (size - eb) + self.eps * abs(quotient)

    def check(self, value: Any) -> None:
        if self.kernel is DOUBLES and not abs(value) < 1e300:
            raise Undetermined("it is too large for a double")

    def whole_power(self, value: Value, count: int) -> Value:
        a, ea = value
        size = abs(a)
        if count < 0:
            return self.over((1, 0.0), self.whole_power(value, -count))
        if size and count * abs(self.kernel.logarithm(size)) > MAX_GROWTH:
            raise Undetermined("a power is too large")
        if count == 0:
            return 1, 0.0
        found = a**count
        self.check(found)
        if not ea:
            return found, self.eps * abs(found) * count.bit_length()
        if size <= 2 * count * ea:
            return found, (size + ea) ** count
        relative = count * ea / size
        return found, abs(found) * (2 * relative + self.eps * (count.bit_length() + 1))

    def general_power(self, value: Value, power: Value) -> Value:
        if not value[0]:
            if value[1] or not self.kernel.is_real(power[0]) or power[0] <= 0:
                raise Undetermined("a power of zero")
            return 0, 0.0
        return self.exp(self.times(power, self.log(value)))

    def exp(self, value: Value) -> Value:
        a, ea = value
        if abs(a) > (700 if self.kernel is DOUBLES else MAX_GROWTH) or ea > 0.1:
            raise Undetermined("an exponential is too large")
        found = self.kernel.exp(a)
        return found, abs(found) * (2 * ea + self.eps * 2)

    def log(self, value: Value) -> Value:
        a, ea = value
        size = abs(a)
        if size <= 2 * ea:
            raise Undetermined("a logarithm of what may be zero")
        found = self.kept_real(self.kernel.log(a))
        return found, 2 * ea / size + self.eps * (abs(found) + self.eps)

    def sqrt(self, value: Value) -> Value:
        a, ea = value
        found = self.kept_real(self.kernel.sqrt(a))
        size = abs(a)
        if size <= 2 * ea:
            return found, self.kernel.sqrt(size + ea)
        return found, ea / abs(found) + self.eps * abs(found)

    def kept_real(self, value: Any) -> Any:
        if self.real and not self.kernel.is_real(value):
            raise Undetermined("it leaves the reals")
        return value

    def sin_cos(self, value: Value) -> tuple[Value, Value]:
        a, ea = value
        kernel = self.kernel
        if abs(a) > _MAX_ANGLE or ea > 0.1:
            raise Undetermined("an angle is too large")
        slope = 1.0
        if not kernel.is_real(a):
            if abs(a.imag) > 300:
                raise Undetermined("an angle is too large")
            slope = math.exp(abs(a.imag) + 0.1)
        error = slope * (ea + self.eps * 2)
        return (kernel.sin(a), error), (kernel.cos(a), error)

    def root(self, value: Value, index: Value) -> Value:
        count = self.whole(index)
        if count == 2:
            return self.sqrt(value)
        if not 1 <= count <= MAX_GROWTH:
            raise Undetermined("a root needs a positive index")
        share = self.number(Fraction(1, count))
        if count % 2 and self.is_negative(value):
            found = self.general_power((-value[0], value[1]), share)
            return -found[0], found[1]
        return self.general_power(value, share)

    def whole(self, value: Value) -> int:
        """The integer that a value equals within its error. Raises Undetermined if there is none."""
        a, ea = value
        if not self.kernel.is_real(a) or ea > 1e-6 or abs(a) > 1e15:
            raise Undetermined("not an integer")
        nearest = self.kernel.floor(a + 0.5)
        if abs(a - nearest) > SAFETY * ea:
            raise Undetermined("not an integer")
        return nearest

    def is_negative(self, value: Value) -> bool:
        return self.kernel.is_real(value[0]) and bool(value[0] < 0)

    def add_number(self, value: Value, number: int) -> Value:
        total = value[0] + number
        return total, value[1] + self.eps * (abs(value[0]) + 1)
