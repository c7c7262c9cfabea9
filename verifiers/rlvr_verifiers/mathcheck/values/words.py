r"""Answers in words: choice letters, yes and no, number words, times of day, dates, other phrases."""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlvr_verifiers.mathcheck.text.spelling import unwrapped_text
from rlvr_verifiers.mathcheck.text.vocabulary import words


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words without case, articles and punctuation; phrases with the same meaning have the same key."""

    key: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Letters of a multiple-choice question. `is_bare`: the letter may also be the name of a variable or a point."""

    letters: frozenset[str]
    is_bare: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in minutes after midnight; without a.m. or p.m. the digits are taken literally."""

    minutes: int
    has_half: bool


@dataclass(frozen=True, slots=True)
class Date:
    """A calendar day; the year is 0 if none was given."""

    year: int
    month: int
    day: int


_MEANINGS = {
    "nothing": (
        "no solution", "no solutions", "no real solution", "no real solutions", "no answer", "none", "no value",
        "no values",
        "no real root", "no real roots", "no root", "no roots", "no such number", "no such numbers",
        "no integer solutions",
        "no integer solution", "无解", "無解", "空集", "해가 없다", "нет решений", "keine lösung", "pas de solution",
        "sin solución", "empty set", "empty", "there are no solutions", "there is no solution", "no such",
        "no positive integer solutions", "there are no such", "null set", "nil", "impossible",
    ),
    "undefined": (
        "undefined", "dne", "does not exist", "not defined", "do not exist", "doesnt exist", "d n e",
        "不存在", "не существует", "limit does not exist", "indeterminate",
    ),
    "yes": ("yes", "true", "correct", "是", "对", "正确", "はい", "예", "да", "ja", "oui", "sí", "sim"),
    "no": ("no", "false", "incorrect", "否", "不是", "错", "错误", "不正确",
        "いいえ", "아니오", "нет", "nein", "non", "não"),
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
_DROPPED = frozenset(["the", "a", "an", "is", "are", "it", "its", "on", "in", "at", "this", "that", "answer"])
_WORD_LIKE = re.compile(r"[^\W\d_](?:[^\W_]|[' .,;:()\"&/-])*")
_LONG_WORD = re.compile(r"[^\W\d_]{2,}|[\u3400-\u9fff]")
_SMALL = words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
""")
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
    r"\bor\s+(?:[-\d$\\]|[A-J]\b)|(?:^|[\s(,/])[A-J]\s*[).:]|^\(?[A-J]\)?\.?$|^(?:or|and|not|nor)\b|^(?:is|are|was)(?:\s+not|n't|\s+(?:wrong|false|incorrect))\b"
)
_LETTER_RUN = re.compile(r"[A-J]{2,10}")
_CLOCK = re.compile(
    r"(?P<h>\d{1,2})(?:\s*[:.]\s*(?P<m>[0-5]\d)(?:\s*:\s*[0-5]\d)?)?\s*(?P<half>[aApP]\s*\.?\s*[mM]\b\.?|noon|midnight|o'?clock)?"
    r"(?:\s*(?P<half2>[aApP]\s*\.?\s*[mM]\b\.?))?"
)
_MONTHS = words("""
    january february march april may june july august september october november december
""")
_MONTH = "|".join(f"{name}|{name[:3]}" for name in _MONTHS)
_DATE_WORDS = (
    re.compile(
        rf"(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(?P<year>\d{{4}}))?", re.IGNORECASE
    ),
    re.compile(
        rf"(?:the\s+)?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?(?:\s*,?\s*(?P<y"
        rf"ear>\d{{4}}))?",
        re.IGNORECASE,
    ),
)
_MIN_DATE_CHARS = 8
_DATE_DIGITS = (
    re.compile(r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"),
    re.compile(r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})"),
    re.compile(r"(?P<month>0?[1-9]|1[0-2])/(?P<day>\d{1,2})/(?P<year>\d{4})"),
    re.compile(r"(?P<day>\d{1,2})/(?P<month>\d{1,2})/(?P<year>\d{4})"),
)
_WEEKDAY = re.compile(r"^(?:mon|tues|wednes|thurs|fri|satur|sun)day\s*,?\s+(?=\S)", re.IGNORECASE)


_WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_CALENDAR = {name[:size]: name for name in _WEEKDAYS for size in (3, 4, 5)} | {
    name[:3]: name for name in _MONTHS if name != "may"
}
_CALENDAR |= {"sept": "september"}
_ROMAN = ["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"]
_WITH_NUMERALS = frozenset(["and", "only", "statement", "statements", "both"])
_WEEKDAY_WITH_DAY = re.compile(
    rf"(?P<main>{'|'.join(_WEEKDAYS)})\s*,?\s*(?:the\s+)?(?:\d{{1,2}}(?:st|nd|rd|th)?(?:\s+of\s+[A-Z][a-z]+)?|[A-Z][a-z]+\s+\d{{1,2}}(?:st|nd|rd|th)?)(?:,?\s*\d{{4}})?",
    re.IGNORECASE,
)
_SUBJECT = re.compile(r"(?P<main>[A-Z][a-z]+) (?:is|was|has|had|will be|won) (?:the|a|an) [a-z]+(?: [a-z]+){0,4}")
_OF_A_KIND = re.compile(
    r"(?:in |on )?(?:the )?(?:month of|letter|word|day|colou?r|city of|name) (?P<main>[A-Za-z]+)", re.IGNORECASE
)


def phrase(text: str) -> Phrase | None:
    r"""The phrase in a tidied text; None if it contains anything but words.

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
    words = re.sub(r"[\W_]", " ", plain.casefold().replace("'", "")).split()
    if said := _numerals_or_calendar(words, plain):
        return Phrase(said)
    joined = " ".join(words)
    if joined in _CLASS:
        return Phrase(_CLASS[joined])
    kept = [word for word in words if word not in _DROPPED]
    joined = " ".join(kept or words)
    return Phrase(_CLASS.get(joined, "".join(kept or words)))


def _numerals_or_calendar(words: list[str], plain: str) -> str:
    """The key of Roman numerals ("I and III only") or of an abbreviated weekday or month; "" for anything else."""
    numerals = [word for word in words if word not in _WITH_NUMERALS]
    if numerals and all(word in _ROMAN for word in numerals) and plain.upper().startswith(plain[:1]):
        is_list = len(numerals) > 1 or len(words) > 1
        return "roman" + "".join(sorted(set(numerals), key=_ROMAN.index)) if is_list else ""
    if len(words) == 1 and plain[:1].isupper():
        return _CALENDAR.get(words[0], "")
    return ""


def main_words(text: str) -> str:
    """The essential words of an answer: "Anna" in "Anna is the tallest", "Saturday" in "Saturday, the 5th"; "" if the
    answer has no such form.
    """
    if " " not in text:
        return ""
    plain = unwrapped_text(text).strip()
    if "\\" in plain or not plain[:1].isalpha():
        return ""
    match = _WEEKDAY_WITH_DAY.fullmatch(plain) or _SUBJECT.fullmatch(plain)
    match = match or _OF_A_KIND.fullmatch(plain)
    return match["main"] if match else ""


def number_word(text: str) -> Fraction | None:
    """The value of a number word up to one hundred or of a common fraction; None for anything else.

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
    """The text after the letter of a choice: "12" in "B) 12"; "" if there is none."""
    match = _CHOICE_WITH_TEXT.fullmatch(unwrapped_text(text).strip())
    return match["rest"] if match else ""


def clock(text: str) -> Clock | None:
    r"""The time of day in a tidied text; None for anything else.

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
    return Clock(hour * 60 + minute, False)


def same_clock(gold: Clock, answer: Clock) -> bool:
    """Whether both are the same time. Like a unit, a.m. or p.m. may be omitted or added; but 16:30 is not 4:30."""
    if gold.minutes == answer.minutes:
        return True
    bare = [clock.minutes for clock in (gold, answer) if not clock.has_half]
    is_one_bare = len(bare) == 1 and 60 <= bare[0] < 13 * 60
    return is_one_bare and (gold.minutes - answer.minutes) % 720 == 0


def date(text: str) -> Date | None:
    """The calendar day in a tidied text; None for anything else.

    >>> date("July 4, 1776") == date("the 4th of July 1776") == date("1776-07-04")
    True
    """
    plain = _WEEKDAY.sub("", unwrapped_text(text).strip())
    if not plain or len(plain) > 40 or not any(character.isdigit() for character in plain):
        return None
    is_digits = plain[0].isdigit() and plain[-1].isdigit() and len(plain) >= _MIN_DATE_CHARS
    patterns = _DATE_DIGITS if is_digits else ()
    match = next(filter(None, (pattern.fullmatch(plain) for pattern in patterns)), None)
    if match and int(match["month"]) <= 12 and int(match["day"]) <= 31:
        return Date(int(match["year"]), int(match["month"]), int(match["day"]))
    for pattern in _DATE_WORDS:
        if match := pattern.fullmatch(plain):
            month = next(i for i, name in enumerate(_MONTHS, 1) if name.startswith(match["month"].casefold()[:3]))
            return Date(int(match["year"] or 0), month, int(match["day"]))
    return None


def same_date(gold: Date, answer: Date) -> bool:
    """Whether both are the same day; a year may be added but not omitted."""
    same_day = (gold.month, gold.day) == (answer.month, answer.day)
    return same_day and gold.year in (answer.year, 0)
