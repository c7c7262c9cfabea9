r"""Units of measurement: what they measure and how large they are.

A unit is a product of powers of base dimensions with a rational factor: km/h is length^1 time^-1 with 5/18.
A name that is not in the table ("apples") is a dimension of its own.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rlvr_verifiers.mathcheck.text.languages import english_unit
from rlvr_verifiers.mathcheck.text.unit_names import SYMBOLS, UNITS, Dims, Measure
from rlvr_verifiers.mathcheck.text.vocabulary import words


@dataclass(frozen=True, slots=True)
class Unit:
    """`dims` is sorted; a count noun is the dimension `#noun`. `generic` is "units", which any unit may replace."""

    dims: Dims
    factor: Fraction
    is_generic: bool = False


_FILLER = frozenset(
    words(
        "a an the of on at for to is are was were long wide tall high deep old away each total"
        " more less than left about approximately roughly around exactly only all altogether u.s."
        " us"
    )
)
_REFUSED = frozenset(
    words(
        "or and bc bce b.c not than least most if when where with minus plus times either both"
        " over is are was isn't can cannot will would should be too so power root false incorrect"
        " no factorial negative k wrong maybe but half halves third thirds quarters fourths fifths"
        " sixths eighths tenths hundredths thousandths millionths zero one two three four five six"
        " seven eight nine ten eleven twelve twenty hundred thousand million billion"
    )
)
_GENERIC = frozenset(["unit", "sq.unit", "sq.units", "un"])
_TOKEN = re.compile(
    r"\^\s*\{?\s*(-?\d)\s*\}?|\\?[$€£¥₹₩₽¢]|\^\\circ ?[CF]?|°[cCfF]|(?:[^\W\d_]|[.#'-])+|/|\*|\\cdot"
    r"|\\times|\(|\)|,"
)
_JOINED = re.compile(r"(?<=[A-Za-z])\s*-\s*(?=[A-Za-z])")
_MAX_UNIT_CHARS = 80
_RAISED = re.compile(r"\^\s*\{?\s*(-)?\d")
_ARTICLE = re.compile(r"\s+[a-z]{3,}")
# 20 C is a temperature like 20 degrees Celsius
_SCALES = (("celsius", "C"), ("fahrenheit", "F"))
_ONE_LETTER = frozenset((UNITS[scale][0], UNITS[letter][0]) for scale, letter in _SCALES)
_SPELLINGS = {
    "\\mu ": "μ",
    "\\mu": "μ",
    "µ": "μ",
    "\\Omega ": "Ω",
    "\\Omega": "Ω",
    "[": " ",
    "]": " ",
    "\\AA": "Å",
}
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


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
    text = _JOINED.sub(" ", _written(text).strip())
    if not text or len(text) > _MAX_UNIT_CHARS:
        return None
    dims: dict[str, int] = {}
    factor = Fraction(1)
    sign, power, is_generic, has_name = 1, 1, False, False
    nouns: list[str] = []
    last: Measure | None = None
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
        is_symbol = token in ("K", "A") and not _ARTICLE.match(text, position)
        if word in _REFUSED and not is_symbol:
            return None
        if token == ")" and sign < 0:
            sign = 1
            continue
        if token in ("/", "per") or word in ("per", "an", "every") or (word == "a" and has_name):
            sign, power, last = -1, 1, None
            continue
        is_preposition = word == "in" and (nouns or last is not None)
        if (
            token in ("*", "\\cdot", "\\times", "(", ")", ",", ".")
            or (word in _FILLER and not is_symbol)
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
        if not token.isascii() and token not in UNITS and (foreign := english_unit(token)) != "":
            if foreign is None:
                return None
            text = f"{foreign} {text[position:]}"
            position, has_name = 0, bool(dims)
            continue
        last = _lookup(token)
        raised = _RAISED.match(text, position)
        if raised and (last is None or token in ("Nm", "Ws") or (token == "ms" and raised[1])):
            *others, final = _split(token) or [token]
            for other in others:
                factor *= _scaled(dims, UNITS[other], power, sign)
            last = _lookup(final)
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
    if "radian" in dims and len(dims) > 1:
        del dims["radian"]  # rad/s is 1/s
    kept = tuple(sorted((name, p) for name, p in dims.items() if p))
    return Unit(kept, factor, is_generic and not kept)


def _written(text: str) -> str:
    """The text with one spelling of micro and ohm, without brackets around a unit and without `\\frac`."""
    if "\\" in text or "[" in text or "µ" in text:
        for spelling, plain in _SPELLINGS.items():
            text = text.replace(spelling, plain)
        text = _FRACTION.sub(r"\1/(\2)", text.replace("μ ", "μ"))
    return text


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
    if (gold.dims, answer.dims) in _ONE_LETTER:
        return Fraction(1)
    names = [{name for name, _ in unit.dims} for unit in (gold, answer)]
    if all(name.startswith("#") for name in names[0] | names[1]):
        is_foreign = not all(name.isascii() for name in names[0] | names[1])
        return Fraction(1) if is_foreign or names[0] & names[1] else None
    return None


def is_known(unit: Unit) -> bool:
    """Whether it measures something, and is no mere noun."""
    return unit.is_generic or any(not name.startswith("#") for name, _ in unit.dims)


def _scaled(dims: dict[str, int], last: Measure, times: int, sign: int) -> Fraction:
    for name, power in last[0]:
        dims[name] = dims.get(name, 0) + power * times * sign
    return last[1] ** (times * sign)


def _lookup(token: str) -> Measure | None:
    compact = token.replace("^\\circ ", "^\\circ").strip()
    word = compact.strip(".").casefold()
    for name in (
        compact,
        compact.strip("."),
        word,
        word.removesuffix("s"),
        word.removesuffix("es"),
    ):
        found = UNITS.get(name)
        if found is not None and (len(name) > 1 or name == compact or not name.isalpha()):
            return found
    return None


def _split(token: str) -> list[str]:
    """The symbols that are set side by side in a token with a power: ms^{-1} is m s^{-1}, gcm^{-3} g cm^{-3}."""
    found: list[str] = []
    rest = token
    while rest:
        symbol = next((one for one in SYMBOLS if rest.startswith(one) and one != token), "")
        if not symbol:
            return []
        found.append(symbol)
        rest = rest[len(symbol) :]
    return found


def _stem(word: str) -> str:
    word = re.sub(r"[\W\d_]", "", word)
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
