"""Arithmetic modulo the prime P of `field`: its roots of unity, roots of primes, and elements for names.

P - 1 is divisible by 8, 9 and every prime up to 97, so that by quadratic reciprocity -1 and these primes are squares.
P was chosen so that 2, 3, 5 and 7 have 12-th roots.
"""

import functools
import hashlib
from fractions import Fraction

from rlvr_verifiers.mathcheck.tree.exact import Undefined

P = 464266318645721344665364811466698550520360801
ORDER = P - 1
ZETA_120 = 97277993289056584833110297623733512409255121  # a primitive 120-th root of unity
TWELFTH_ROOTS = {  # t with t^12 = q; t^6 is the square root that is consistent with ZETA_120
    2: 449806638260785596443041216391652876154624948,
    3: 291098940500977492165509449306694521809162549,
    5: 178586731899387441517568564112231397210462608,
    7: 261654938996973988009006421818560428509983598,
}
I = pow(ZETA_120, 30, P)  # noqa: E741 - the imaginary unit
_SMALL_PRIMES = tuple(q for q in range(2, 98) if all(q % d for d in range(2, q)))
_NON_RESIDUE = 127
MAX_FACTORED_BITS = 2000


def element(*key: str | int) -> int:
    """A fixed pseudo-random element, never 0, for a key of strings and integers."""
    text = "/".join(hex(part) if isinstance(part, int) else part for part in key)
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    return int.from_bytes(digest, "big") % (P - 1) + 1


@functools.lru_cache(maxsize=1024)
def name_root(name: str) -> int:
    """A 12-th root of a variable's element, so that its roots up to the 12-th exist in the field."""
    return element("variable", name)


@functools.lru_cache(maxsize=256)
def square_root(q: int) -> int:
    """A square root of a prime below 100 modulo P; those of 2, 3 and 5 are consistent with the roots of unity."""
    twelfth = TWELFTH_ROOTS.get(q)
    if twelfth is not None:
        return pow(twelfth, 6, P)
    odd, twos = ORDER, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    c = pow(_NON_RESIDUE, odd, P)
    x = pow(q, (odd + 1) // 2, P)
    t = pow(q, odd, P)
    while t != 1:
        order, square = 0, t
        while square != 1:
            square = square * square % P
            order += 1
        b = pow(c, 1 << (twos - order - 1), P)
        x = x * b % P
        c = b * b % P
        t = t * c % P
        twos = order
    return x


def residue(value: Fraction) -> int:
    if value.denominator == 1:
        return value.numerator % P
    return value.numerator * inverse(value.denominator % P) % P


def inverse(value: int) -> int:
    if value % P == 0:
        raise Undefined("it divides by zero")
    return pow(value, -1, P)


def _factored(value: int) -> tuple[dict[int, int], int]:
    """The exponents of the primes below 100 in a positive integer, and the remaining factor."""
    found: dict[int, int] = {}
    if value.bit_length() > MAX_FACTORED_BITS:
        return found, value
    for q in _SMALL_PRIMES:
        if value == 1:
            break
        while value % q == 0:
            found[q] = found.get(q, 0) + 1
            value //= q
    return found, value


def factored_fraction(value: Fraction) -> dict[int, int] | None:
    """The exponents of the primes and of the unfactored rest in a positive fraction."""
    found, rest = _factored(value.numerator)
    if rest != 1:
        found[rest] = found.get(rest, 0) + 1
    if value.denominator != 1:
        below, rest = _factored(value.denominator)
        if rest != 1:
            below[rest] = below.get(rest, 0) + 1
        for q, count in below.items():
            found[q] = found.get(q, 0) - count
    return found
