r"""Text next to a box that affects its answer: a unit or a sign, a denial, another value after "or".

>>> with_surroundings("It is $", r"\text{ cm}$.", "5")
'5 \\text{cm}'
"""

import re

from rlvr_verifiers.mathcheck.text.units import is_known, parse_unit

_NUMBER = re.compile(r"\s*-?\s*(?:[\d.,]+|\\d?t?frac\s*\{\d+\}\s*\{\d+\}|\d+\s*/\s*\d+)\s*")
_MINUS = re.compile(r"(?:\$|=|\\\[|\\\()\s*-\s*$")
_UNIT_AFTER = re.compile(
    r"[\s~$]{0,3}(?:\\[,;: ]|~)?\s{0,2}(?:\\(?:text|mathrm|textrm)\s*\{\s*(?P<text>[A-Za-z ./]{1,30}?)\s*\}"
    r"(?P<power>\s*\^\s*\{?[23]\}?)?|(?P<percent>\\?%)|(?P<word>[A-Za-z]{1,12})(?=\s*[.,;!]?\s*(?:\$|\n|$)))"
)
_DENIED = re.compile(r"(?:\bnot|n't|\brather\s+than|\binstead\s+of)(?:\s+(?:be|the))?[\s$*(:]{0,6}$")
_ANSWER_DENIED = re.compile(r"\banswer\s+(?:is|was)(?:\s+not|n't)\s*(?:be|the)?[\s$*(:]{0,6}$")
_OR_AFTER = re.compile(
    r"[\s$*)\]\\]{0,6}\bor\b\s+(?:(?:maybe|possibly|perhaps|probably|else|even|also|is\s+it)\s+)?"
    r"(?:\\boxed\b)?[$\s*]*([-+]?[\w\\{}^/.]*\d[\w\\{}^/.]*)"
)
_OR_BEFORE = re.compile(r"(?:^|[\s$=(])(?P<value>[-+]?[\w\\{}^/.]*\d[\w\\{}^/.]*)[\s$*]{0,3}\s+or\s+[$\s*]{0,3}$")
_NEAR_CHARS = 60


def with_surroundings(before: str, after: str, content: str) -> str:
    """The content of a box; to a bare number the minus sign before the box and the unit after it are added.

    Args:
        before: the text up to the box.
        after: the text from the end of the box on.
    """
    if not _NUMBER.fullmatch(content):
        return content
    if _MINUS.search(before[-_NEAR_CHARS:]) is not None and not content.lstrip().startswith("-"):
        content = f"-{content.strip()}"
    match = _UNIT_AFTER.match(after[:_NEAR_CHARS])
    if match is None:
        return content
    if match["percent"]:
        return f"{content}\\%"
    name = match["text"] or match["word"]
    if name.casefold() in ("percent", "per cent", "pct"):
        return f"{content}\\%"
    unit = parse_unit(name)
    if unit is None or not is_known(unit):
        return content
    return f"{content} \\text{{{name}}}{match['power'] or ''}"


def is_denied(before: str, *, is_only: bool) -> bool:
    """Whether the words before a box deny it: "8 (not [7])"; for the only box also "the answer is not [7]"."""
    pattern = _ANSWER_DENIED if is_only else _DENIED
    return pattern.search(before[-_NEAR_CHARS:]) is not None


def alternative(before: str, after: str) -> str:
    """The value that an "or" before or after the box offers instead; "" if there is none.

    >>> alternative("It is ", " or maybe 11."), alternative("11 or ", "")
    ('11', '11')
    """
    if "or" in after[:12] and (found := _OR_AFTER.match(after[:200])):
        return found.group(1).rstrip(".")
    near = before[-_NEAR_CHARS:]
    if "or" in near[-8:] and (found := _OR_BEFORE.search(near)):
        return found["value"]
    return ""
