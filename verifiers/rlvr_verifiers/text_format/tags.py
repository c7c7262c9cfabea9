"""Whether a text consists of tagged sections, each exactly once and in order.

>>> tag_problem("<think>2 + 2</think>\\n<answer>4</answer>", ("think", "answer"), TagRules())
''
>>> tag_problem("<answer>4</answer>", ("think", "answer"), TagRules())
'<think> is missing'
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRules:
    """How strict the tags are.

    allow_outside: text before, between and after the sections is allowed.
    allow_empty: a section may be empty or only white space.
    starts_inside: the prompt ends with the opening tag of the first section, so that the text need not have it.
    """

    allow_outside: bool = False
    allow_empty: bool = False
    starts_inside: bool = False


def tag_problem(text: str, tags: Sequence[str], rules: TagRules) -> str:
    """The first way in which a text breaks the format; "" if it follows it."""
    if rules.starts_inside and not text.lstrip().startswith(f"<{tags[0]}>"):
        text = f"<{tags[0]}>{text}"
    position = 0
    for name in tags:
        opening, closing = f"<{name}>", f"</{name}>"
        for mark in (opening, closing):
            count = text.count(mark)
            if count != 1:
                return f"{mark} is missing" if count == 0 else f"{mark} is there {count} times"
        start, end = text.find(opening), text.find(closing)
        if start < position:
            return f"{opening} is in the wrong place"
        if end < start:
            return f"{closing} comes before {opening}"
        if not rules.allow_outside and text[position:start].strip():
            return f"there is text before {opening}"
        if not rules.allow_empty and not text[start + len(opening) : end].strip():
            return f"{opening} is empty"
        position = end + len(closing)
    if not rules.allow_outside and text[position:].strip():
        return f"there is text after </{tags[-1]}>"
    return ""


def without_tags(text: str, tags: Sequence[str]) -> str:
    """The text without these tags, for checks of its words."""
    if not tags:
        return text
    return re.sub(rf"</?(?:{'|'.join(map(re.escape, tags))})>", " ", text)
