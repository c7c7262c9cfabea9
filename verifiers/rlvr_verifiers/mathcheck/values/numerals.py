"""Numbers in other notations: digits with their base as a subscript, points as thousands separators."""

import re
from fractions import Fraction

from rlvr_verifiers.mathcheck.values.answers import Based
from rlvr_verifiers.mathcheck.values.numbers import Number, parse_number

_BASED = re.compile(
    r"\(?(?:\\text\s*\{)?(?P<digits>[0-9A-Fa-f]+(?:[ ,][0-9A-Fa-f]{3,4})*)(?:\.(?P<fixed>[0-9A-Fa-f]+)"
    r")?\}?\)?\s*_\s*(?:\{?\s*(?:\\text\s*\{)?\s*\(?(?P<base>\d{1,2}|[a-z]+)\)?\s*\}*|(?P<one>\d))"
)
_IN_BASE = re.compile(
    r"([0-9A-Fa-f]+)\s*(?:\\text\s*\{)?\s*,?\s*\(?\s*(?:in |\s)?base[- ]?(?:\s*\}\s*)?(\d{1,2}|[a-z]+)\s*\)?\s*\}?$"
)
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16, "binary": 2, "octal": 8, "hex": 16,
}  # fmt: skip
_EUROPEAN = re.compile(
    r"(?P<whole>\d{1,3}(?:\.\d{3}){2,}(?=$)|\d{1,3}(?:(?:\.\d{3})+|(?: \d{3})+)(?=,))(?:,(?P<rest>\d{1,2}))?"
)


def based(text: str) -> Based | None:
    """Digits with their base as a subscript: 1011_2, (2A)_{16}."""
    if "base" in text:
        text = _IN_BASE.sub(r"\1_{\2}", text)
    if "_" not in text:
        return None
    sign = -1 if text.startswith("-") else 1
    match = _BASED.fullmatch(text.removeprefix("-").lstrip())
    if match is None:
        return None
    name = match["base"] or match["one"]
    base = int(name) if name.isdigit() else _BASE_WORDS.get(name, 0)
    digits = match["digits"].replace(" ", "").replace(",", "")
    fixed = match["fixed"] or ""
    if not 2 <= base <= 36 or len(digits + fixed) > 300 or not digits[0].isdigit():
        return None
    try:
        value = sign * Fraction(int(digits + fixed, base), base ** len(fixed))
    except ValueError:  # a digit that the base does not have
        return None
    return Based(value, base)


def european(text: str) -> Number | None:
    """1.250,75 and 2.450.300: points as thousands separators."""
    if match := _EUROPEAN.fullmatch(text):
        whole = re.sub("[. ]", "", match["whole"])
        return parse_number(f"{whole}.{match['rest']}" if match["rest"] else whole)
    return None
