"""Conditions after an answer, which say where it holds: `2n - 1 (n ≥ 1)`, `f(x) = kx for all real x`."""

import re

from rlvr_verifiers.mathcheck.read.equalities import CONDITION
from rlvr_verifiers.mathcheck.text.spelling import split_outside
from rlvr_verifiers.mathcheck.values.answers import Reader, Reading

_ORDER = re.compile(r"[<>≤≥≠∈]")
_HINT = re.compile(r"[<>≤≥≠∈]|\\(?:forall|text|ldots)|\.\.\.|constant|real|integer|for |where |with ")
_FOR_ALL = re.compile(r"\s*[,(;]?\s*(?:\\text\s*\{\s*[,(]?\s*\})?\s*\\forall(?![a-z]).*$")
_LETTER = r"(?:[A-Za-z](?:_\{?\w\}?)?|\\(?:alpha|beta|gamma|lambda|mu|theta|epsilon)\s?)"
_ABOUT = re.compile(
    rf"(?:\\text\s*\{{\s*(?:for|where|with|and)?\s*(?:all|any|every|each|some)?\s*(?:real|positive|integers?)?\s*\}}\s*)?"
    rf"(?:(?P<name>{_LETTER}(?:\s*,\s*{_LETTER})*)\s*(?:[∈<>≤≥≠][^=]*|=\s*-?\d+\s*,(?:\s*-?\d+\s*,)*\s*(?:\\ldots|\.\.\.).*)"
    rf"|-?\d+\s*[<≤]\s*(?P<between>{_LETTER})\s*(?:[<≤].*)?)"
)
_SAID = re.compile(
    rf"(?P<name>{_LETTER})\s*(?:=\s*)?\\text\s*\{{\s*(?:is |=)?\s*"
    r"(?:an? |any |some )*(?:arbitrary |real |positive |constant |integer )*"
    rf"(?:constants?|const\.?|reals?|integers?|numbers?|parameters?)\s*\}}"
    rf"|(?P<plain>{_LETTER})\s+(?:is )?(?:an? |any )?(?:arbitrary |real )*(?:constant|real|integer)(?: number)?"
)


def conditional(text: str, reader: Reader) -> list[Reading] | None:
    """The readings of an answer without the condition after it; None if there is none."""
    if _HINT.search(text) is None:
        return None
    for shorter in (_FOR_ALL.sub("", text), CONDITION.sub("", text), _without(text)):
        shorter = shorter.strip().rstrip(",;").strip()
        if shorter and shorter != text and not _ORDER.search(shorter):
            return reader.readings(shorter) or None
    return None


def _without(text: str) -> str:
    """The text without a condition, in brackets or after a comma, on a letter of the rest."""
    if text.endswith(")"):
        start = _opening(text)
        head = text[:start].strip()
        if head and is_condition(text[start + 1 : -1].strip(), head):
            return head
    if "," not in text and ";" not in text and "\\text" not in text:
        return text
    parts = split_outside(text, ",;")
    for index in range(1, len(parts)):
        head = ", ".join(parts[:index])
        if is_condition(", ".join(parts[index:]), head):
            return head
    return text


def is_condition(text: str, head: str) -> bool:
    """Whether the text restricts a letter of the head."""
    match = _ABOUT.fullmatch(text) or _SAID.fullmatch(text)
    if match is None:
        return False
    found = match.groupdict()
    name = found.get("name") or found.get("between") or found.get("plain") or ""
    return all(
        re.search(rf"(?<!\\){re.escape(one.strip())}(?![a-z]{{2}})", head) is not None for one in name.split(",")
    )


def _opening(text: str) -> int:
    """The position of the bracket that the last character closes; 0 if there is none."""
    depth = 0
    for index in range(len(text) - 1, -1, -1):
        depth += (text[index] == ")") - (text[index] == "(")
        if depth == 0:
            return index
    return 0
