r"""Units of measurement: their dimensions and their size.

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
    """A parsed unit.

    Attributes:
        dims: (base dimension, power), sorted by name. A counted noun is the dimension `#noun`.
        factor: the size of the unit in base units.
        is_generic: the word "units", which agrees with every unit.
    """

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
_PRODUCT_SIGNS = ("*", "\\cdot", "\\times", "(", ")", ",", ".")
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_TOKEN = re.compile(
    r"\^\s*\{?\s*(-?\d)\s*\}?|\\?[$€£¥₹₩₽¢]|\^\\circ ?[CF]?|°[cCfF]|(?:[^\W\d_]|[.#'-])+|/|\*|\\cdot"
    r"|\\times|\(|\)|,"
)
_JOINED = re.compile(r"(?<=[A-Za-z])\s*-\s*(?=[A-Za-z])")
_MAX_UNIT_CHARS = 80
_RAISED = re.compile(r"\^\s*\{?\s*(-)?\d")
_ARTICLE = re.compile(r"\s+[a-z]{3,}")
# "20 C" is the same temperature as "20 degrees Celsius"
_SCALES = (("celsius", "C"), ("fahrenheit", "F"))
_ONE_LETTER = frozenset((UNITS[scale][0], UNITS[letter][0]) for scale, letter in _SCALES)
_SPELLINGS = {
    "\\mu ": "μ", "\\mu": "μ", "µ": "μ", "\\Omega ": "Ω", "\\Omega": "Ω", "[": " ", "]": " ", "\\AA": "Å",
}  # fmt: skip
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


@lru_cache(maxsize=2048)
def parse_unit(text: str) -> Unit | None:
    r"""The unit that a text names (`\text` groups already unwrapped); None if it names none.

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
    return _UnitReader(text).read()


class _UnitReader:
    """Reads a unit word by word.

    Attributes:
        dims: the powers of the base dimensions read so far; those of nouns have names that begin with "#".
        sign: 1 in a numerator, -1 after "/" or "per".
        power: the power of the next word, which "square" and "cubic" set.
        last: the measure to which a following exponent applies; None after a noun or a separator.
    """

    __slots__ = ("dims", "factor", "has_name", "is_generic", "last", "nouns", "position", "power", "sign", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.dims: dict[str, int] = {}
        self.factor = Fraction(1)
        self.sign, self.power = 1, 1
        self.is_generic, self.has_name = False, False
        self.nouns: list[str] = []
        self.last: Measure | None = None

    def read(self) -> Unit | None:
        """The unit; None when the text names none."""
        while self.position < len(self.text):
            if self.text[self.position].isspace():
                self.position += 1
                continue
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                return None
            self.position = match.end()
            is_read = self._word(match[0].strip()) if match[1] is None else self._exponent(int(match[1]))
            if not is_read:
                return None
        return self._unit() if self.has_name else None

    def _exponent(self, exponent: int) -> bool:
        """Raises the last measure to a power; an exponent after a noun is ignored, one after nothing is an error."""
        if self.last is None:
            return bool(self.nouns) or self.is_generic
        self._multiply(self.last, exponent - 1)
        return True

    def _word(self, token: str) -> bool:
        """Takes a word or a sign; False for a word that no unit contains."""
        word = token.strip(".").casefold()
        is_symbol = token in ("K", "A") and not _ARTICLE.match(self.text, self.position)
        if word in _REFUSED and not is_symbol:
            return False
        if self._is_separator(token, word) or self._is_filler(token, word, is_symbol) or self._is_power(word):
            return True
        return self._name(token, word)

    def _is_separator(self, token: str, word: str) -> bool:
        """Whether the token begins or ends a denominator; `sign` follows it."""
        if token == ")" and self.sign < 0:
            self.sign = 1
            return True
        if token in ("/", "per") or word in ("per", "an", "every") or (word == "a" and self.has_name):
            self.sign, self.power, self.last = -1, 1, None
            return True
        return False

    def _is_filler(self, token: str, word: str, is_symbol: bool) -> bool:
        """Whether the token changes nothing: a product sign, a bracket, "of", "long"."""
        if token in _PRODUCT_SIGNS or (word in _FILLER and not is_symbol):
            return True
        return word == "in" and (bool(self.nouns) or self.last is not None)

    def _is_power(self, word: str) -> bool:
        """Whether the word is a power: "square" before a name, "squared" after one."""
        power = _POWERS.get(word)
        if power is None:
            return False
        if word in ("squared", "cubed") and self.last is not None:
            self._multiply(self.last, power - 1)
        else:
            self.power = power
        return True

    def _name(self, token: str, word: str) -> bool:
        """Takes the name of a unit or a noun; False for a foreign word that is neither."""
        self.has_name = True
        if word in _GENERIC or word.removesuffix("s") in _GENERIC:
            self.is_generic = True
            return True
        if not token.isascii() and token not in UNITS and (foreign := english_unit(token)) != "":
            if foreign is None:
                return False
            self.text = f"{foreign} {self.text[self.position :]}"  # read again, in English
            self.position, self.has_name = 0, bool(self.dims)
            return True
        self.last = self._measure(token)
        if self.last is not None:
            self._multiply(self.last, self.power)
            self.power = 1
        elif noun := _stem(word):
            self.nouns.append(noun)
            self.dims[f"#{noun}"] = self.sign
        return True

    def _measure(self, token: str) -> Measure | None:
        """The measure that a following exponent applies to; earlier symbols of a compound such as ms^{-1} are taken."""
        measure = _lookup(token)
        raised = _RAISED.match(self.text, self.position)
        if raised and (measure is None or token in ("Nm", "Ws") or (token == "ms" and raised[1])):
            *others, final = _split(token) or [token]
            for other in others:
                self._multiply(UNITS[other], self.power)
            measure = _lookup(final)
        return measure

    def _multiply(self, measure: Measure, times: int) -> None:
        """Multiplies the unit by a power of a measure, which counts as its inverse in a denominator."""
        dims, factor = measure
        for name, power in dims:
            self.dims[name] = self.dims.get(name, 0) + power * times * self.sign
        self.factor *= factor ** (times * self.sign)

    def _unit(self) -> Unit:
        dims = self.dims
        if self.nouns and any(not name.startswith("#") for name in dims):
            # "meters of rope": the measure says more than the noun, which stays only in a denominator
            dims = {name: power for name, power in dims.items() if not name.startswith("#") or power < 0}
        if "radian" in dims and len(dims) > 1:
            del dims["radian"]  # rad/s is 1/s
        kept = tuple(sorted((name, power) for name, power in dims.items() if power))
        return Unit(kept, self.factor, self.is_generic and not kept)


def _written(text: str) -> str:
    """The text with one spelling for micro, ohm and ångström, without square brackets and `\\frac`."""
    if "\\" in text or "[" in text or "µ" in text:
        for spelling, plain in _SPELLINGS.items():
            text = text.replace(spelling, plain)
        text = _FRACTION.sub(r"\1/(\2)", text.replace("μ ", "μ"))
    return text


def conversion(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """The factor that converts the answer's number into the gold's unit; None if the units are incompatible.

    A missing unit on either side, and the word "units", agree with every unit.

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
    """Whether the unit measures something rather than counting a noun."""
    return unit.is_generic or any(not name.startswith("#") for name, _ in unit.dims)


def _lookup(token: str) -> Measure | None:
    compact = token.replace("^\\circ ", "^\\circ").strip()
    word = compact.strip(".").casefold()
    for name in (compact, compact.strip("."), word, word.removesuffix("s"), word.removesuffix("es")):
        found = UNITS.get(name)
        if found is not None and (len(name) > 1 or name == compact or not name.isalpha()):
            return found
    return None


def _split(token: str) -> list[str]:
    """The symbols in a compound token: ms^{-1} is m s^{-1}, gcm^{-3} is g cm^{-3}; [] if it is not one."""
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
