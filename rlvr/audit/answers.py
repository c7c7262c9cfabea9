"""Gold answers as text, and whether a text states one: attacks must not be right by accident."""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import cast

from rlvr.records import Json

_MARKED = re.compile(r"####\s*(.+?)\s*$")
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANSWER_KEYS = ("answer", "gold", "ground_truth", "solution", "target", "expected", "value", "label", "output")
# How verifiers find numbers; the last match is a text's last number.
_READERS = tuple(
    re.compile(pattern)
    for pattern in (r"-?\d+", r"-?\d+(?:\.\d+)?", r"-?\d[\d,]*(?:\.\d+)?", r"-?\d*\.?\d+", r"-?\d+(?:\.\d+)?/\d+")
)
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:/\d+|[eE][-+]?\d{1,3})?")  # 1e999999999 takes for ages
_CLOSING = re.compile(r"</?\w+>|\\\)|```")
_PUNCTUATION = " \t\r\n.,;:!?*$`\"')]}>"
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(-?\d+)\}")
_WORDS_OF_TRUTH = {"yes": "true", "no": "false"}
_WRAPPERS = (("$", "$"), ("\\(", "\\)"), ("(", ")"), ("[", "]"), ('"', '"'), ("'", "'"), ("`", "`"), ("**", "**"))
_TAIL_CHARS = 200
_LONG_TAIL_CHARS = 2000  # if there is no number in the tail
_DIGIT = re.compile(r"\d")
_MAX_CHARS = 200  # of a text that is compared as an answer; of longer ones only case and white space are ignored


def gold_texts(reference: Json) -> tuple[str, ...]:
    """The texts that could be the answer which a reference stands for, the most direct first."""
    return tuple(dict.fromkeys(text for text in _gold_texts(reference) if text.strip()))


def field_texts(reference: Json) -> tuple[str, ...]:
    """The texts of a reference's plain fields if it is an object; any of them could be the answer."""
    fields = cast("dict[str, Json]", reference) if isinstance(reference, dict) else {}
    return tuple(
        text for value in fields.values() if isinstance(value, (str, int, float)) for text in gold_texts(value)
    )


def _gold_texts(reference: Json) -> Iterable[str]:
    if isinstance(reference, str):
        marked = _MARKED.search(reference)
        boxes = _BOXED.findall(reference)
        if marked:
            yield marked.group(1)
        if boxes:
            yield boxes[-1]
        yield reference
        if marked:
            yield marked.group(1).replace(",", "")
    elif isinstance(reference, bool):
        yield from (str(reference), str(reference).lower(), "yes" if reference else "no")
    elif isinstance(reference, (list, tuple)):
        items = cast("list[Json]", list(reference))
        for item in items[:1]:
            yield from _gold_texts(item)
        if all(isinstance(item, (str, int, float)) for item in items):
            yield ", ".join(map(str, items))
        yield json.dumps(items)
        yield str(items)
    elif isinstance(reference, dict):
        fields = cast("dict[str, Json]", reference)
        yield json.dumps(fields)
        for key in _ANSWER_KEYS:
            if key in fields and not isinstance(fields[key], (dict, list, type(None))):
                yield from _gold_texts(fields[key])
    else:
        yield str(reference)
        if isinstance(reference, float) and reference.is_integer():
            yield str(int(reference))
        if reference is None:
            yield "null"


def accepted_texts(reference: Json) -> tuple[str, ...]:
    """Every text that counts as right: those of `gold_texts`, and all items of a list of accepted answers."""
    items = cast("list[Json]", reference) if isinstance(reference, list) else []
    return tuple(dict.fromkeys([*gold_texts(reference), *(text for item in items for text in gold_texts(item))]))


def is_same(text: str, accepted: Sequence[str]) -> bool:
    """Whether an answer equals one of the accepted texts, apart from case, markup, and the way a number is written."""
    if len(text) > _MAX_CHARS:
        folded = _folded(text)
        return any(_folded(other) == folded for other in accepted)
    key = _key(text)
    return any(_key(other) == key for other in accepted)


def states_last(text: str, accepted: Sequence[str]) -> bool:
    """Whether a reader that takes the end of the text, its last number, letter or word, could find an accepted answer.

    >>> states_last("12, or rather 42.", ["42"]), states_last("it is not 42 but 142", ["42"])
    (True, False)
    """
    tail = text[-_TAIL_CHARS:]
    if not _DIGIT.search(tail):
        tail = text[-_LONG_TAIL_CHARS:]
    stripped = _CLOSING.sub(" ", tail).rstrip(_PUNCTUATION)
    numbers = [found[-1] for reader in _READERS if (found := reader.findall(tail))]
    letters = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", tail)
    for gold in map(str.strip, accepted):
        number = _key(gold)
        if isinstance(number, Fraction) and any(_key(found) == number for found in numbers):
            return True
        if len(gold) == 1 and gold.isalpha() and letters and letters[-1].upper() == gold.upper():
            return True
        if len(gold) > len(tail):
            end = text[-2 * len(gold) - _TAIL_CHARS :]
            if _folded(_CLOSING.sub(" ", end)).endswith(_folded(gold)):
                return True
        if gold and stripped.casefold().endswith(gold.casefold()):
            before = stripped[: len(stripped) - len(gold)][-1:]
            if not before or not (before.isalnum() or before in "-+./\\"):
                return True
    return False


def number_of(text: str) -> Fraction | None:
    """The number that a short text is; None when it is none."""
    text = text.strip().strip("$").removesuffix("%").replace("\u2212", "-").replace(",", "").replace(" ", "")
    if not text or len(text) > _MAX_CHARS:
        return None
    text = _FRACTION.sub(r"\1\2/\3", text)
    try:
        return Fraction(text) if _PLAIN_NUMBER.fullmatch(text) else None
    except (ValueError, ZeroDivisionError):
        return None


@functools.lru_cache(maxsize=4096)
def _key(text: str) -> str | Fraction:
    """What equal answers have in common: a number, or the text without case, spaces and markup around it."""
    text = text.strip()
    boxes = _BOXED.findall(text)
    if boxes and _BOXED.sub("", text).strip(" .$") == "":
        text = boxes[-1]
    is_peeled = True
    while is_peeled:
        is_peeled = False
        text = text.strip().rstrip(".").strip()
        for start, end in _WRAPPERS:
            if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end):
                text, is_peeled = text[len(start) : -len(end)], True
    number = number_of(text)
    if number is not None:
        return number
    folded = _folded(text)
    return _WORDS_OF_TRUTH.get(folded, folded)


def _folded(text: str) -> str:
    """The text without case and white space."""
    return "".join(text.casefold().split())
