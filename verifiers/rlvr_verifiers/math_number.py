"""Numbers as people write them in answers, in exact arithmetic: `int` and `Fraction`, no sympy.

Whole numbers, decimals, thousands separators, fractions, mixed numbers, scientific notation, per
cent, degrees, money and a trailing unit. A decimal is the number that its digits say: 0.67 is
67/100 and not 2/3.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_MAX_CHARS = 300
_MAX_EXPONENT = 300
_UNICODE = str.maketrans({
    "−": "-", "–": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "°": "^\\circ", "π": "\\pi ",
    "∞": "\\infty ",
    "∪": "\\cup ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "％": "%", "，": ",", "（": "(", "）": ")",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "²": "^2", "³": "^3",
    "\u00a0": " ", "\u202f": " ",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
})  # fmt: skip
_SPACING = re.compile(
    r"\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|left(?![a-z])|right(?![a-z])|big+[lrm]?\b)|~"
)
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|rm|operatorname)\s*\{([^{}]*)\}"
)
_GROUPED = r"\d{1,3}(?:(?:,|\{,\})\d{3})+"
_DECIMAL = rf"(?:{_GROUPED}|\d+)(?:\.\d+)?|\.\d+"
_SCIENTIFIC = re.compile(
    rf"(?P<mantissa>{_DECIMAL})(?:[eE](?P<e>[+-]?\d+)"
    r"|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?P<p>\d+|\{\s*[+-]?\d+\s*\}))?"
)
_FRACTION = re.compile(
    rf"\\[dt]?frac\s*(?:\{{\s*(?P<n>-?(?:{_DECIMAL}))\s*\}}|(?P<n1>\d))"
    rf"\s*(?:\{{\s*(?P<d>-?(?:{_DECIMAL}))\s*\}}|(?P<d1>\d))"
)
_SLASH = re.compile(rf"(?P<n>{_DECIMAL})\s*/\s*(?P<d>{_DECIMAL})")
_PLAIN_MIXED = re.compile(r"(?P<whole>\d+)\s+(?P<n>\d+)\s*/\s*(?P<d>\d+)")
_DEGREE = re.compile(
    r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree\b|\\text\s*\{\s*degrees?\s*\}|degrees?\b)$"
)
_UNIT = re.compile(
    r"\s*(?P<unit>\\(?:text|mathrm|textrm|mbox|rm)\s*\{[^{}]*\}"
    r"|(?<![A-Za-z\\])(?<=\s)[A-Za-z][A-Za-z ]*[A-Za-z])"
    r"(?:\s*\^\s*\{?(?P<power>[23])\}?)?\s*$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """An exact value, with the unit that stood behind it ("" without one; degrees are `degree`)."""

    value: Fraction
    unit: str = ""


def tidy(text: str) -> str:
    """The answer without what only lays it out: dollars, spacing commands, `\\left`, emphasis, a
    final dot.
    """
    text = text.translate(_UNICODE).strip().strip("*").strip()
    text = text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",").replace("\\!", "")
    text = _SPACING.sub(" ", text)
    text = (
        text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    )
    text = text.removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]")
    text = text.strip().strip("$").strip()
    text = text.removesuffix(".").strip()
    whole = _TEXT.fullmatch(text)
    if whole:
        text = whole.group(1).strip()
    return re.sub(r"\s+", " ", text)


@lru_cache(maxsize=4096)
def parse_number(tidied: str) -> Number | None:
    """The number that a tidied text is, all of it; None when it is anything else.

    >>> parse_number("3 1/2").value, parse_number("2,500").value, parse_number("40%").value
    (Fraction(7, 2), Fraction(2500, 1), Fraction(2, 5))
    """
    text = tidied.strip()
    if not text or len(text) > _MAX_CHARS:
        return None
    text, sign = _sign(text)
    if text.startswith("$"):
        text = text[1:].strip()
        text, second = _sign(text)
        sign *= second
        number = _value(text)
        return None if number is None else Number(value=sign * number, unit="dollar")
    unit, divisor = "", 1
    if _DEGREE.search(text):
        text, unit = _DEGREE.sub("", text), "degree"
    elif text.endswith("%"):
        text, divisor = text[:-1].strip(), 100
    elif match := _UNIT.search(text):
        unit = unit_name(match["unit"], match["power"] or "")
        text = text[: match.start()].strip()
        if unit in ("percent", "per cent"):
            unit, divisor = "", 100
    value = _value(text.strip())
    return None if value is None else Number(value=sign * value / divisor, unit=unit)


def same_number(gold: Number, answer: Number) -> bool:
    """Equal values, and no two different units; a unit may be left out or added."""
    return gold.value == answer.value and (
        not gold.unit or not answer.unit or gold.unit == answer.unit
    )


def unit_name(text: str, power: str) -> str:
    """A unit in one spelling: no case, no plural, no LaTeX."""
    inner = _TEXT.sub(r"\1", text)
    name = re.sub(r"[^a-z/ ]", "", inner.casefold()).strip()
    name = name if len(name) < 4 else name.removesuffix("s")
    return name + (f"^{power}" if power and name else "")


def _sign(text: str) -> tuple[str, int]:
    if text[:1] in ("-", "+"):
        return text[1:].strip(), -1 if text[0] == "-" else 1
    return text, 1


def _value(text: str) -> Fraction | None:
    """The value of an unsigned number without unit."""
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int((match["e"] or match["p"] or "0").strip("{} "))
        if abs(exponent) > _MAX_EXPONENT:
            return None
        return _decimal(match["mantissa"]) * Fraction(10) ** exponent
    if match := _FRACTION.fullmatch(text):
        return _ratio(match["n"] or match["n1"], match["d"] or match["d1"])
    if match := _SLASH.fullmatch(text):
        return _ratio(match["n"], match["d"])
    if match := _PLAIN_MIXED.fullmatch(text):
        return _mixed(match["whole"], _ratio(match["n"], match["d"]))
    if (match := re.match(r"\d+\s*(?=\\frac)", text)) and (
        inner := _FRACTION.fullmatch(text, match.end())
    ):
        return _mixed(match.group(0), _ratio(inner["n"] or inner["n1"], inner["d"] or inner["d1"]))
    return None


def _mixed(whole: str, part: Fraction | None) -> Fraction | None:
    return None if part is None or not 0 <= part < 1 else int(whole) + part


def _ratio(numerator: str, denominator: str) -> Fraction | None:
    below = _decimal(denominator)
    return None if below == 0 else _decimal(numerator) / below


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace("{,}", "").replace(",", ""))
