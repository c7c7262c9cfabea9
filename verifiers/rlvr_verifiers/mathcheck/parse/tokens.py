r"""The lexer: LaTeX or plain text to two flat lists, within limits, in time linear in the text.

>>> tokenize(r"2\pi r^{2}")
(['num', 'const', 'name', '^', '{', 'num', '}', 'end'], ['2', 'pi', 'r', '', '', '2', '', ''])
"""

import re

from rlvr_verifiers.mathcheck.text.vocabulary import (
    BOLD,
    COMMANDS,
    ENGLISH,
    FONTS,
    FUNCTIONS,
    UNICODE,
    WORDS,
)
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
    "$": "",  # the sign of mathematics inside a text carries nothing
}

Tokens = tuple[list[str], list[str]]


def tokenize(text: str) -> Tokens:
    """The kinds and the values of the tokens, closed by an "end".

    Raises: TooBig over 2,000 characters, 400 tokens or 30 nested brackets; Unreadable for a
    character, command or word that has no place in an expression.
    """
    if len(text) > MAX_CHARS:
        raise TooBig(f"it is longer than {MAX_CHARS} characters")
    if not text.isascii():
        text = text.translate(UNICODE)
    is_plain = "\\" not in text
    if "**" in text:
        if not is_plain:
            raise Unreadable("'**' beside LaTeX is not an operator")
        text = text.replace("**", "^")
    kinds: list[str] = []
    values: list[str] = []
    closers: list[str] = []
    for match in _TOKEN.finditer(text):
        group = match.lastgroup
        if group == "space":
            continue
        if group == "letters":
            for kind, value in _letters(match.group()):
                kinds.append(kind)
                values.append(value)
            continue
        if group == "other":
            kind = _OTHER.get(match.group())
            if kind is None:
                raise Unreadable(f"{match.group()!r} has no place in an expression")
            if not kind:
                continue
            value = ""
        elif group == "command":
            name = match.group("command")
            found = COMMANDS.get(name)
            if found is None:
                raise Unreadable(f"\\{name} is not a command of an expression")
            kind, value = found
            if not kind:
                continue
        elif group == "text":
            kind, value = _font(match.group("font"), match.group("text"))
        else:
            kind, value = "num", match.group()
            if "," in value and closers and "\\" not in value and "{" not in value:
                first, *others = value.split(",")  # in brackets a comma separates arguments
                kinds.append("num")
                values.append(first)
                for other in others:
                    kinds += [",", "num"]
                    values += ["", other]
                continue
        if kind in _OPENING:
            closers.append(_OPENING[kind])
            if len(closers) > MAX_NESTING:
                raise TooBig(f"it is nested deeper than {MAX_NESTING}")
        elif kind in _CLOSING and (not closers or closers.pop() != kind):
            raise Unreadable(f"{kind!r} closes nothing")
        kinds.append(kind)
        values.append(value)
    if closers:
        raise Unreadable(f"{closers[-1]!r} is missing")
    if len(kinds) > MAX_TOKENS:
        raise TooBig(f"it has more than {MAX_TOKENS} tokens")
    kinds.append("end")
    values.append("")
    return kinds, values


def _letters(run: str) -> list[tuple[str, str]]:
    """The tokens of a run of plain letters: a known word, a function beside letters, or a product."""
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
        return [
            *(_LETTERS[letter] for letter in before),
            WORDS[word],
            *(_LETTERS[letter] for letter in after),
        ]
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
