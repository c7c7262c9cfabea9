"""Where the final answer stands in a completion: string work only, linear in the text.

The text after the last `</think>`; in it the last `\\boxed{}`; without any box `#### x`, `Final
answer: x` or `the answer is x`. A last box that is never closed is a truncated answer, never an
    earlier box.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE_BOX = re.compile(r"\\?[A-Za-z0-9.+-]+")
_LINK = re.compile(
    r"[\s$*]*(?:,|;|\\quad|\\qquad|&)?[\s$*]*(?:or\b|and\b|\\text\s*\{\s*(?:or|and)\s*\})?[\s$*]*",
    re.IGNORECASE,
)
_MAX_LINK_CHARS = 40
_MARKER = re.compile(
    r"####|\bfinal\s+answer\b\**\s*(?:is\b|[:=])?\**\s*:?"
    r"|\b(?:the|our|my)\s+(?:correct\s+)?answer\s+is\b\**\s*:?",
    re.IGNORECASE,
)
_STOP = re.compile(
    r"\n|[.!?](?=\s|$)|[.!?]?\*\*(?=\s|$)| because | since | which | where |, so ", re.IGNORECASE
)
_ALTERNATIVES = re.compile(r"\s+or\s+|\\text\s*\{\s*or\s*\}", re.IGNORECASE)
_MAX_MARKED_CHARS = 500


class Found(StrEnum):
    """What extraction found."""

    ANSWER = "answer"
    NONE = "none"
    TRUNCATED = "truncated"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One `\\boxed{content}` at text[start:end]."""

    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The final answer; `alternatives` holds all parts where the text offers several (the answer is
    the last).
    """

    found: Found
    reason: str
    answer: str = ""
    alternatives: tuple[str, ...] = ()
    rival: str = ""  # another final answer, stated after the box


def after_thinking(text: str) -> str | None:
    """The text after the last `</think>`; all of it without thinking; None when thinking never
    closed.
    """
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    if opened > closed:
        return None
    return text[closed + len("</think>") :] if closed >= 0 else text


def find_boxes(text: str) -> tuple[list[Box], bool]:
    """The outermost closed boxes in order, and whether the last box is never closed.

    >>> find_boxes(r"\\boxed{\\frac{1}{2}} and \\boxed{3")[1]
    True
    """
    boxes: list[Box] = []
    position = 0
    while (match := _BOX.search(text, position)) is not None:
        start = match.end()
        if text[start : start + 1] != "{":
            bare = _BARE_BOX.match(text, start)
            position = bare.end() if bare else start
            content = bare.group(0).rstrip(".") if bare else ""
            boxes.append(Box(start=match.start(), end=position, content=content))
            continue
        end = _closing_brace(text, start)
        if end < 0:
            return boxes, True
        boxes.append(Box(start=match.start(), end=end + 1, content=text[start + 1 : end]))
        position = end + 1
    return boxes, False


def extract(text: str, *, is_cut: bool) -> Extraction:
    """The final answer of a completion.

    Args:
        is_cut: the completion hit its length limit; then only a closed box counts.
    """
    body = after_thinking(text)
    if body is None:
        return Extraction(found=Found.TRUNCATED, reason="the thinking was never closed")
    boxes, is_open = find_boxes(body)
    if is_open:
        return Extraction(found=Found.TRUNCATED, reason="the last \\boxed{ was never closed")
    if boxes:
        return _from_boxes(body, boxes)
    if is_cut:
        return Extraction(
            found=Found.TRUNCATED, reason="the completion was cut off before a boxed answer"
        )
    marked = _marked(body)
    if marked is None:
        reason = "there is no \\boxed{}, no ####, no 'final answer:' and no 'the answer is'"
        return Extraction(found=Found.NONE, reason=reason)
    if not marked:
        return Extraction(found=Found.EMPTY, reason="the final answer is empty")
    parts = tuple(part.strip() for part in _ALTERNATIVES.split(marked))
    return Extraction(
        found=Found.ANSWER, reason="", answer=marked, alternatives=parts if len(parts) > 1 else ()
    )


def _from_boxes(body: str, boxes: list[Box]) -> Extraction:
    joined = [boxes[-1]]
    for earlier in reversed(boxes[:-1]):
        between = body[earlier.end : joined[0].start]
        if len(between) > _MAX_LINK_CHARS or "\n\n" in between or not _LINK.fullmatch(between):
            break
        joined.insert(0, earlier)
    contents = tuple(dict.fromkeys(_unbox(box.content) for box in joined))
    answer = _unbox(boxes[-1].content)
    if not answer:
        return Extraction(found=Found.EMPTY, reason="the last box is empty")
    return Extraction(
        found=Found.ANSWER,
        reason="",
        answer=answer,
        alternatives=contents if len(contents) > 1 else (),
        rival=_marked(body[boxes[-1].end :]) or "",
    )


def _unbox(content: str) -> str:
    """The content without boxes inside it."""
    for _ in range(5):
        boxes, _cut = find_boxes(content)
        if not boxes:
            break
        content = boxes[-1].content
    return content.strip()


def _marked(text: str) -> str | None:
    """What follows the last marker, to the end of its sentence; None without a marker."""
    last = None
    for match in _MARKER.finditer(text):
        last = match
    if last is None:
        return None
    rest = text[last.end() : last.end() + _MAX_MARKED_CHARS].lstrip(" \t:*")
    dollars = re.match(r"(\$\$?)((?:(?!\.\s)[^$\n])+)\1", rest)
    if dollars:
        rest = dollars.group(2)
    else:
        rest = rest.lstrip("\n")
        stop = _STOP.search(rest)
        rest = rest[: stop.start()] if stop else rest
    return rest.strip().strip("*$").rstrip(".").strip()


def _closing_brace(text: str, start: int) -> int:
    """The index of the brace that closes the one at `start`; -1 without one. Escaped braces do not
    count.
    """
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        token = match.group(0)
        if token == "{":
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1
