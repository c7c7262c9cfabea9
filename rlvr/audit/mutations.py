"""Answers that are wrong and look like the gold answer."""

import re
from collections.abc import Iterator
from fractions import Fraction

from rlvr.audit.answers import number_of

_DIGITS = re.compile(r"\d+")
_BRACKETS = re.compile(r"[\[\](){}\\$]")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)")
_MONTHS = 12
# Sums, products, sets and alternatives mean the same with their numbers exchanged.
_SAME_IN_ANY_ORDER = re.compile(
    r"^[\d\s+.()]+$|^\\?\{|[*,=\u00b7\u00d7&]|times|cdot|\bx\s*\d|\b(?:and|or)\b", re.IGNORECASE
)
_LONG_WORD = 5
_SMALL = 30  # a tolerance of a thousandth is then less than 0.04
_DECIMAL_DIGITS = "0123456789"
LOOK_ALIKES: tuple[tuple[str, dict[int, int]], ...] = (
    ("full-width digits", str.maketrans(_DECIMAL_DIGITS, "".join(chr(0xFF10 + n) for n in range(10)))),
    ("Arabic-Indic digits", str.maketrans(_DECIMAL_DIGITS, "".join(chr(0x0660 + n) for n in range(10)))),
    ("superscript digits", str.maketrans("0456789", "".join(chr(0x2070 + n) for n in (0, 4, 5, 6, 7, 8, 9)))),
    ("Cyrillic letters", str.maketrans("aceopxABE", "\u0430\u0441\u0435\u043e\u0440\u0445\u0410\u0412\u0415")),
)


def mutations(gold: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the changed answer); each is wrong for every sensible reading of the gold answer.

    >>> dict(mutations("42"))["a digit in front"]
    '142'
    """
    number = number_of(gold)
    if number is not None:
        yield from _numbers(gold.strip(), number)
    elif "," in gold and not _BRACKETS.search(gold):
        yield from _lists([item.strip() for item in gold.split(",")])
    elif _DIGITS.search(gold):
        last = list(_DIGITS.finditer(gold))[-1]
        yield "another number in it", f"{gold[: last.start()]}{int(last.group()) + 1}{gold[last.end() :]}"
        if gold[-1].isdigit():
            yield "a digit after", f"{gold}7"
        if any(sign in gold for sign in "\\^+*/_"):
            yield "something added", f"{gold}+1"
        yield from _structures(gold)
    else:
        yield from _words(gold)


def look_alikes(gold: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the gold answer in characters that look like it)."""
    for name, table in LOOK_ALIKES:
        changed = gold.translate(table)
        if changed != gold:
            yield name, changed


def _numbers(gold: str, number: Fraction) -> Iterator[tuple[str, str]]:
    yield "a digit in front", f"-1{gold[1:]}" if gold.startswith("-") else f"1{gold}"
    yield "the opposite sign", gold[1:] if gold.startswith("-") else f"-{gold}"
    yield "ten times as much", _shown(number * 10)
    yield "a hundred times as much", _shown(number * 100)
    if number.denominator == 1:
        yield "a digit after", f"{gold}7"
        yield "split in two", f"{_shown(number - 1)} 1"
        yield "one more", _shown(number + 1)
        yield "one less", _shown(number - 1)
        if abs(number) <= _SMALL:
            yield "a twenty-fifth more", f"{_shown(number)}.04" if number >= 0 else _shown(number - Fraction(1, 25))
        yield "a fraction more", f"{_shown(number)}.4" if number >= 0 else _shown(number - Fraction(2, 5))
        yield (
            "a hundredth more",
            _shown(number + round(abs(number) / 111)) if abs(number) >= 112 else _shown(number + 2),
        )
        if abs(number) >= 10 and gold.lstrip("-").isdigit():
            yield "a point inside", f"{gold[:-1]}.{gold[-1]}"
            yield "its last digit missing", gold[:-1]
            yield "its first digit alone", gold.lstrip("-")[0]
            if not gold.endswith("0"):
                yield "its digits reversed", f"{'-' if number < 0 else ''}{gold.lstrip('-')[::-1]}"
    else:
        yield "a hundredth more", _shown(_rounded(number + max(abs(number) * Fraction(9, 1000), Fraction(3, 100))))
        yield "twice as much", _shown(_rounded(number * 2))
        yield "rounded down", str(int(number))
        if "." in gold:
            yield "a digit for the point", gold.replace(".", "5")


def _lists(items: list[str]) -> Iterator[tuple[str, str]]:
    yield "its first item alone", items[0]
    yield "its last item missing", ", ".join(items[:-1])
    yield "one item more", ", ".join([*items, "zq"])
    yield "another item in it", ", ".join([*items[:-1], "zq"])


def _structures(gold: str) -> Iterator[tuple[str, str]]:
    """Formulas without an operator, and dates and formulas with two of their numbers exchanged."""
    for sign in "^+":
        if sign in gold:
            yield f"without its {sign}", gold.replace(sign, "")
    date = _DATE.fullmatch(gold)
    if date is not None:
        year, month, day = date.groups()
        if month != day and int(day) <= _MONTHS:
            yield "month and day exchanged", f"{year}-{day}-{month}"
        return
    numbers = list(_DIGITS.finditer(gold))
    if len(numbers) == 2 and numbers[0].group() != numbers[1].group() and not _SAME_IN_ANY_ORDER.search(gold):
        first, second = numbers
        exchanged = f"{gold[: first.start()]}{second.group()}{gold[first.end() : second.start()]}{first.group()}"
        yield "its numbers exchanged", f"{exchanged}{gold[second.end() :]}"


def _words(gold: str) -> Iterator[tuple[str, str]]:
    yield "letters after", f"{gold}zq"
    yield "letters in front", f"zq{gold}"
    yield "a word in front", f"anti {gold} zq"
    if len(gold) >= _LONG_WORD:
        middle = len(gold) // 2
        yield "another letter in it", f"{gold[:middle]}{'q' if gold[middle] != 'q' else 'z'}{gold[middle + 1 :]}"
        yield "its first half", gold[:middle]
        yield "its first letter", gold[:1]
        yield "its last letter missing", gold[:-1]
        if gold.replace(" ", "").isalpha():
            yield "its letters reversed", gold[::-1]
    if " " in gold and gold.replace(" ", "").isalpha():
        yield "its words reversed", " ".join(reversed(gold.split()))


def _rounded(number: Fraction) -> Fraction:
    return round(number, 4)


def _shown(number: Fraction) -> str:
    if number.denominator == 1:
        return str(number.numerator)
    decimal = float(number)
    return f"{decimal:.10g}" if Fraction(f"{decimal:.10g}") == number else str(number)
