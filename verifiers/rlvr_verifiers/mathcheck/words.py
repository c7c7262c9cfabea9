r"""Answers in words: choice letters, yes and no, number words, times of day, dates, other phrases."""

import re
from dataclasses import dataclass
from fractions import Fraction

from .spelling import unwrapped_text


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words without case, articles and punctuation; what means the same has the same key."""

    key: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Letters of a multiple-choice question. `is_bare`: it may as well be the name of a variable or a point."""

    letters: frozenset[str]
    is_bare: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in minutes after midnight; `is_half_known` when a.m. or p.m. or 24 hours told th"
    "e half of the day."""

    minutes: int
    is_half_known: bool


@dataclass(frozen=True, slots=True)
class Date:
    """A day of the calendar; 0 stands for a year that was not written."""

    year: int
    month: int
    day: int


_MEANINGS = {
    "nothing": (
        "no solution", "no solutions", "no real solution", "no real solutions", "no answer", "none", "no value",
        "no values",
        "no real root", "no real roots", "no root", "no roots", "no such number", "no such numbers",
        "no integer solutions",
        "no integer solution", "empty set", "empty", "there are no solutions", "there is no solution", "no such",
        "no positive integer solutions", "there are no such", "null set", "nil", "impossible",
    ),
    "undefined": (
        "undefined", "dne", "does not exist", "not defined", "do not exist", "doesnt exist", "d n e",
        "limit does not exist", "indeterminate",
    ),
    "yes": ("yes", "true", "correct"),
    "no": ("no", "false", "incorrect"),
    "infinite": (
        "infinity", "infinite", "infinitely many", "infinitely many solutions", "infinite solutions",
        "infinite number of solutions", "there are infinitely many solutions",
    ),
    "reals": ("all real numbers", "all reals", "real numbers", "any real number", "all real values",
    "every real number"),
    "cannot be determined": ("cannot be determined", "cant be determined", "not enough information",
    "can not be determined"),
}  # fmt: skip
_CLASS = {phrase: name for name, phrases in _MEANINGS.items() for phrase in phrases}
_DROPPED = frozenset(
    ["the", "a", "an", "is", "are", "it", "its", "on", "in", "at", "this", "that", "answer"]
)
_WORD_LIKE = re.compile(r"[A-Za-z][A-Za-z0-9' .,;:()\"&/-]*")
_LONG_WORD = re.compile(r"[A-Za-z]{2,}")
_SMALL = [
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
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS: dict[str, int] = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
    **{
        f"{tens} {unit}": 10 * value + small
        for value, tens in enumerate(_TENS, start=2)
        for small, unit in enumerate(_SMALL[1:10], start=1)
    },
    "hundred": 100, "one hundred": 100, "thousand": 1000, "one thousand": 1000, "million": 10**6, "one million": 10**6,
}  # fmt: skip
_FRACTION_WORDS = {
    "half": Fraction(1, 2), "one half": Fraction(1, 2), "one third": Fraction(1, 3), "two thirds": Fraction(2, 3),
    "one quarter": Fraction(1, 4), "one fourth": Fraction(1, 4), "three quarters": Fraction(3, 4),
    "three fourths": Fraction(3, 4), "one fifth": Fraction(1, 5), "two fifths": Fraction(2, 5),
}  # fmt: skip
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)s?\s*:?\s*)?(?P<open>[(\[]?)\s*(?P<letter>[A-Ja-j])\s*(?P<close>[)\]]?)\s*(?P<dot>[.:]?)",
    re.IGNORECASE,
)
_CHOICE_WITH_TEXT = re.compile(r"\(?(?P<letter>[A-J])(?:\)|[.:])[\s~]*(?P<rest>\S.*)")
_OTHER_CHOICE = re.compile(
    r"(?:^|[\s(,/])[A-J]\s*[).:]|^\(?[A-J]\)?\.?$|^(?:or|and|not|nor)\b|^(?:is|are|was)(?:\s+not|n't|\s+(?:wrong|false|incorrect))\b"
)
_LETTER_RUN = re.compile(r"[A-J]{2,10}")
_CLOCK = re.compile(
    r"(?P<h>\d{1,2})(?:\s*[:.]\s*(?P<m>[0-5]\d)(?:\s*:\s*[0-5]\d)?)?\s*(?P<half>[aApP]\s*\.?\s*[mM]\b\.?|noon|midnight|o'?clock)?"
    r"(?:\s*(?P<half2>[aApP]\s*\.?\s*[mM]\b\.?))?"
)
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_MONTH = "|".join(f"{name}|{name[:3]}" for name in _MONTHS)
_DATE_WORDS = (
    re.compile(
        rf"(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(?P<year>\d{{4}}))?"
    , re.IGNORECASE),
    re.compile(
        rf"(?:the\s+)?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?(?:\s*,?\s*(?P<y"
        rf"ear>\d{{4}}))?", re.IGNORECASE
    ),
)  # fmt: skip
_DATE_ISO = re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})")
_WEEKDAY = re.compile(r"^(?:mon|tues|wednes|thurs|fri|satur|sun)day\s*,?\s+(?=\S)", re.IGNORECASE)


def phrase(text: str) -> Phrase | None:
    r"""The phrase that a tidied text is; None when it holds anything but words.

    >>> phrase(r"\text{No solution}") == phrase("no solutions") == phrase("∅")
    True
    >>> phrase("The red ball") == phrase("red ball"), phrase("x^2")
    (True, None)
    """
    if text in ("∅", "\\{\\}", "\\{ \\}", "()"):
        return Phrase("nothing")
    plain = unwrapped_text(text).strip()
    if not plain or "\\" in plain or _WORD_LIKE.fullmatch(plain) is None:
        return None
    if _LONG_WORD.search(plain) is None:
        return None
    words = re.sub(r"[^a-z0-9 ]", " ", plain.casefold().replace("'", "")).split()
    joined = " ".join(words)
    if joined in _CLASS:
        return Phrase(_CLASS[joined])
    kept = [word for word in words if word not in _DROPPED]
    joined = " ".join(kept or words)
    return Phrase(_CLASS.get(joined, "".join(kept or words)))


def number_word(text: str) -> Fraction | None:
    """The value of a number in words up to one hundred, and of common fractions.

    >>> number_word("Twenty-one"), number_word("two thirds"), number_word("a lot")
    (Fraction(21, 1), Fraction(2, 3), None)
    """
    if len(text) > 40:
        return None
    plain = " ".join(unwrapped_text(text).casefold().replace("-", " ").split())
    below_zero = plain.startswith(("minus ", "negative "))
    plain = plain.partition(" ")[2] if below_zero else plain
    value = _NUMBER_WORDS.get(plain, _FRACTION_WORDS.get(plain))
    return None if value is None else Fraction(-value if below_zero else value)


def choice(text: str) -> Choice | None:
    r"""The choice that a tidied text states: B, (B), b, \text{(B)}, "B) 12", "Option B", and runs such as ACD.

    >>> choice("(b)").letters, choice("B) 12").letters, choice("B, C")
    (frozenset({'B'}), frozenset({'B'}), None)
    """
    plain = unwrapped_text(text).strip() if "\\" in text else text
    if not plain or len(plain) > 200:
        return None
    if match := _CHOICE.fullmatch(plain):
        if bool(match["open"]) and not match["close"]:
            return None
        is_bare = match.end("letter") == len(plain) and match.start("letter") == 0
        return Choice(frozenset(match["letter"].upper()), is_bare)
    if match := _CHOICE_WITH_TEXT.fullmatch(plain):
        if _OTHER_CHOICE.search(match["rest"]):
            return None
        return Choice(frozenset(match["letter"]))
    if _LETTER_RUN.fullmatch(plain) and list(plain) == sorted(set(plain)):
        return Choice(frozenset(plain), is_bare=True)
    return None


def choice_text(text: str) -> str:
    """What stands behind the letter of a choice: "12" in "B) 12"; "" when nothing does."""
    match = _CHOICE_WITH_TEXT.fullmatch(unwrapped_text(text).strip())
    return match["rest"] if match else ""


def clock(text: str) -> Clock | None:
    r"""The time of day that a tidied text is.

    >>> clock(r"4:30\text{ p.m.}") == clock("16:30"), clock("4:30 am").minutes, clock("4")
    (True, 270, None)
    """
    plain = unwrapped_text(text).strip()
    if not plain or not plain[0].isdigit() or len(plain) > 30:
        return None
    match = _CLOCK.fullmatch(plain)
    if match is None or (match["m"] is None and match["half"] is None):
        return None
    half = re.sub(r"[^a-z]", "", (match["half2"] or match["half"] or "").casefold())
    if "." in plain[: match.end("m")] and not half:
        return None  # 4.30 is a decimal
    hour, minute = int(match["h"]), int(match["m"] or 0)
    if hour > 24 or (half and hour > 12):
        return None
    if half in ("am", "midnight"):
        return Clock(hour % 12 * 60 + minute, True)
    if half in ("pm", "noon"):
        return Clock((hour % 12 + 12) * 60 + minute, True)
    return Clock(hour * 60 + minute, hour > 12 or hour == 0)


def same_clock(gold: Clock, answer: Clock) -> bool:
    """Whether both are one time; the half of the day may be left out as a unit may."""
    if gold.is_half_known and answer.is_half_known:
        return gold.minutes == answer.minutes
    return (gold.minutes - answer.minutes) % 720 == 0


def date(text: str) -> Date | None:
    """The calendar day that a tidied text is.

    >>> date("July 4, 1776") == date("the 4th of July 1776") == date("1776-07-04")
    True
    """
    plain = _WEEKDAY.sub("", unwrapped_text(text).strip())
    if not plain or len(plain) > 40 or not any(character.isdigit() for character in plain):
        return None
    match = _DATE_ISO.fullmatch(plain)
    if match:
        return Date(int(match["year"]), int(match["month"]), int(match["day"]))
    for pattern in _DATE_WORDS:
        if match := pattern.fullmatch(plain):
            month = next(
                i
                for i, name in enumerate(_MONTHS, 1)
                if name.startswith(match["month"].casefold()[:3])
            )
            return Date(int(match["year"] or 0), month, int(match["day"]))
    return None


def same_date(gold: Date, answer: Date) -> bool:
    """Whether both are one day; the year may be left out."""
    same_day = (gold.month, gold.day) == (answer.month, answer.day)
    return same_day and (gold.year == answer.year or 0 in (gold.year, answer.year))
