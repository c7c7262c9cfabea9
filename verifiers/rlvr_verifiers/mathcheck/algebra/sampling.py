"""Compares two expressions at seeded points: doubles prove that they differ, mpmath accepts that they are equal.

The points are reals at which both are real: positive, negative and large ones, and |x| < 1 for arcsin. Complex values
count only if i occurs or no point gives real values. Variables in a factorial, in a binomial coefficient or in the
exponent of a negative base are integers.
"""

import hashlib
import math
from collections.abc import Iterator
from enum import StrEnum
from fractions import Fraction

from rlvr_verifiers.mathcheck.algebra.kernels import DOUBLES, Kernel, Precise, Undetermined, Value
from rlvr_verifiers.mathcheck.algebra.numeric import is_apart, value_at
from rlvr_verifiers.mathcheck.text.vocabulary import words
from rlvr_verifiers.mathcheck.tree.nodes import Const, Expr, Func, Mul, Num, Pow, variables, walk

# (low, high) of the sampling ranges in thousandths, in the order in which they are tried
_REGIMES = (
    (300, 3000), (-9000, -1500), (50, 950), (2000, 12_000), (-12_000, 12_000), (-950, -50), (1000, 4000),
    (-3000, -300), (3000, 7000), (-950, 950), (10_000, 90_000), (-90_000, 90_000), (100, 900), (-6000, 1000),
)  # fmt: skip
_WANTED_IN_DOUBLES = 14
_WANTED_PRECISELY = 4
_ENOUGH = 2  # real points; with fewer, complex values count too
_DIGITS = 60
_MAX_EXTRA_DIGITS = 1000
_RESOLVED = 10.0**-30
_ROUNDS = 3
_I = Const("i")
_OF_INTEGERS = frozenset(words("factorial double_factorial binom gcd lcm mod"))


class Relation(StrEnum):
    """The relation that gold answer and answer must have at all points."""

    EQUAL = "equal"
    PROPORTIONAL = "proportional"  # gold = c * answer, c != 0
    SHIFTED = "shifted"  # gold = answer + c


def differ(gold: Expr, answer: Expr, relation: Relation, seed: bytes) -> bool:
    """Whether doubles show that the relation fails at some point; False proves nothing."""
    pairs = _values(gold, answer, seed, DOUBLES, _WANTED_IN_DOUBLES)
    try:
        if relation is Relation.EQUAL:
            return any(is_apart(first, second) for first, second in pairs)
        return any(is_apart(*pair) for pair in _derived(list(pairs), relation))
    except Undetermined:
        return False


def agree(gold: Expr, answer: Expr, relation: Relation, seed: bytes) -> bool | None:
    """Whether the relation holds at every point to a relative accuracy of 30 digits; None if no point decides.

    The precision grows with the size of the literals, and doubles while both sides cancel to less than their error.
    """
    digits = _DIGITS + min(max(_digits(gold), _digits(answer)), _MAX_EXTRA_DIGITS)
    for _ in range(_ROUNDS):
        kernel = Precise(digits)
        try:
            pairs = list(_values(gold, answer, seed, kernel, _WANTED_PRECISELY))
        except Undetermined:
            return None
        derived = _derived(pairs, relation)
        if not derived:
            return None
        if any(is_apart(first, second) for first, second in derived):
            return False
        if all(_is_resolved(first, second) for first, second in derived):
            return True
        digits *= 2
    return True  # both are zero to 240 digits


def seed_of(*parts: object) -> bytes:
    """A seed for the points, derived from the expressions."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _is_resolved(first: Value, second: Value) -> bool:
    size = max(abs(first[0]), abs(second[0]))
    return bool(first[1] + second[1] <= _RESOLVED * size)


def _values(gold: Expr, answer: Expr, seed: bytes, kernel: Kernel, wanted: int) -> Iterator[tuple[Value, Value]]:
    """The values of both at the points where both can be evaluated.

    Raises:
        Undetermined: there is no such point.
    """
    names = variables(gold) | variables(answer)
    integers = _integers(gold) | _integers(answer)
    is_complex = not names or any(node == _I for expr in (gold, answer) for node in walk(expr))
    count = 0
    for real in (False,) if is_complex else (True, False):
        for point in _points(names, integers, seed):
            try:
                first = value_at(gold, point, kernel, real=real)
                second = value_at(answer, point, kernel, real=real)
            except Undetermined:
                if not names:
                    raise
                continue
            yield first, second
            count += 1
            if count >= wanted:
                return
        if count >= _ENOUGH:
            return
    if not count:
        raise Undetermined("no point where both have a value")


def _derived(pairs: list[tuple[Value, Value]], relation: Relation) -> list[tuple[Value, Value]]:
    """Pairs of values that are equal if and only if the relation holds."""
    if relation is Relation.EQUAL or not pairs:
        return pairs
    (gold, answer), *others = pairs
    if relation is Relation.SHIFTED:
        return [(_minus(g, gold), _minus(a, answer)) for g, a in others]
    return [(_times(g, answer), _times(a, gold)) for g, a in others]


def _minus(first: Value, second: Value) -> Value:
    return first[0] - second[0], (first[1] + second[1]) * 2


def _times(first: Value, second: Value) -> Value:
    (a, ea), (b, eb) = first, second
    return a * b, (abs(a) * eb + abs(b) * ea + ea * eb) * 2


def _points(names: frozenset[str], integers: frozenset[str], seed: bytes) -> Iterator[dict[str, Fraction]]:
    """The points in the order in which they are tried; one empty point if there are no variables."""
    if not names:
        yield {}
        return
    ordered = sorted(names)
    for count, (low, high) in enumerate(_REGIMES * 2):
        point: dict[str, Fraction] = {}
        for name in ordered:
            key = seed + count.to_bytes(2, "big") + name.encode()
            draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64
            if name in integers:
                first = 10 if name.lower().startswith(("n", "m")) else 2
                point[name] = Fraction(first + count // 2 + int(draw * (10 + count)))
            else:  # dyadic, so that a double represents it exactly
                thousandths = low + draw * (high - low)
                point[name] = Fraction(round(thousandths * 2**20 / 1000), 2**20)
        yield point


def _integers(expr: Expr) -> frozenset[str]:
    """The variables that must be integers for the expression to be defined."""
    found: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Func) and node.name in _OF_INTEGERS:
            found.update(name for argument in node.args for name in variables(argument))
        elif isinstance(node, Pow) and _is_negative(node.base):
            found.update(variables(node.exponent))
    return frozenset(found)


def _is_negative(base: Expr) -> bool:
    if isinstance(base, Mul):
        return _is_negative(base.factors[0]) and not variables(base)
    return (isinstance(base, Num) and base.value < 0) or base == Const("i")


def _digits(expr: Expr) -> int:
    """Roughly the number of decimal digits between the largest and the smallest literal of a tree."""
    total = 0.0
    for node in walk(expr):
        if isinstance(node, Num):
            size = max(node.value.numerator.bit_length(), node.value.denominator.bit_length())
            total += size * 0.302 if size > 16 else 0
        elif isinstance(node, Pow) and isinstance(node.exponent, Num):
            base = node.base.value if isinstance(node.base, Num) else Fraction(4)
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            count = abs(node.exponent.value)
            total += min(float(count) if count < 10**6 else 1e6, 1e6) * size * 0.302
        elif isinstance(node, Func) and node.name == "factorial":
            argument = node.args[0]
            count = float(min(argument.value, 3000)) if isinstance(argument, Num) else 20.0
            total += count * math.log10(max(count, 2))
    return int(min(total, _MAX_EXTRA_DIGITS))
