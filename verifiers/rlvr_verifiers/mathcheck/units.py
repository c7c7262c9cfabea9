r"""Units of measurement: what they measure and how large they are.

A unit is a product of powers of base dimensions with a rational factor: km/h is length^1 time^-1 with 5/18.
A name that is not in the table ("apples") is a dimension of its own.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

_Dims = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """`dims` is sorted; a count noun is the dimension `#noun`. `generic` is "units", which any unit may replace."""

    dims: _Dims
    factor: Fraction
    is_generic: bool = False


def _table() -> dict[str, tuple[str, int, Fraction]]:
    """Name -> (dimension, power, factor). Symbols keep their case, words are in lower case and singular."""
    f = Fraction
    length = {
        "nm nanometer nanometre": f(1, 10**9), "μm um micrometer micrometre micron": f(1, 10**6),
        "mm millimeter millimetre": f(1, 1000),
        "cm centimeter centimetre": f(1, 100), "dm decimeter decimetre": f(1, 10), "m meter metre": f(1),
        "km kilometer kilometre": f(1000),
        "inch in": f(254, 10000), "ft foot feet": f(3048, 10000), "yd yard": f(9144, 10000),
        "mi mile": f(1609344, 1000),
        "lightyear": f(9460730472580800), "furlong": f(201168, 1000),
    }  # fmt: skip
    mass = {
        "μg microgram": f(1, 10**9), "mg milligram": f(1, 10**6), "g gram gm": f(1, 1000), "kg kilogram kilo": f(1),
        "tonne ton": f(1000), "lb lbs pound": f(45359237, 10**8), "oz ounce": f(45359237, 16 * 10**8),
    }  # fmt: skip
    time = {
        "ns nanosecond": f(1, 10**9), "μs microsecond": f(1, 10**6), "ms millisecond": f(1, 1000),
        "s sec second": f(1),
        "min minute": f(60), "h hr hour": f(3600), "day": f(86400), "week wk": f(604800),
    }  # fmt: skip
    groups: list[tuple[str, int, dict[str, Fraction]]] = [
        ("length", 1, length), ("mass", 1, mass), ("time", 1, time),
        ("month", 1, {"month": f(1), "year yr": f(12), "decade": f(120), "century": f(1200)}),
        (
            "length", 3, {"mL ml milliliter millilitre cc": f(1, 10**6), "cL cl centiliter centilitre": f(1, 10**5),
            "dL dl"
        : f(1, 10**4),
                       "L l liter litre": f(1, 1000), "gallon gal": f(3785411784, 10**12),
                       "quart qt": f(3785411784, 4 * 10**12),
                       "pint pt": f(3785411784, 8 * 10**12)}),
        ("length", 2, {"acre": f(40468564224, 10**7), "hectare ha": f(10000)}),
        ("dollar", 1, {"\\$ $ dollar usd buck": f(1), "cent ¢": f(1, 100)}),
        ("euro", 1, {"€ euro eur": f(1)}), ("pound sterling", 1, {"£ gbp": f(1)}),
        ("yen", 1, {"¥ yen yuan rmb": f(1)}),
        ("rupee", 1, {"₹ rupee rs inr": f(1)}),
        ("degree", 1, {"degree deg ^\\circ": f(1)}), ("radian", 1, {"rad radian": f(1)}),
        ("celsius", 1, {"^\\circC °c celsius centigrade": f(1)}), ("fahrenheit", 1, {"^\\circF °f fahrenheit": f(1)}),
        ("kelvin", 1, {"K kelvin": f(1)}), ("ampere", 1, {"A ampere amp": f(1), "mA milliampere": f(1, 1000)}),
        ("mole", 1, {"mol mole": f(1), "mmol": f(1, 1000)}),
        ("hertz", 1, {"Hz hertz": f(1), "kHz": f(1000), "MHz": f(10**6), "GHz": f(10**9)}),
        ("volt", 1, {"V volt": f(1), "mV": f(1, 1000), "kV": f(1000)}), ("ohm", 1, {"ohm \\Omega": f(1)}),
        ("byte", 1, {"byte": f(1), "kb kilobyte": f(1000), "mb megabyte": f(10**6), "gb gigabyte": f(10**9)}),
        ("calorie", 1, {"cal calorie": f(1), "kcal kilocalorie": f(1000)}),
    ]  # fmt: skip
    return {
        name: (dimension, power, factor)
        for dimension, power, entries in groups
        for names, factor in entries.items()
        for name in names.split()
    }


_UNITS = _table()
_DERIVED: dict[str, tuple[_Dims, Fraction]] = {
    "mph": ((("length", 1), ("time", -1)), Fraction(1609344, 3600000)),
    "kmh": ((("length", 1), ("time", -1)), Fraction(5, 18)),
    "kph": ((("length", 1), ("time", -1)), Fraction(5, 18)),
    "kmph": ((("length", 1), ("time", -1)), Fraction(5, 18)),
    "fps": ((("length", 1), ("time", -1)), Fraction(3048, 10000)),
    "knot": ((("length", 1), ("time", -1)), Fraction(1852, 3600)),
    "N": ((("length", 1), ("mass", 1), ("time", -2)), Fraction(1)),
    "newton": ((("length", 1), ("mass", 1), ("time", -2)), Fraction(1)),
    "kN": ((("length", 1), ("mass", 1), ("time", -2)), Fraction(1000)),
    "J": ((("length", 2), ("mass", 1), ("time", -2)), Fraction(1)),
    "joule": ((("length", 2), ("mass", 1), ("time", -2)), Fraction(1)),
    "kJ": ((("length", 2), ("mass", 1), ("time", -2)), Fraction(1000)),
    "kilojoule": ((("length", 2), ("mass", 1), ("time", -2)), Fraction(1000)),
    "W": ((("length", 2), ("mass", 1), ("time", -3)), Fraction(1)),
    "watt": ((("length", 2), ("mass", 1), ("time", -3)), Fraction(1)),
    "kW": ((("length", 2), ("mass", 1), ("time", -3)), Fraction(1000)),
    "kilowatt": ((("length", 2), ("mass", 1), ("time", -3)), Fraction(1000)),
    "Pa": ((("length", -1), ("mass", 1), ("time", -2)), Fraction(1)),
    "pascal": ((("length", -1), ("mass", 1), ("time", -2)), Fraction(1)),
    "kPa": ((("length", -1), ("mass", 1), ("time", -2)), Fraction(1000)),
}
_FILLER = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "on",
        "at",
        "for",
        "to",
        "is",
        "are",
        "was",
        "were",
        "long",
        "wide",
        "tall",
        "high",
        "deep",
        "old",
        "away",
        "each",
        "total",
        "more",
        "less",
        "than",
        "left",
        "about",
        "approximately",
        "roughly",
        "around",
        "exactly",
        "only",
        "all",
        "altogether",
        "u.s.",
        "us",
    ]
)
_REFUSED = frozenset(
    [
        "or",
        "and",
        "not",
        "than",
        "least",
        "most",
        "if",
        "when",
        "where",
        "with",
        "minus",
        "plus",
        "times",
        "either",
        "both",
        "over",
        "is",
        "are",
        "was",
        "isn't",
        "can",
        "cannot",
        "will",
        "would",
        "should",
        "be",
        "too",
        "so",
        "power",
        "root",
        "false",
        "incorrect",
        "no",
        "factorial",
        "negative",
        "k",
        "wrong",
        "maybe",
        "but",
        "half",
        "halves",
        "third",
        "thirds",
        "quarters",
        "fourths",
        "fifths",
        "sixths",
        "eighths",
        "tenths",
        "hundredths",
        "thousandths",
        "millionths",
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "twenty",
        "hundred",
        "thousand",
        "million",
        "billion",
    ]
)
_GENERIC = frozenset(["unit", "sq.unit", "sq.units", "un"])
_TOKEN = re.compile(
    r"\^\s*\{?\s*(-?\d)\s*\}?|\\?[$€£¥₹¢]|\\Omega|\^\\circ ?[CF]?|°[cCfF]|μ?[A-Za-z.#'-]+|/|\*|\\cdot"
    r"|\\times|\(|\)|,"
)  # fmt: skip
_JOINED = re.compile(r"(?<=[A-Za-z])\s*-\s*(?=[A-Za-z])")
_MAX_UNIT_CHARS = 80


@lru_cache(maxsize=2048)
def parse_unit(text: str) -> Unit | None:
    r"""The unit that a text names (with `\text` groups already unwrapped); None when it names none.

    >>> parse_unit("km/h") == parse_unit("kilometers per hour") == parse_unit("kmh")
    True
    >>> parse_unit("square cm").dims, parse_unit("cm^2").factor
    ((('length', 2),), Fraction(1, 10000))
    >>> parse_unit("apples").dims
    (('#apple', 1),)
    """
    text = _JOINED.sub(" ", text.strip())
    if not text or len(text) > _MAX_UNIT_CHARS:
        return None
    dims: dict[str, int] = {}
    factor = Fraction(1)
    sign, power, is_generic, has_name = 1, 1, False, False
    nouns: list[str] = []
    last: tuple[_Dims, Fraction] | None = None
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        token = match[0].strip()
        if match[1] is not None:
            exponent = int(match[1])
            if last is None:
                if nouns or is_generic:
                    continue
                return None
            factor *= _scaled(dims, last, exponent - 1, sign)
            continue
        word = token.strip(".").casefold()
        if word in _REFUSED:
            return None
        if token in ("/", "per") or word in ("per", "an", "every") or (word == "a" and has_name):
            sign, power, last = -1, 1, None
            continue
        is_preposition = word == "in" and (nouns or last is not None)
        if (
            token in ("*", "\\cdot", "\\times", "(", ")", ",", ".")
            or word in _FILLER
            or is_preposition
        ):
            continue
        if word in ("square", "sq", "squared"):
            if word == "squared" and last is not None:
                factor *= _scaled(dims, last, 1, sign)
            else:
                power = 2
            continue
        if word in ("cubic", "cu", "cubed"):
            if word == "cubed" and last is not None:
                factor *= _scaled(dims, last, 2, sign)
            else:
                power = 3
            continue
        has_name = True
        if word in _GENERIC or word.removesuffix("s") in _GENERIC:
            is_generic = True
            continue
        last = _lookup(token)
        if last is None:
            noun = _stem(word)
            if noun:
                nouns.append(noun)
                dims[f"#{noun}"] = sign
            continue
        factor *= _scaled(dims, last, power, sign)
        power = 1
    if not has_name:
        return None
    if nouns and any(not name.startswith("#") for name in dims):
        # "meters of rope": a measure says more than the noun beside it
        dims = {name: p for name, p in dims.items() if not name.startswith("#") or p < 0}
    kept = tuple(sorted((name, p) for name, p in dims.items() if p))
    return Unit(kept, factor, is_generic and not kept)


def conversion(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """By what to multiply the answer's number to compare it in the gold's unit; None for different kinds of unit.

    A unit that was left out on either side, and the word "units", agree with every unit.

    >>> conversion(parse_unit("m"), parse_unit("cm")), conversion(parse_unit("kg"), parse_unit("cm"))
    (Fraction(1, 100), None)
    """
    if gold is None or answer is None or gold.is_generic or answer.is_generic:
        return Fraction(1)
    if gold.dims == answer.dims:
        return answer.factor / gold.factor
    names = [{name for name, _ in unit.dims} for unit in (gold, answer)]
    if all(name.startswith("#") for name in names[0] | names[1]) and names[0] & names[1]:
        return Fraction(1)
    return None


def is_known(unit: Unit) -> bool:
    """Whether it measures something, and is no mere noun."""
    return unit.is_generic or any(not name.startswith("#") for name, _ in unit.dims)


def _scaled(dims: dict[str, int], last: tuple[_Dims, Fraction], times: int, sign: int) -> Fraction:
    for name, power in last[0]:
        dims[name] = dims.get(name, 0) + power * times * sign
    return last[1] ** (times * sign)


def _lookup(token: str) -> tuple[_Dims, Fraction] | None:
    compact = token.replace("^\\circ ", "^\\circ").strip()
    word = compact.strip(".").casefold()
    for name in (
        compact,
        compact.strip("."),
        word,
        word.removesuffix("s"),
        word.removesuffix("es"),
    ):
        if name in _DERIVED:
            return _DERIVED[name]
        found = _UNITS.get(name)
        if found is not None and (len(name) > 1 or name == compact or not name.isalpha()):
            return ((found[0], found[1]),), found[2]
    return None


def _stem(word: str) -> str:
    word = re.sub(r"[^a-z]", "", word)
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
