r"""`\boxed{}` and `\fbox{}` in a text, found by matching braces in linear time; only the end of the text is searched.

>>> last_boxes(r"First \boxed{3}, then \boxed{\frac{1}{2}}.").boxes[-1].content
'\\frac{1}{2}'
>>> last_boxes(r"We had \boxed{5}, and now \boxed{\frac{1}{2").is_open
True
"""

import re
from dataclasses import dataclass

_COMMANDS = ("\\boxed", "\\fbox")
_TOKEN = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{)?|(?:\\[^A-Za-z](?!boxed|fbox))+|\{+|\}+", re.DOTALL)
_BARE = re.compile(r"(?:\\[A-Za-z]+|\{[^{}\n]{0,200}\}|[^\s\\{}$]){1,200}")
_COMMENT = re.compile(r"(?<!\\)%[^\n]*\n\s*")
_MAX_BOXES = 64
_MAX_NESTED = 8
_NO_BOX = (-1, 0)
_STRAY = re.compile(r"([^{}\\\n]{1,40})\\\}[\s$.]*$")


@dataclass(frozen=True, slots=True)
class Box:
    """One `\\boxed{content}` at text[start:end]; the content is without inner boxes and LaTeX comments."""

    start: int
    end: int
    content: str


@dataclass(frozen=True, slots=True)
class Boxes:
    """The outermost closed boxes near the end of a text, in order; `is_open`: the last box was never closed."""

    boxes: tuple[Box, ...]
    is_open: bool


_NO_BOXES = Boxes((), False)


def last_boxes(text: str) -> Boxes:
    """The last boxes of the text, at most 64. A box on an earlier line that was never closed is ignored."""
    start, last_start = _commands(text)
    if start < 0:
        return _NO_BOXES
    found, still_open = _scan(text, start, last_start)
    if still_open and (stray := _STRAY.match(text, text.find("{", still_open[-1]) + 1)):
        begin = still_open[-1]  # "\\boxed{185\\}": a backslash too many before the closing brace
        return Boxes((Box(begin, len(text), stray.group(1).strip()),), False)
    if not found:
        return Boxes((), bool(still_open))
    last = found[-1]
    is_open = bool(still_open) and any(
        begin > last[0] or text.find("\n", begin, last[0]) < 0 for begin in still_open[-_MAX_BOXES:]
    )
    boxes = tuple(Box(begin, end, _clean(text[inner:close])) for begin, inner, close, end in found)
    return Boxes(boxes, is_open)


def _commands(text: str) -> tuple[int, int]:
    """The positions of the 64th command from the end and of the last; (-1, -1) if there is none."""
    starts: list[int] = []
    for command in _COMMANDS:
        end = len(text)
        for _ in range(_MAX_BOXES):
            end = text.rfind(command, 0, end)
            if end < 0:
                break
            starts.append(end)
    return (min(starts), max(starts)) if starts else (-1, -1)


def _scan(text: str, start: int, last_start: int) -> tuple[list[tuple[int, int, int, int]], list[int]]:
    """The outermost closed boxes as (begin, start of content, end of content, end), and the positions of open ones.

    Args:
        last_start: the position of the last command.
    """
    found: list[tuple[int, int, int, int]] = []
    stack: list[tuple[int, int]] = []  # per open brace: the begin of its box (-1: none) and of its content
    num_open = 0
    for match in _TOKEN.finditer(text, start):
        if not num_open and match.start() > last_start:
            break
        token = text[match.start()]
        if token == "{":
            stack += [_NO_BOX] * (match.end() - match.start())
        elif token == "}":
            for close in range(match.start(), match.end()):
                begin, inner = stack.pop() if stack else _NO_BOX
                if begin >= 0:
                    num_open -= 1
                    _add(found, (begin, inner, close, close + 1))
        elif match.group(1):
            num_open += 1
            stack.append((match.start(), match.end()))
        elif match.group().startswith(_COMMANDS):
            bare = _BARE.match(text, match.end())
            end = bare.end() if bare else match.end()
            while end > match.end() and text[end - 1] in ".,;:":
                end -= 1
            _add(found, (match.start(), match.end(), end, end))
    return found, [begin for begin, _ in stack if begin >= 0]


def _add(found: list[tuple[int, int, int, int]], box: tuple[int, int, int, int]) -> None:
    while found and found[-1][0] > box[0]:
        found.pop()  # the boxes inside this one
    found.append(box)


def _clean(content: str) -> str:
    """The content without the commands of inner boxes and without LaTeX comments."""
    if "%" in content and "\n" in content:
        content = _COMMENT.sub("", content)
    for _ in range(_MAX_NESTED):
        if "\\boxed" not in content and "\\fbox" not in content:
            break
        found, _still_open = _scan(content, 0, len(content))
        if not found:
            break
        parts: list[str] = []
        position = 0
        for begin, inner, close, end in found:
            parts += [content[position:begin], content[inner:close]]
            position = end
        content = "".join([*parts, content[position:]])
    return content.strip()
