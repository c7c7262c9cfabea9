r"""Number literals: thousands separators, repeating decimals, powers of ten, fractions of integers."""

from fractions import Fraction

from rlvr_verifiers.mathcheck.tree.nodes import Div, Expr, Num, TooBig, Unreadable

_MAX_EXPONENT_OF_TEN = 5000


def number(text: str) -> Expr:
    r"""The exact value of a literal: 12, 1,234.5, 0.\overline{3}, 6.02e5."""
    if text.isdigit():
        return Num(Fraction(int(text)))
    if "\\" in text or "," in text:
        head, mark, tail = text.partition("\\overline")
        for other in ("\\bar", "\\dot"):
            if not mark:
                head, mark, tail = text.partition(other)
        for separator in ("{,}", ",", "\\!", "\\,", "\\ ", "\\"):
            head = head.replace(separator, "")
        if mark:
            return _repeating(head, tail)
        text = head
    mantissa, _, power = text.replace("E", "e").partition("e")
    if power:
        if len(power) > 6 or abs(int(power)) > _MAX_EXPONENT_OF_TEN:
            raise TooBig(f"the power of ten {power[:10]} is too large")
        return Num(Fraction(mantissa) * Fraction(10) ** int(power))
    return Num(Fraction(mantissa))


def _repeating(head: str, tail: str) -> Expr:
    """A repeating decimal: head 0.1, tail {6} is 1/6."""
    whole, dot, fixed = head.partition(".")
    digits = "".join(character for character in tail if character.isdigit())
    if not dot or len(tail) > len(digits) + 6:
        raise Unreadable("a repeating decimal needs a decimal point")
    scale = 10 ** len(fixed)
    period = Fraction(int(digits), (10 ** len(digits) - 1) * scale)
    return Num(Fraction(int((whole + fixed) or "0"), scale) + period)


def quotient(top: Expr, bottom: Expr) -> Expr:
    """top / bottom; a fraction of integers becomes one number."""
    if type(top) is Num and type(bottom) is Num and bottom.value:
        return Num(top.value / bottom.value)
    return Div(top, bottom)
