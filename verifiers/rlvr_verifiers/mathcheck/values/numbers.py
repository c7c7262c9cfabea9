r"""Numbers as people write them in answers, in exact arithmetic.

Whole numbers, decimals (also repeating), thousands separators, fractions, mixed numbers, scientific notation, per cent,
degrees with minutes and seconds, ordinals, "2.5 million", money, and a following unit. A decimal is taken literally:
0.67 is 67/100, not 2/3.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from rlvr_verifiers.mathcheck.text.languages import SCALES
from rlvr_verifiers.mathcheck.text.spelling import unwrapped_text
from rlvr_verifiers.mathcheck.text.units import Unit, conversion, is_known, parse_unit
from rlvr_verifiers.mathcheck.text.vocabulary import words

MAX_DIGITS = 1000
_MAX_EXPONENT = 1000


class Form(StrEnum):
    """How a number was written."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    RATIONAL = "rational"
    PERCENT = "percent"


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value and how it was written.

    Attributes:
        value: for a percentage, the number before the sign: 40 for 40%.
        unit: the unit after the number, degrees included; None if there is none.
        decimals: digits after the decimal point.
    """

    value: Fraction
    form: Form = Form.INTEGER
    unit: Unit | None = None
    decimals: int = 0


PLAIN = re.compile(r"-?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?")
INDIAN_THOUSANDS = re.compile(r"[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d+)?")
_DECIMAL = r"(?:(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+)"
_TEN = r"\s*(?:\\times|\\cdot|\*|[x×])\s*10\s*(?:\^|\*\*)\s*"
_EXPONENT = r"(?:\{{\s*(?P<{0}1>[+-]?\s*\d+)\s*\}}|(?P<{0}2>-?\d+)|\((?P<{0}3>[+-]?\d+)\))"
_SIDE = rf"(?:\{{\s*(-?\s*{_DECIMAL})\s*\}}|\s*(\d))"
_AND = r"\s*(?:and|\\text\{\s*and\s*\})\s*"
_WRAPPED = rf"(?:{_DECIMAL}|\(\s*{_DECIMAL}\s*\)|\{{\s*{_DECIMAL}\s*\}})"
_NUMBER = re.compile(
    r"(?P<repeating>\d*\.\d*)(?:\\(?:overline|bar|dot)\s*\{?\s*(?P<period1>\d+)\s*\}?|\((?P<period2>\d+)\))"
    rf"|(?P<mantissa>{_DECIMAL})(?:{_TEN}{_EXPONENT.format('p')}|[eE](?P<e>\+\d\d+|-?\d+)(?![\dA-Za-z]))"
    rf"|10\s*\^\s*{_EXPONENT.format('q')}"
    rf"|(?P<slash_whole>\d+)(?:\s+|{_AND})(?P<slash_top>\d+)\s*/\s*(?P<slash_bottom>\d+)"
    rf"|(?P<whole>\d+)(?:{_AND}|\s*)(?=\\frac)(?P<mixed>\\frac\s*(?:\{{\s*\d+\s*\}}|\s*\d)\s*(?:\{{\s*\d+\s*\}}|\d))"
    rf"|(?P<fraction>\\frac\s*{_SIDE}\s*{_SIDE})"
    rf"|(?P<top>{_WRAPPED})\s*(?:/|\\div|\\over)\s*(?P<bottom>{_WRAPPED})"
    rf"|(?P<decimal>{_DECIMAL})"
)
_FRACTION = re.compile(rf"\\frac\s*{_SIDE}\s*{_SIDE}")
_PERCENT = re.compile(
    r"\s*(?:\\text\s*\{\s*)?(?:%|per\s?cent(?:age)?(?:\s*points?)?|pct\.?)(?:\s*\})?(?:\s*\\text\s*\{[^{}]*\})?",
    re.IGNORECASE,
)
_ARC = re.compile(r"(?P<d>\d+(?:\.\d+)?)\s*\^\\circ\s*(?P<m>\d+(?:\.\d+)?)\s*'\s*(?:(?P<s>\d+(?:\.\d+)?)\s*(?:''|\"))?")
_CIRC = re.compile(r"\s*(?:\^\\circ|\\text\s*\{\s*degrees?\s*\}|degrees?|deg)\s*")
_ORDINAL = re.compile(r"\s*\^?\s*\{?\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)\s*\}?\s*\}?")
_SCALE = re.compile(
    r"\s*(?:\\text\s*\{)?\s*(hundred|thousand|million|billion|trillion|dozen)s?(?![a-z])\s*", re.IGNORECASE
)
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
_SYMBOLS = "$€£¥₹₩₽₪₺₫₦"
_CODES = "USD|EUR|GBP|INR|JPY|CNY|RMB|CHF|KRW|AUD|CAD|RUB|Rs|Fr"
_CURRENCY = re.compile(
    r"(?:\\text\s*\{)?\s*(?:US|USD|CAD|CA|C|AUD|AU|A|HKD?|NZ|NT|SGD?|S|R|Rs\.?)?\s*"
    rf"(?P<symbol>\\\$|[{_SYMBOLS}])\s*\}}?|(?:\\text\s*\{{\s*)?(?P<code>{_CODES})\.?\s*\}}?\s*(?=[-\d.])"
)
_UNIT_LIKE = re.compile(
    r"(?:\\(?:text|cdot|times|circ|Omega|mu|\$)|[^\W\d_]|[-{}^/ .'()\[\]$€£¥₹₩₽¢°,*]|(?<=[\^{-])[1-9])+"
)
_COMPOUND = re.compile(
    r"(?P<n>\d+(?:\.\d+)?(?:/\d+)?)\s*(?:\\text\s*\{\s*)?(?P<u>[A-Za-z]+\.?)\s*\}?\s*(?:,|and|\\text\{\s*,?\s*and\s*\})?\s*"
)
_FOREIGN_SCALES = sorted(SCALES, key=len, reverse=True)
_FIRST = f"-+.(\\{_SYMBOLS}"
_NOT_UNITS = frozenset(
    words(
        "sin cos tan cot sec csc log ln exp pi sqrt mod and or if for all where when with not no"
        " k n i e x y z the is times over base choose lambda inf infinity max min gcd lcm less"
        " greater than to"
    )
)
_REMARKS = frozenset([*words("only more left total AD CE A.D. C.E. each altogether away"), "in total"])
_SINGLE = frozenset(["m", "s", "g", "h", "L", "J", "N", "W", "V", "K", "A", "C", "T", "Å", "Ω"])
_FEET_AND_INCHES = re.compile(r"(?P<feet>\d{1,6})\s*'\s*(?P<inches>\d{1,2}(?:\.\d{1,6})?)\s*(?:''|\"|\^\s*\{?'')\}?")


def plain_number(text: str) -> Fraction | None:
    """The fast path: digits with at most thousands commas and a decimal point.

    >>> plain_number("1,234.50"), plain_number("12,34")
    (Fraction(2469, 2), None)
    """
    if len(text) > MAX_DIGITS or PLAIN.fullmatch(text) is None:
        return None
    return Fraction(text.replace(",", ""))


def parse_number(text: str, *, is_reference: bool = False) -> Number | None:
    r"""The number, if the whole tidied text is one; else None.

    Args:
        is_reference: do not read a single letter after a number as its unit ("5 m" may be five times m).

    >>> parse_number("3 1/2").value, parse_number("2,500").value, parse_number("40%").form
    (Fraction(7, 2), Fraction(2500, 1), <Form.PERCENT: 'percent'>)
    >>> parse_number(r"12^{\text{th}}").value, parse_number(r"0.1\overline{6}").value
    (Fraction(12, 1), Fraction(1, 6))
    """
    if not text or len(text) > MAX_DIGITS:
        return None
    if PLAIN.fullmatch(text):
        return _plain(text, 1)
    first = text[0]
    if not (first.isdigit() or first in _FIRST or (first.isupper() and _CURRENCY.match(text))):
        return None
    if not any(character.isdigit() for character in text):
        return None
    text, sign = _signed(text)
    if text.startswith("(") and text.endswith(")") and "," not in text:
        inner = text[1:-1]
        if "(" not in inner and ")" not in inner:
            text, second = _signed(inner.strip())
            sign *= second
    if (match := _CURRENCY.match(text)) and match.end():
        text, second = _signed(text[match.end() :].strip())
        return _money(text, sign * second, match["symbol"] or match["code"].casefold())
    return _quantity(text, sign, is_reference=is_reference)


def same_number(gold: Number, answer: Number) -> bool:
    """Whether the values are equal in compatible units; a unit may be omitted or added.

    One percent is a hundredth. Like a unit, the percent sign may be omitted, but it may not be added to a gold answer
    of absolute value 1 or less: 0.4 is 40%, not 0.4%.
    """
    if gold.form is Form.PERCENT or answer.form is Form.PERCENT:
        if gold.form is answer.form:
            return gold.value == answer.value
        if gold.unit is not None or answer.unit is not None:
            return False
        if gold.form is Form.PERCENT:
            return answer.value in (gold.value, gold.value / 100)
        return gold.value == answer.value / 100 or (gold.value == answer.value and abs(gold.value) > 1)
    if gold.unit is None or answer.unit is None:
        return gold.value == answer.value
    factor = conversion(gold.unit, answer.unit)
    return factor is not None and gold.value == answer.value * factor


def agrees_when_rounded(gold: Number, answer: Number, digits: int) -> bool:
    """Whether a decimal answer with at least `digits` significant digits is the gold answer rounded to as many places.

    >>> agrees_when_rounded(Number(Fraction(2, 3)), parse_number("0.667"), 3)
    True
    """
    if answer.form is not Form.DECIMAL or conversion(gold.unit, answer.unit) != 1:
        return False
    shown = str(abs(answer.value.numerator * 10**answer.decimals // answer.value.denominator))
    if len(shown) < digits:
        return False
    return abs(gold.value - answer.value) * 2 * 10**answer.decimals <= 1


def kind_name(number: Number) -> str:
    """integer, rational, decimal, percent, degrees or quantity, for reports."""
    if number.form is Form.PERCENT:
        return "percent"
    if number.unit is not None:
        return "degrees" if number.unit.dims == (("degree", 1),) else "quantity"
    return str(number.form)


def _plain(text: str, sign: int) -> Number:
    text = text.replace(",", "").replace(" ", "")
    if "." not in text:
        return Number(Fraction(sign * int(text)))
    decimals = len(text) - text.index(".") - 1
    form = Form.DECIMAL if decimals else Form.INTEGER
    return Number(sign * Fraction(text + ("0" if not decimals else "")), form, None, decimals)


def _signed(text: str) -> tuple[str, int]:
    if text[:1] in ("-", "+"):
        return text[1:].lstrip(), -1 if text[0] == "-" else 1
    return text, 1


def _money(text: str, sign: int, symbol: str) -> Number | None:
    text = text.replace(",", "") if INDIAN_THOUSANDS.fullmatch(text) else text
    inner = _quantity(text, sign, is_reference=False)
    if inner is None or inner.form is Form.PERCENT:
        return None
    unit = parse_unit(symbol)
    if inner.unit is not None and (inner.unit.dims != (unit.dims if unit else ())):
        # "$5 per hour" keeps the rate; "$5 dollars" and "$5 each" are dollars
        factors = dict(inner.unit.dims)
        if is_known(inner.unit) and unit is not None and all(power < 0 for power in factors.values()):
            unit = Unit(tuple(sorted({**factors, **dict(unit.dims)}.items())), inner.unit.factor * unit.factor)
    return Number(inner.value, inner.form, unit, inner.decimals)


def _quantity(text: str, sign: int, *, is_reference: bool) -> Number | None:
    if not text:
        return None
    match = _NUMBER.match(text)
    found = match and _core(match, sign)
    if match is None or found is None:
        return None
    rest = text[match.end() :]
    if not rest:
        return found
    value = found.value
    if _CIRC.fullmatch(rest):
        return Number(value, found.form, parse_unit("degree"), found.decimals)
    if _PERCENT.fullmatch(rest):
        return Number(value, Form.PERCENT, None, found.decimals)
    if match["decimal"] and match["decimal"].isdigit() and _ORDINAL.fullmatch(rest):
        return found
    if arc := _ARC.fullmatch(text):
        value = Fraction(arc["d"]) + Fraction(arc["m"]) / 60 + Fraction(arc["s"] or 0) / 3600
        return Number(sign * value, Form.RATIONAL, parse_unit("degree"))
    if "'" in text and (feet := _FEET_AND_INCHES.fullmatch(text)):
        total = Fraction(feet["feet"]) + Fraction(feet["inches"]) / 12
        return Number(sign * total, Form.RATIONAL, parse_unit("foot"))
    if _UNIT_LIKE.fullmatch(rest) is None:
        return _compound(text, sign) if match["decimal"] and value else None
    name = unwrapped_text(rest).strip()
    if name.startswith("-"):
        name = name[1:].strip()
        if not name[:1].isalpha():
            return None
    scale = 1
    if not name.isascii():
        mark = next((mark for mark in _FOREIGN_SCALES if name.startswith(mark)), "")
        scale, name = SCALES.get(mark, 1), name.removeprefix(mark).strip()
    while scaled := _SCALE.match(name):
        scale *= _SCALES[scaled[1].casefold()]
        name = name[scaled.end() :].strip()
    unit = None
    if name and name.strip("() ") not in _REMARKS:
        is_apart = rest[0] != name[0]
        if not _may_be_unit(rest, name, is_apart=is_apart, is_reference=is_reference):
            return None
        unit = parse_unit(name.replace("{", "").replace("}", ""))
        if unit is None:
            return None
    return Number(value * scale, found.form, unit, found.decimals)


def _may_be_unit(written: str, name: str, *, is_apart: bool, is_reference: bool) -> bool:
    """Whether letters after a number may be a unit rather than variables."""
    if name.startswith(("\\cdot", "\\times", "*", "/", "(", ")", "{", "}", ",", ".", "'")):
        return False
    if not name.isascii():
        return True
    if "\\text" in written or "\\mu" in written or not name[0].isalpha():
        return not name.startswith("\\mu") or is_known_unit(name)
    parts = re.findall(r"[A-Za-z]+", name)
    if parts[0].casefold() in _NOT_UNITS and parts[0] != "K":
        return False
    unit = parse_unit(name)
    if unit is None:
        return False
    if len(parts[0]) == 1:
        has_power = bool(re.search(r"\^\s*\{?\s*-?[1-9]", name)) or "/" in name
        if is_reference:  # "5 m/s" cannot be a product of variables; "5 m" can
            return has_power and is_apart and all(map(is_known_unit, parts))
        return parts[0] in _SINGLE and (has_power or is_apart)
    if is_known(unit):
        return True
    return len(parts[0]) >= 4 and any(vowel in parts[0].casefold() for vowel in "aeiou")


def is_known_unit(name: str) -> bool:
    unit = parse_unit(name)
    return unit is not None and is_known(unit)


def _compound(text: str, sign: int) -> Number | None:
    """ "1 hour 30 minutes" or "5 feet 3 inches" as one number in the first unit."""
    total, first, position, count = Fraction(0), None, 0, 0
    while position < len(text):
        match = _COMPOUND.match(text, position)
        if match is None or match.end() == position or match["n"].endswith("/0"):
            return None
        unit = parse_unit(match["u"])
        if unit is None or not is_known(unit) or (first is not None and unit.dims != first.dims):
            return None
        first = first or unit
        total += Fraction(match["n"]) * unit.factor / first.factor
        position = match.end()
        count += 1
    return Number(sign * total, Form.RATIONAL, first) if count > 1 else None


def _core(match: re.Match[str], sign: int) -> Number | None:
    """The number that `_NUMBER` matched."""
    if (decimal := match["decimal"]) is not None:
        return _plain(decimal, sign)
    value: Fraction | None
    form, decimals = Form.RATIONAL, 0
    if match["fraction"] is not None:
        value = _fraction(match["fraction"])
    elif match["top"] is not None:
        value = _ratio(match["top"].strip("(){} "), match["bottom"].strip("(){} "))
    elif match["whole"] is not None or match["slash_whole"] is not None:
        if match["whole"] is not None:
            part = _fraction(match["mixed"])
        else:
            part = _ratio(match["slash_top"], match["slash_bottom"])
        whole = int(match["whole"] or match["slash_whole"])
        value = None if part is None or part >= 1 else whole + part
    elif match["repeating"] is not None:
        period = match["period1"] or match["period2"]
        whole_digits, fixed = match["repeating"].split(".")
        value = Fraction(int((whole_digits + fixed) or "0"), 10 ** len(fixed))
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    else:
        names = ("p1", "p2", "p3", "q1", "q2", "q3", "e")
        exponent = next(match[name] for name in names if match[name] is not None).replace(" ", "")
        if len(exponent) > 5 or abs(int(exponent)) > _MAX_EXPONENT:
            return None
        value = _decimal(match["mantissa"] or "1") * Fraction(10) ** int(exponent)
        form = Form.INTEGER if value.denominator == 1 else Form.RATIONAL
    return None if value is None else Number(sign * value, form, None, decimals)


def _fraction(text: str) -> Fraction | None:
    sides = _FRACTION.fullmatch(text)
    return sides and _ratio(sides[1] or sides[2], sides[3] or sides[4])


def _ratio(top: str, bottom: str) -> Fraction | None:
    below = _decimal(bottom)
    return None if below == 0 else _decimal(top) / below


def _decimal(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    return Fraction(text + "0" if text.endswith(".") else text)
