"""Finds the program in a completion: the solution among its fenced blocks, preferring the requested language."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr_verifiers.codecheck.answer.blocks import solution_of
from rlvr_verifiers.thinking import DEFAULT_THINKING, NEVER_CLOSED, Thinking

_TAGS: Mapping[str, re.Pattern[str]] = {
    "python": re.compile(r"i?py(?:thon)?[\d.]*"),
    "cpp": re.compile(r"(?:gnu)?(?:cpp|c\+\+|cc|cxx)[\da-z]{0,2}"),
}
_MAX_LINE = 2_000  # longer lines are not searched for quotes
_TEXTS = re.compile(r"""#.*|'''|\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. tag: the first word after the fence, in lower case. is_closed: it has a closing fence."""

    tag: str
    code: str
    is_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program to run."""

    language: str
    code: str


def fenced_blocks(text: str) -> list[Block]:
    r"""All fenced blocks of a text, in order; the indentation of a fence is removed from the lines inside.

    >>> fenced_blocks("so:\n```python\nx = 1\n```\n")
    [Block(tag='python', code='x = 1\n', is_closed=True)]
    """
    lines = text.replace("\r\n", "\n").split("\n")
    blocks = _read_blocks(lines, minds_quotes=True)
    # an unclosed triple quote is a mistake in the program, not a reason to read on
    return blocks if not blocks or blocks[-1].is_closed else _read_blocks(lines, minds_quotes=False)


def _read_blocks(rows: Sequence[str], *, minds_quotes: bool) -> list[Block]:
    """All blocks. minds_quotes: a fence inside a triple-quoted string of a Python block does not end the block."""
    blocks: list[Block] = []
    opened: _Fence | None = None
    lines: list[str] = []
    quote = ""
    for line in rows:
        fence = _read_fence(line)
        if opened is None:
            if fence is not None and (fence.is_first or fence.tag):
                opened, lines, quote = fence, [], ""
        elif fence is not None and fence.closes(opened) and not (minds_quotes and quote):
            blocks.append(Block(tag=opened.tag, code=_joined(lines), is_closed=True))
            opened = None
        else:
            blank = len(line) - len(line.lstrip(" \t"))
            lines.append(line[min(opened.indent, blank) :])
            if minds_quotes and len(line) <= _MAX_LINE and (quote or "'''" in line or '"""' in line):
                quote = _quote_after(line, quote) if _language_of(opened.tag, ("python",)) else ""
    if opened is not None:
        blocks.append(Block(tag=opened.tag, code=_joined(lines), is_closed=False))
    return blocks


def find_program(
    text: str, languages: Sequence[str], *, names: Sequence[str] = (), thinking: Thinking = DEFAULT_THINKING
) -> tuple[Program | None, str]:
    r"""(the program, why there is none). Only the text after the thinking is read.

    Blocks tagged with one of the languages are preferred to untagged ones, closed blocks to one that is cut off; among
    these `solution_of` finds the solution. An untagged block is in the first language.

    Args:
        names: the names that the tests may call; none for programs that read standard input.

    >>> find_program("```py\nx = 1\n```\nIt prints\n```\n1\n```", ["python"])[0]
    Program(language='python', code='x = 1\n')
    """
    body = thinking.answer_of(text)
    if body is None:
        return None, NEVER_CLOSED
    blocks = fenced_blocks(body)
    for is_closed in (True, False):
        some = [(block, _language_of(block.tag, languages)) for block in blocks]
        some = [(block, language) for block, language in some if block.is_closed is is_closed]
        tagged = [(block, language) for block, language in some if language]
        untagged = [(block, languages[0]) for block, _ in some if not block.tag]
        found = tagged or untagged
        if found:
            if not found[-1][0].code.strip():
                return None, "the last fenced block is empty"
            language = found[-1][1]
            codes = [block.code for block, other in found if other == language]
            return Program(language=language, code=solution_of(codes, language, names)), ""
    if not blocks:
        return None, "the completion has no fenced code block"
    tags = ", ".join(sorted({block.tag for block in blocks}))[:60]
    return None, f"no fenced block is in {' or '.join(languages)}; there are blocks in {tags}"


def _language_of(tag: str, languages: Sequence[str]) -> str:
    """The requested language that a tag means; "" for none."""
    word = tag.strip("{}.").partition(",")[0]
    return next((name for name in languages if _TAGS[name].fullmatch(word)), "")


def _quote_after(line: str, quote: str) -> str:
    """The triple quote that is open after a line of Python, given the one open before it."""
    at = 0
    while True:
        if quote:
            end = line.find(quote, at)
            if end < 0:
                return quote
            at, quote = end + 3, ""
        found = _TEXTS.search(line, at)
        if found is None:
            return ""
        at = found.end()
        if found[0] in ("'''", '"""'):
            quote = found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fence:
    """A fence in a line. is_first: nothing but blanks precedes it."""

    marks: str
    tag: str
    indent: int
    is_first: bool

    def closes(self, opened: "_Fence") -> bool:
        return self.is_first and not self.tag and self.marks.startswith(opened.marks)


def _read_fence(line: str) -> _Fence | None:
    """The fence at the beginning of a line, or at its end after other words; None if there is none.

    Takes linear time, because the policy may write lines of any length.
    """
    at = line.find("```")
    rest = line.lstrip(" \t")
    if rest.startswith("~~~"):
        at = len(line) - len(rest)
    if at < 0:
        return None
    mark = line[at]
    info = line[at:].lstrip(mark)
    is_first = not line[:at].strip(" \t")
    words = info.split(None, 1)
    if mark in info or (not is_first and (len(words) != 1 or not words[0][0].isalpha())):
        return None
    marks = line[at : len(line) - len(info)]
    return _Fence(marks=marks, tag=words[0].lower() if words else "", indent=at if is_first else 0, is_first=is_first)


def _joined(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)
