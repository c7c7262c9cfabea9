r"""The lexer: turns LaTeX or plain text into two flat lists, within limits and in linear time.

>>> tokenize(r"2\pi r^{2}")
(['num', 'const', 'name', '^', '{', 'num', '}', 'end'], ['2', 'pi', 'r', '', '', '2', '', ''])
"""

import re
from collections.abc import Callable

from rlvr_verifiers.mathcheck.text.vocabulary import BOLD, COMMANDS, ENGLISH, FONTS, FUNCTIONS, UNICODE, WORDS
from rlvr_verifiers.mathcheck.tree.nodes import TooBig, Unreadable

MAX_CHARS = 2000
MAX_TOKENS = 400
MAX_NESTING = 30

_TOKEN = re.compile(
    r"""
    (?P<num> (?: \d{1,3} (?: (?: ,\\[!,\ ] | \{,\} | \\[!,] | , ) \d{3} )+ (?!\d) | \d+ ) (?: \. \d* )? | \. \d+ )
        (?P<repeat> \\(?:overline|bar|dot) \s* (?: \{ \d+ \} | \d ) )?
        (?P<ten> [eE] (?: \+\d\d+ | -?\d+ ) (?! [\d.A-Za-z] ) )?
  | (?P<space> [\s~]+ )
  | \\ (?P<font> (?:text|math|bold|op|mbox|hbox|bm\b|pmb)[a-z]*\*? ) \s* (?: \{ (?P<text> [^{}\\$]* ) \} )
  | \\ (?P<command> [A-Za-z]+ | [\s\S] )
  | (?P<letters> [A-Za-z]+ )
  | (?P<other> [\s\S] )
    """,
    re.VERBOSE,
)
_AROUND = re.compile(r"([A-Za-z]?)(arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|sqrt|pi)([A-Za-z]?)")
_PRODUCT_LETTERS = 4
_OPENING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_CLOSING = frozenset(_OPENING.values())
_OTHER = {
    **{character: character for character in "+-*/^_()[]{}|!',%="},
    "$": "",  # delimits a formula; carries no meaning
}

Tokens = tuple[list[str], list[str]]


def tokenize(text: str) -> Tokens:
    """The kinds and the values of the tokens, followed by an "end" token.

    Raises:
        TooBig: more than 2,000 characters, 400 tokens or 30 nested brackets.
        Unreadable: a character, command or word that cannot occur in an expression, or unbalanced brackets.
    """
    if len(text) > MAX_CHARS:
        raise TooBig(f"it is longer than {MAX_CHARS} characters")
    if not text.isascii():
        text = text.translate(UNICODE)
    if "**" in text:
        if "\\" in text:
            raise Unreadable("'**' is not an operator in LaTeX")
        text = text.replace("**", "^")
    lexer = _Lexer()
    for match in _TOKEN.finditer(text):
        _READERS[match.lastgroup](lexer, match)
    if lexer.closers:
        raise Unreadable(f"{lexer.closers[-1]!r} is missing")
    if len(lexer.kinds) > MAX_TOKENS:
        raise TooBig(f"it has more than {MAX_TOKENS} tokens")
    lexer.add("end", "")
    return lexer.kinds, lexer.values


class _Lexer:
    """The tokens read so far, and the closing brackets still expected; one method for each group of `_TOKEN`."""

    __slots__ = ("closers", "kinds", "values")

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.values: list[str] = []
        self.closers: list[str] = []

    def add(self, kind: str, value: str) -> None:
        self.kinds.append(kind)
        self.values.append(value)

    def space(self, match: re.Match[str]) -> None:
        """White space separates tokens and is not one."""

    def number(self, match: re.Match[str]) -> None:
        literal = match.group()
        if "," in literal and self.closers and "\\" not in literal and "{" not in literal:
            first, *others = literal.split(",")  # inside brackets a comma separates arguments
            self.add("num", first)
            for other in others:
                self.add(",", "")
                self.add("num", other)
        else:
            self.add("num", literal)

    def letters(self, match: re.Match[str]) -> None:
        for kind, value in _letters(match.group()):
            self.add(kind, value)

    def font(self, match: re.Match[str]) -> None:
        self.add(*_font(match.group("font"), match.group("text")))

    def command(self, match: re.Match[str]) -> None:
        name = match.group("command")
        found = COMMANDS.get(name)
        if found is None:
            raise Unreadable(f"\\{name} is not a command of an expression")
        self.symbol(*found)

    def other(self, match: re.Match[str]) -> None:
        kind = _OTHER.get(match.group())
        if kind is None:
            raise Unreadable(f"{match.group()!r} has no place in an expression")
        self.symbol(kind, "")

    def symbol(self, kind: str, value: str) -> None:
        """Adds a token that may be a bracket; layout, with the kind "", is dropped."""
        if not kind:
            return
        if kind in _OPENING:
            self.closers.append(_OPENING[kind])
            if len(self.closers) > MAX_NESTING:
                raise TooBig(f"it is nested deeper than {MAX_NESTING}")
        elif kind in _CLOSING and (not self.closers or self.closers.pop() != kind):
            raise Unreadable(f"{kind!r} closes nothing")
        self.add(kind, value)


# the last group that matched -> the method that reads the token
_READERS: dict[str | None, Callable[[_Lexer, re.Match[str]], None]] = {
    "num": _Lexer.number, "repeat": _Lexer.number, "ten": _Lexer.number, "space": _Lexer.space,
    "text": _Lexer.font, "command": _Lexer.command, "letters": _Lexer.letters, "other": _Lexer.other,
}  # fmt: skip


def _letters(run: str) -> list[tuple[str, str]]:
    """The tokens of a run of plain letters: a known word, a function next to letters, or a product of variables."""
    if len(run) == 1:
        return [_LETTERS[run]]
    known = WORDS.get(run)
    if known is not None:
        return [known]
    if run in ENGLISH:
        raise Unreadable(f"{run!r} is a word")
    around = _AROUND.fullmatch(run)
    if around:
        before, word, after = around.groups()
        return [*(_LETTERS[letter] for letter in before), WORDS[word], *(_LETTERS[letter] for letter in after)]
    if len(run) > _PRODUCT_LETTERS and list(run) != sorted(set(run)):
        raise Unreadable(f"{run[:20]!r} is a word")
    return [_LETTERS[letter] for letter in run]


def _font(font: str, content: str) -> tuple[str, str]:
    r"""The token of \text{..}, \mathrm{..} or \mathbf{..}: a function, a constant or a variable."""
    name = content.strip()
    if font in BOLD:
        if len(name) == 1 and name.isalpha():
            return "name", f"vec:{name}"
        if name.isdigit():
            return "num", name
    elif font in FONTS:
        if name in FUNCTIONS:
            return "func", FUNCTIONS[name]
        if name in ("e", "i"):
            return "const", name
        if name.isdigit():
            return "num", name
        if name.isalpha() and name.isascii() and len(name) <= 20 and name.lower() not in ENGLISH:
            return ("name", name) if len(name) == 1 else ("name", f"text:{name}")
    raise Unreadable(f"\\{font}{{{content[:20]}}} is text")


_LETTERS: dict[str, tuple[str, str]] = {
    letter: ("name", letter) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
} | {"e": ("const", "e"), "i": ("const", "i")}
