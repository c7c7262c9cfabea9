"""Powers, exponentials and rotations in the field: b^(sum of c_k t_k) as a product of free elements."""

import functools
from collections.abc import Callable
from fractions import Fraction

from rlvr_verifiers.mathcheck.algebra.residues import (
    MAX_FACTORED_BITS,
    ORDER,
    TWELFTH_ROOTS,
    ZETA_120,
    I,
    P,
    element,
    factored_fraction,
    name_root,
    residue,
    square_root,
)
from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value, root, whole_root
from rlvr_verifiers.mathcheck.tree.nodes import Add, Const, Div, Expr, Mul, Num, Var

_CONST_E = Const("e")
_CONST_I = Const("i")
DEGREE_SHARE = Fraction(1, 180)


class Powers:
    """One evaluation; `is_free` becomes False at the first value that the model may not distinguish."""

    def __init__(self) -> None:
        self.is_free = True

    def of(self, expr: Expr) -> int:
        """The image of an expression."""
        raise NotImplementedError

    def constant(self, name: str) -> int:
        """The image of a constant by its name."""
        raise NotImplementedError

    def opaque(self, name: str, *values: int) -> int:
        """An element for a function of which the model knows only the arguments."""
        self.is_free = False
        return element("function", name, *values)

    def power(self, base: Expr, exponent: Expr) -> int:
        value = exact_value(exponent)
        if value is not None:
            if value.denominator == 1:
                return self.whole_power(self.of(base), value.numerator)
            return self.rational_power(base, value)
        if base == _CONST_E:
            return self.exponential(exponent)
        constant = exact_value(base)
        if constant is not None and constant > 0:
            return self.power_of_number(constant, exponent)
        if constant is not None and constant < 0:
            sign = self.symbolic_power("minus one", exponent, lambda share: self.signed(-1, share))
            self.is_free = False  # (-1)^n = cos(n pi) for integers n
            return sign * self.power_of_number(-constant, exponent) % P
        value_of_base = self.of(base)
        found = self.symbolic_power(f"base {value_of_base}", exponent, lambda share: self.signed(value_of_base, share))
        self.is_free = False
        return found

    def signed(self, base: int, share: Fraction) -> int:
        """A rational power of an element: exact for an integer exponent, else opaque."""
        if share.denominator == 1:
            return self.whole_power(base % P, share.numerator)
        return self.opaque("power", base % P, share.numerator, share.denominator)

    @staticmethod
    def whole_power(base: int, exponent: int) -> int:
        if base == 0:
            if exponent < 0:
                raise Undefined("zero has no negative power")
            return 1 if exponent == 0 else 0
        return pow(base, exponent % ORDER, P)

    def rational_power(self, base: Expr, exponent: Fraction) -> int:
        """base ** exponent, with the positive root of a positive base and the real odd root of a negative one."""
        twelfths = exponent * 12
        if twelfths.denominator == 1:
            if isinstance(base, Var):
                return self.whole_power(name_root(base.name), twelfths.numerator)
            if isinstance(base, Const) and base.name in ("pi", "e"):
                return self.whole_power(name_root(f"constant {base.name}"), twelfths.numerator)
        constant = exact_value(base)
        if constant is None:
            return self.opaque("power", self.of(base), exponent.numerator, exponent.denominator)
        if constant == 0:
            return self.whole_power(0, 1 if exponent > 0 else -1)
        if constant < 0:
            if exponent.denominator % 2:
                sign = -1 if exponent.numerator % 2 else 1
                return sign * self.positive_power(-constant, exponent) % P
            if exponent.denominator == 2:
                return pow(I, exponent.numerator % 4, P) * self.positive_power(-constant, exponent) % P
            return self.opaque("power", residue(constant), exponent.numerator, exponent.denominator)
        return self.positive_power(constant, exponent)

    def positive_power(self, base: Fraction, exponent: Fraction) -> int:
        """A rational power of a positive rational, prime by prime."""
        exact = root(base, exponent.denominator)
        if exact is not None:
            return self.whole_power(residue(exact), exponent.numerator)
        product = 1
        for q, count in (factored_fraction(base) or {}).items():
            product = product * self.prime_power(q, exponent * count) % P
        return product

    def prime_power(self, q: int, exponent: Fraction) -> int:
        if exponent.denominator == 1:
            return self.whole_power(q, exponent.numerator)
        twelfths = exponent * 12
        if q in TWELFTH_ROOTS and twelfths.denominator == 1:
            return self.whole_power(TWELFTH_ROOTS[q], twelfths.numerator)
        if exponent.denominator == 2 and q < 100:
            return self.whole_power(square_root(q), exponent.numerator)
        if q > 9409 and q.bit_length() <= MAX_FACTORED_BITS:
            for index in (2, 3, 5, 7):  # the rest may be a power itself
                inner = whole_root(q, index)
                if inner is not None:
                    return self.positive_power(Fraction(inner), exponent * index)
        whole, part = divmod(exponent, 1)
        self.is_free = False  # the model does not know its square
        unit = element("root", q, part.denominator)
        return self.whole_power(q, int(whole)) * self.whole_power(unit, part.numerator) % P

    def power_of_number(self, base: Fraction, exponent: Expr) -> int:
        """base ** exponent for a symbolic exponent: 4^n and 2^{2n} agree."""
        product = 1
        for q, count in (factored_fraction(base) or {}).items():
            product = (
                product * self.symbolic_power(f"prime {q}", exponent, functools.partial(self.prime_power, q), count) % P
            )
        return product

    def symbolic_power(self, name: str, exponent: Expr, constant: Callable[[Fraction], int], times: int = 1) -> int:
        """b^(sum of c_k t_k) as the product of (b^t_k)^c_k; `constant` gives b^c for a number c."""
        product = 1
        for rest, share in self.linear(exponent, times).items():
            if rest == 0:
                product = product * constant(share) % P
            else:
                product = product * self.share(element("power", name, rest), share) % P
        return product

    def share(self, atom: int, share: Fraction) -> int:
        """atom ** share for an atom that is a 12-th power by construction."""
        twelfths = share * 12
        if twelfths.denominator != 1:
            self.is_free = False
            atom = element("part", atom, twelfths.denominator)
        return self.whole_power(atom, twelfths.numerator)

    def linear(self, expr: Expr, share: Fraction | int = 1) -> dict[int, Fraction]:
        """An expression as {image of a part: rational factor}; the key 0 is the constant part 1."""
        found: dict[int, Fraction] = {}
        self.collect(expr, Fraction(share), found)
        return {key: value for key, value in found.items() if value}

    def collect(self, expr: Expr, share: Fraction, found: dict[int, Fraction]) -> None:
        constant = exact_value(expr)
        if constant is not None:
            found[0] = found.get(0, Fraction(0)) + share * constant
            return
        if isinstance(expr, Add):
            for term in expr.terms:
                self.collect(term, share, found)
            return
        if isinstance(expr, Div):
            below = exact_value(expr.bottom)
            if below:
                self.collect(expr.top, share / below, found)
                return
        if isinstance(expr, Mul):
            rest: list[Expr] = []
            for factor in expr.factors:
                value = exact_value(factor)
                if value is None:
                    rest.append(factor)
                else:
                    share *= value
            if len(rest) == 1:
                self.collect(rest[0], share, found)
                return
            sums = [factor for factor in rest if isinstance(factor, Add | Div)]
            if len(sums) == 1:
                others = tuple(factor for factor in rest if factor is not sums[0])
                inner = sums[0]
                if isinstance(inner, Add):
                    for term in inner.terms:
                        self.collect(Mul((term, *others)), share, found)
                    return
                below = exact_value(inner.bottom)
                if isinstance(inner, Div) and below:
                    self.collect(Mul((inner.top, *others)), share / below, found)
                    return
            expr = Mul(tuple(rest))
        if expr == Const("degree"):
            expr, share = Const("pi"), share * DEGREE_SHARE
        self.is_free = self.is_free and isinstance(expr, Var | Const)
        key = self.of(expr)
        if key:
            found[key] = found.get(key, Fraction(0)) + share

    def exponential(self, exponent: Expr) -> int:
        """e ** exponent: an imaginary part is an angle."""
        product = 1
        parts = exponent.terms if isinstance(exponent, Add) else (exponent,)
        for part in parts:
            angle = _without_i(part)
            if angle is not None:
                product = product * self.rotation(angle) % P
                continue
            for rest, share in self.linear(part).items():
                if rest == 0:
                    twelfths = share * 12
                    if twelfths.denominator == 1:
                        unit = name_root("constant e")
                        product = product * self.whole_power(unit, twelfths.numerator) % P
                        continue
                product = product * self.share(element("exp", rest), share) % P
        return product

    def rotation(self, angle: Expr) -> int:
        """e ** (i angle): a root of unity for multiples of pi/60, and free in every other part."""
        pi = self.constant("pi")
        product = 1
        for rest, share in self.linear(angle).items():
            if rest == pi and (share * 60).denominator == 1:
                product = product * pow(ZETA_120, int(share * 60) % 120, P) % P
            else:
                if rest == pi:
                    self.is_free = False
                product = product * self.share(element("rotation", rest), share) % P
        return product


def _without_i(expr: Expr) -> Expr | None:
    """The angle of a term i*angle; None for a term without the factor i."""
    if expr == _CONST_I:
        return Num(Fraction(1))
    if isinstance(expr, Mul) and sum(factor == _CONST_I for factor in expr.factors) == 1:
        return Mul(tuple(f if f != _CONST_I else Num(Fraction(1)) for f in expr.factors))
    if isinstance(expr, Mul):
        for place, factor in enumerate(expr.factors):
            if isinstance(factor, Div):
                inner = _without_i(factor)
                if inner is not None:
                    return Mul((*expr.factors[:place], inner, *expr.factors[place + 1 :]))
    if isinstance(expr, Div):
        top = _without_i(expr.top)
        return None if top is None else Div(top, expr.bottom)
    return None
