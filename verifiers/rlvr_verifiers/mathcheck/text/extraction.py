r"""Finds the final answer in a completion, by string operations in linear time.

Only the text after the last closed think tag counts. The answer is in its last `\boxed{}`; without a box it is what a
marker announces (`#### x`, `Final answer: x`, `The answer is x`), or the whole text if that is a single value. It is
never the last number in running text, and never an earlier box if the last one was cut off.

>>> extract(r"I first had \boxed{16}, but then \boxed{17}.", is_cut=False).answer
'17'
>>> extract("We counted 17 apples.", is_cut=False).found
<Found.NONE: 'none'>
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from rlvr_verifiers.mathcheck.text.boxes import Box, last_boxes
from rlvr_verifiers.mathcheck.text.markers import ALL_MARKERS, Origin, as_marked, last_marked, tagged, whole_text
from rlvr_verifiers.mathcheck.text.surroundings import alternative, is_denied, with_surroundings
from rlvr_verifiers.retraction import Retraction, hedge, retraction
from rlvr_verifiers.thinking import DEFAULT_THINKING, NEVER_CLOSED, Thinking

_MAX_LINK_CHARS = 80
_MAX_APART_CHARS = 300
_NEAR_CHARS = 100
_LINK = re.compile(
    r"(?:\s|[$*,;&|~{}]|\\[,;:!\[\]()\\]|\\(?:quad|qquad|text|mathrm|textbf)(?![A-Za-z])"
    r"|\b(?:or|and|either|respectively|maybe|perhaps|possibly|it\s+is)\b|-\s|(?<![A-Za-z])[A-Za-z](?:_\{?\w\}?)?\s{0,2}=)*",
    re.IGNORECASE,
)
_CONNECTIVE = re.compile(r"\b(?:or|and)\b|[,;&]", re.IGNORECASE)
_BREAK = re.compile(
    r"[.!?](?:\s|$)|\n\s*\n|\b(?:but|wait|actually|instead|no|correct(?:ion|ed)?|so|hence|thus|therefore)\b|=\s*\$?$",
    re.IGNORECASE,
)
_PART = r"(?:root|solution|zero|value|intercept|number|integer)"
_NEXT_PART = re.compile(  # "\n\nSecond root: " between two boxes
    rf"[\s$.*;,\\)\]]{{0,12}}\n[\s*#>-]{{0,8}}(?:and\s+)?(?:the\s+)?(?:(?:second|third|fourth|fifth|other|last)\s+{_PART}"
    rf"|{_PART}\s+(?:[2-9]|two|three|four|five))[\s*]{{0,4}}(?:is|:|=)[\s$*]{{0,6}}(?:[A-Za-z](?:_\{{?\d\}}?)?\s?=[\s$]{{0,4}})?",
    re.IGNORECASE,
)
_FILLING = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|quad|qquad|square|Box|ldots|dots|cdots|phantom|hspace|underline)\b"
    r"|[\s{}\[\]<>()$*_.…?~\\:!-]"
)
_PLACEHOLDER = re.compile(
    r"(?:(?:your|the|my|insert|put|write|enter|final|numerical|correct|value|of)*answer(?:here)?|ans|result)?",
    re.IGNORECASE,
)


_CHAT_TOKEN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|end_of_text|eot_id|eom_id|end|user|start_header_id|begin_of_text)\|>"
)


class Found(StrEnum):
    """The result of the extraction."""

    ANSWER = "answer"
    NONE = "none"
    TRUNCATED = "truncated"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionOptions:
    """Which markers count if there is no box, and which tags enclose thinking."""

    markers: frozenset[Origin] = ALL_MARKERS
    thinking: Thinking = DEFAULT_THINKING


DEFAULT = ExtractionOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The final answer of a completion.

    Attributes:
        reason: why there is no answer; "" with Found.ANSWER.
        core: the formula or bold part with which a longer marked answer begins.
        parts: the distinct boxes of the final statement in order, if it has several; `answer` is the last one.
        list_parts: the boxes of the whole last sentence; used only for a reference with as many elements.
        rival: a different final answer that is stated after the box.
    """

    found: Found
    reason: str = ""
    origin: Origin | None = None
    answer: str = ""
    core: str = ""
    parts: tuple[str, ...] = ()
    list_parts: tuple[str, ...] = ()
    rival: str = ""


def extract(text: str, *, is_cut: bool, options: ExtractionOptions = DEFAULT) -> Extraction:
    """The final answer of a completion.

    Args:
        is_cut: the completion hit its length limit, so only a closed box counts.
    """
    body = options.thinking.answer_of(text)
    if body is None:
        return Extraction(found=Found.TRUNCATED, reason=NEVER_CLOSED)
    if "<|" in body:
        body = _of_one_turn(body)
    found = last_boxes(body)
    if found.is_open:
        return Extraction(found=Found.TRUNCATED, reason="the last \\boxed{ was never closed")
    if found.boxes:
        return _from_boxes(body, found.boxes, options)
    if is_cut:
        reason = "the completion was cut off before a boxed answer"
        return Extraction(found=Found.TRUNCATED, reason=reason)
    marked = tagged(body) if Origin.FINAL_ANSWER in options.markers else None
    if marked is None:
        marked = last_marked(body, markers=options.markers)
    if marked is None and Origin.WHOLE_TEXT in options.markers:
        marked = whole_text(body)
    if marked is None:
        return Extraction(found=Found.NONE, reason="there is no \\boxed{} and no other mark of a final answer")
    if is_placeholder(marked.answer):
        return Extraction(found=Found.EMPTY, reason="the final answer is empty", origin=marked.origin)
    tail = body[marked.tail :] if marked.tail >= 0 else ""
    if (taken_back := retraction(tail)) is not None:
        return _instead(taken_back, marked.origin)
    return Extraction(
        found=Found.ANSWER, origin=marked.origin, answer=marked.answer, core=marked.core, rival=hedge(tail)
    )


def _of_one_turn(body: str) -> str:
    """The text up to the chat token that ends the turn; what follows belongs to another role."""
    body = body.lstrip()
    while (leading := _CHAT_TOKEN.match(body)) is not None:
        body = body[leading.end() :].removeprefix("assistant").lstrip()
    ending = _CHAT_TOKEN.search(body)
    return body if ending is None else body[: ending.start()]


def is_placeholder(answer: str) -> bool:
    """Whether the answer is empty or a placeholder: white space, dots, a question mark, "your answer here".

    >>> is_placeholder(r"\\text{your answer}"), is_placeholder("7"), is_placeholder("...")
    (True, False, True)
    """
    # \\{\\} is the empty set, not a placeholder
    if len(answer) > 60 or any(map(str.isdigit, answer)) or "\\{" in answer:
        return False
    return _PLACEHOLDER.fullmatch(_FILLING.sub("", answer)) is not None


def _from_boxes(body: str, boxes: tuple[Box, ...], options: ExtractionOptions) -> Extraction:
    last = boxes[-1]
    while len(boxes) > 1 and is_denied(_before(body, last), is_only=False):
        boxes = boxes[:-1]
        last = boxes[-1]
    before, after = _before(body, last), body[last.end :]
    if len(boxes) == 1 and is_denied(before, is_only=True):
        return Extraction(found=Found.NONE, reason="the only box is what the answer is not")
    if is_placeholder(last.content):
        return Extraction(found=Found.EMPTY, reason="the last box is empty", origin=Origin.BOX)
    if (taken_back := retraction(after)) is not None:
        return _instead(taken_back, Origin.BOX)
    parts: tuple[str, ...] = ()
    list_parts: tuple[str, ...] = ()
    if len(boxes) > 1:
        parts = _distinct(_joined(body, boxes))
        list_parts = _distinct(_of_one_sentence(body, boxes))
    return Extraction(
        found=Found.ANSWER,
        origin=Origin.BOX,
        answer=with_surroundings(before, after, last.content),
        parts=parts if len(parts) > 1 else (),
        list_parts=list_parts if len(list_parts) > 1 else (),
        rival=_rival(before, after, options),
    )


def _instead(taken_back: Retraction, origin: Origin) -> Extraction:
    """The answer that replaces a retracted one."""
    if not taken_back.value:
        reason = "the final answer was retracted and not replaced"
        return Extraction(found=Found.NONE, reason=reason, origin=origin)
    marked = as_marked(taken_back.value, origin)
    return Extraction(found=Found.ANSWER, origin=origin, answer=_unboxed(marked.answer), core=_unboxed(marked.core))


def _unboxed(answer: str) -> str:
    boxes = last_boxes(answer).boxes
    return boxes[-1].content if boxes else answer


def _before(body: str, box: Box) -> str:
    return body[max(0, box.start - _NEAR_CHARS) : box.start]


def _distinct(boxes: list[Box]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(box.content for box in boxes))


def _joined(body: str, boxes: tuple[Box, ...]) -> list[Box]:
    """The last boxes that are separated only by commas, "and", "or" or labels such as `x =`."""
    joined = [boxes[-1]]
    for earlier in reversed(boxes[:-1]):
        if not _is_link(body[earlier.end : joined[0].start]):
            break
        joined.insert(0, earlier)
    return joined


def _of_one_sentence(body: str, boxes: tuple[Box, ...]) -> list[Box]:
    """The last boxes of a sentence, or of lines such as "Second root: ", without a retraction between them."""
    joined = [boxes[-1]]
    for earlier in reversed(boxes[:-1]):
        between = body[earlier.end : joined[0].start]
        is_apart = len(between) > _MAX_APART_CHARS or _BREAK.search(between) is not None
        if is_apart and not _is_link(between) and not _NEXT_PART.fullmatch(between[:_MAX_LINK_CHARS]):
            break
        joined.insert(0, earlier)
    return joined


def _is_link(between: str) -> bool:
    if len(between) > _MAX_LINK_CHARS or not _LINK.fullmatch(between):
        return False
    return "\n\n" not in between or _CONNECTIVE.search(between) is not None


def _rival(before: str, tail: str, options: ExtractionOptions) -> str:
    """A second final answer next to the last box: "or 5", or one that a later marker announces."""
    if other := alternative(before, tail) or hedge(tail):
        return other
    if "nswer" not in tail and "####" not in tail and "NSWER" not in tail:
        return ""
    marked = last_marked(tail, markers=options.markers)
    if marked is None or is_placeholder(marked.answer):
        return ""
    return marked.core or marked.answer
