"""The program in a completion: the last fenced block, with a block in the asked language first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TAGS: Mapping[str, frozenset[str]] = {
    "python": frozenset({"python", "py", "python3", "py3"}),
    "cpp": frozenset({"cpp", "c++", "cc", "cxx"}),
}
_THINKING_ENDS = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. tag: the first word after the fence, in lower case. is_closed: a closing fence was seen."""

    tag: str
    code: str
    is_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to be run."""

    language: str
    code: str


def fenced_blocks(text: str) -> list[Block]:
    r"""All fenced blocks of a text, in order; an indented fence takes its indentation off the lines inside.

    >>> fenced_blocks("so:\n```python\nx = 1\n```\n")
    [Block(tag='python', code='x = 1\n', is_closed=True)]
    """
    blocks: list[Block] = []
    opened: _Fence | None = None
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        fence = _read_fence(line)
        if opened is None:
            if fence is not None and (fence.is_first or fence.tag):
                opened, lines = fence, []
        elif fence is not None and fence.closes(opened):
            blocks.append(Block(tag=opened.tag, code=_joined(lines), is_closed=True))
            opened = None
        else:
            blank = len(line) - len(line.lstrip(" \t"))
            lines.append(line[min(opened.indent, blank) :])
    if opened is not None:
        blocks.append(Block(tag=opened.tag, code=_joined(lines), is_closed=False))
    return blocks


def find_program(text: str, languages: Sequence[str]) -> tuple[Program | None, str]:
    r"""(the program, why there is none). Only what follows the last `</think>` is read.

    A block tagged with one of the languages wins over one without a tag, a closed one over one that the text cuts off,
    and then the last wins. A block without a tag is in the first language.

    >>> find_program("```py\nx = 1\n```\nIt prints\n```\n1\n```", ["python"])[0]
    Program(language='python', code='x = 1\n')
    """
    blocks = fenced_blocks(text.rpartition(_THINKING_ENDS)[2])
    language_of = {tag: language for language in languages for tag in TAGS[language]}
    for is_closed in (True, False):
        some = [block for block in blocks if block.is_closed is is_closed]
        tagged = [block for block in some if block.tag in language_of]
        untagged = [block for block in some if not block.tag]
        found = tagged or untagged
        if found:
            last = found[-1]
            if not last.code.strip():
                return None, "the last fenced block is empty"
            language = language_of.get(last.tag, languages[0])
            return Program(language=language, code=last.code), ""
    if not blocks:
        return None, "the completion has no fenced code block"
    tags = ", ".join(sorted({block.tag for block in blocks}))[:60]
    return None, f"no fenced block is in {' or '.join(languages)}; there are blocks in {tags}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fence:
    """A fence in a line. is_first: nothing but blanks stands before it."""

    marks: str
    tag: str
    indent: int
    is_first: bool

    def closes(self, opened: "_Fence") -> bool:
        return self.is_first and not self.tag and self.marks.startswith(opened.marks)


def _read_fence(line: str) -> _Fence | None:
    """The fence that a line begins with, or ends with after other words; None when it has none.

    Each step looks at a character once: a line is as long as the policy likes.
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
    return _Fence(
        marks=marks,
        tag=words[0].lower() if words else "",
        indent=at if is_first else 0,
        is_first=is_first,
    )


def _joined(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)
