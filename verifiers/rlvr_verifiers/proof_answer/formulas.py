r"""Formulas of propositional logic: read from text in linear time, and written.

Precedence from tight to loose: not, and, or, implies, iff. `and` and `or` group to the left, `implies` to the right; a
chain of `iff` needs brackets. A `v` between two formulas is `or`.

>>> show(parse_formula(r"~p \/ q => (r & s)"))
'¬p ∨ q → r ∧ s'
>>> parse_formula("p -> q") == parse_formula(r"(p \to q)")
True
"""

import re
from typing import Final

Formula = tuple["str | Formula", ...]
"""("atom", name), ("bot",), ("top",), ("not", A), or (connective, A, B)."""

AND: Final = "and"
OR: Final = "or"
IMPLIES: Final = "implies"
IFF: Final = "iff"
NOT: Final = "not"
ATOM: Final = "atom"
BOT: Final[Formula] = ("bot",)
TOP: Final[Formula] = ("top",)

SYMBOLS: Final[dict[str, tuple[str, ...]]] = {
    NOT: ("¬", "~", "!", "not", r"\neg", r"\lnot"),
    AND: ("∧", "&", "&&", "/\\", "^", "and", r"\land", r"\wedge"),
    OR: ("∨", "|", "||", "\\/", "or", r"\lor", r"\vee"),
    IMPLIES: ("→", "->", "-->", "=>", "==>", "⇒", "⟶", "⊃", "implies", r"\to", r"\rightarrow", r"\implies", r"\supset"),
    IFF: ("↔", "<->", "<-->", "<=>", "<==>", "⇔", "⟷", "≡", "iff", r"\leftrightarrow", r"\iff", r"\equiv"),
    "bot": ("⊥", "_|_", "#", "false", "falsum", r"\bot"),
    "top": ("⊤", "true", "verum", r"\top"),
    "(": ("(", "[", r"\left(", r"\left["),
    ")": (")", "]", r"\right)", r"\right]"),
}
"""The spellings of each token. Words are read in any case."""

MAX_DEPTH: Final = 60
MAX_NODES: Final = 300
_KINDS = {spelling: kind for kind, spellings in SYMBOLS.items() for spelling in spellings}
_SIGNS = sorted((s for s in _KINDS if not s.isalpha()), key=len, reverse=True)
_TOKEN = re.compile(r"\s*(?:(" + "|".join(map(re.escape, _SIGNS)) + r")|([A-Za-z][A-Za-z0-9_']*)|(\S))")
_PRECEDENCE = {IFF: 1, IMPLIES: 2, OR: 3, AND: 4}
_SHOWN = {AND: "∧", OR: "∨", IMPLIES: "→", IFF: "↔"}


class Unreadable(ValueError):  # noqa: N818 - a verdict, not a fault
    """A text that is not a formula, a sequent or a derivation."""


def parse_formula(text: str) -> Formula:
    """The formula that `text` is.

    Raises: Unreadable, with the reason, if it is none, nests deeper than 60 or has more than 300 symbols.
    """
    tokens = _tokens(text.strip().strip("$").rstrip())
    if not tokens:
        raise Unreadable("there is no formula")
    formula, position = _binary(tokens, 0, 1, 0)
    if position < len(tokens):
        raise Unreadable(f"the formula {_short(text)!r} has {tokens[position][1]!r} where it should end")
    return formula


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, as written) of each token."""
    tokens: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(text):
        sign, word, other = match.groups()
        if other is not None:
            raise Unreadable(f"the formula {_short(text)!r} has the unknown symbol {other!r}")
        kind = _KINDS[sign] if sign else _KINDS.get(word.lower(), ATOM)
        tokens.append((kind, sign or word))
        if len(tokens) > MAX_NODES:
            raise Unreadable(f"the formula {_short(text)!r} has more than {MAX_NODES} symbols")
    return tokens


def _binary(tokens: list[tuple[str, str]], position: int, weakest: int, depth: int) -> tuple[Formula, int]:
    """The formula from `position` on with connectives at least as tight as `weakest`, and where it ends."""
    left, position = _unary(tokens, position, depth)
    while position < len(tokens):
        kind, written = tokens[position]
        if (kind, written) == (ATOM, "v"):  # an atom cannot follow a formula, so this is the textbooks' "or"
            kind = OR
        precedence = _PRECEDENCE.get(kind, 0)
        if precedence < weakest:
            break
        next_weakest = precedence if kind == IMPLIES else precedence + 1
        right, position = _binary(tokens, position + 1, next_weakest, depth + 1)
        left = (kind, left, right)
        if kind == IFF and position < len(tokens) and tokens[position][0] == IFF:
            raise Unreadable("a chain of ↔ needs brackets")
    return left, position


def _unary(tokens: list[tuple[str, str]], position: int, depth: int) -> tuple[Formula, int]:
    if depth > MAX_DEPTH:
        raise Unreadable(f"a formula nests deeper than {MAX_DEPTH}")
    if position >= len(tokens):
        raise Unreadable("a formula ends too early")
    kind, written = tokens[position]
    if kind == NOT:
        inner, position = _unary(tokens, position + 1, depth + 1)
        return (NOT, inner), position
    if kind == "(":
        inner, position = _binary(tokens, position + 1, 1, depth + 1)
        if position >= len(tokens) or tokens[position][0] != ")":
            raise Unreadable("a bracket is not closed")
        return inner, position + 1
    if kind == ATOM:
        return (ATOM, written), position + 1
    if kind in ("bot", "top"):
        return (kind,), position + 1
    raise Unreadable(f"a formula has {written!r} where a part should begin")


def show(formula: Formula) -> str:
    """The formula with the usual symbols and as few brackets as possible."""
    return _shown(formula, 0)


def _shown(formula: Formula, around: int) -> str:
    kind = formula[0]
    if kind == ATOM:
        return str(formula[1])
    if kind in ("bot", "top"):
        return "⊥" if kind == "bot" else "⊤"
    if kind == NOT:
        return f"¬{_shown(part(formula, 1), 5)}"
    precedence = _PRECEDENCE[str(kind)]
    left = _shown(part(formula, 1), precedence + (kind in (IMPLIES, IFF)))
    right = _shown(part(formula, 2), precedence + (kind != IMPLIES))
    text = f"{left} {_SHOWN[str(kind)]} {right}"
    return f"({text})" if precedence < around else text


def part(formula: Formula, index: int) -> Formula:
    """A direct part of a formula; 1 is the first."""
    found = formula[index]
    assert isinstance(found, tuple)
    return found


def negation(formula: Formula) -> Formula:
    """The formula with a `not` in front."""
    return (NOT, formula)


def atoms_of(formula: Formula) -> set[str]:
    """The names of the atoms in a formula."""
    if formula[0] == ATOM:
        return {str(formula[1])}
    return set[str]().union(*(atoms_of(piece) for piece in formula[1:] if isinstance(piece, tuple)))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
