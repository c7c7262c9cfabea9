"""An answer with words around it: a sentence that leads to it, a remark or a condition behind it."""

import re
from fractions import Fraction

from .answers import Reader, Reading
from .equalities import CONDITION
from .numbers import Number
from .spelling import tidy, unwrapped_text
from .units import parse_unit

_LEAD = re.compile(
    r"(?:\\text\s*\{(?P<text>[^{}]*)\}|(?P<plain>(?:[A-Za-z'’,-]+ )*(?:is|are|equals|be|was|=):?"
    r"|[A-Za-z ]*[A-Za-z]{3,}:))\s*(?P<rest>.+)"
)
_LEAD_END = re.compile(
    r"(?:\b(?:is|are|equals|be|was|to|of|exactly|about|value)|:|=)\s*$", re.IGNORECASE
)
_COPULA = re.compile(r"(?:\b(?:is|are|equals|was)|:|=)\s*$", re.IGNORECASE)
_ALTERS = re.compile(  # words before or behind a number that make another value of it, or take it back
    r"n't\b|\b(?:not?|never|cannot|but|except|without|neither|nor|or|maybe|possibly|wrong|incorrect|false|than|up to"
    r"|at (?:least|most)|near|between|above|below|under|over|multiples?|divisors?|factors?|roots?|half|third|twice"
    r"|double|triple|squared?|cubed?|reciprocal|inverse|opposite|negative|minus|plus|times|power|log(?:arithm)?"
    r"|sine|cosine|tangent|factorial|if|unless|alternatively|instead|any|all|every|anything|some)\b",
    re.IGNORECASE,
)
_QUALIFIED = re.compile(
    r"(?:\\text\s*\{\s*)?(?:about|approximately|approx\.?|roughly|exactly|precisely|only|just|(?P<minus>minus|negative))"
    r"(?:\s*\}|\s)\s*(?P<rest>[\d.\\][^}]*)\}?",
    re.IGNORECASE,
)
_NOTE = re.compile(
    r"\s*(?:\\text\s*\{\s*\([^{}()]*\)\s*\}| \([a-z]{5,}\)| ?\([a-z]{2,}(?: [a-z]{2,}){1,7}\))\s*$"
)
_BOUND = re.compile(
    r"\s*(?:at (?:least|most)|(?:more|less|fewer|greater|smaller) than|up to|between|not|no more than)\b",
    re.IGNORECASE,
)
_REMAINDER = re.compile(
    r"(-?\d{1,50})\s*(?:\\bmod|\\mod|\\text\{\s*mod\s*\}|mod)\s*([1-9]\d{0,50})"
)
_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*\{?\s*\w+\s*\}?|\\text\s*\{\s*\(\s*mod\s*\}\s*\w+\s*\)|\(?\s*(?:\\bmod|\\mod|\\text\{\s*mod\s*\}|mod)\s*\{?\s*\w+\s*\}?\s*\)?)\s*$"
)


def explained(text: str, reader: Reader) -> list[Reading] | None:
    """An answer with words around it: "The area is 5", "5 (approximately)", conditions behind."""
    if _BOUND.match(unwrapped_text(text)):
        return []  # "at least 3" is no value
    if (modulus := _MODULUS.search(text)) and modulus.start():
        found = reader.readings(text[: modulus.start()].strip())
        if operation := _REMAINDER.fullmatch(text):
            found.append(Number(Fraction(int(operation[1]) % int(operation[2]))))
        return found
    if match := _QUALIFIED.fullmatch(text):
        sign = "-" if match["minus"] else ""
        return reader.readings(sign + match["rest"].strip())
    match = _LEAD.fullmatch(text)
    if match is not None:
        words = match["text"]
        is_lead = words is None or (
            _COPULA.search(words) is not None
            or (
                _ALTERS.search(words) is None
                and (
                    _LEAD_END.search(words) is not None
                    or (len(words.split()) > 1 and parse_unit(words) is None)
                )
            )
        )
        if is_lead and any(c.isdigit() or c in "\\xyn(" for c in match["rest"]):
            return reader.readings(tidy(match["rest"])) or None
    shorter = _NOTE.sub("", text)
    if shorter and shorter != text and not _ALTERS.search(text[len(shorter) :]):
        return reader.readings(shorter) or None
    shorter = CONDITION.sub("", text)
    if shorter and shorter != text:
        return reader.readings(shorter) or None
    return None
