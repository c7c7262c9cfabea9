"""The lines of a derivation in Fitch style, read in linear time.

    1. p -> q        premise
    2. q -> r        premise
    3. | p           assumption
    4. | q           ->E 1, 3
    5. | r           ->E 2, 4
    6. p -> r        ->I 3-5

Each line is a number (1, 2, 3, ...), a formula, a rule, and the lines or subproofs that the rule uses. Bars in front of
the formula or the number show the subproofs that the line is in, or, where no line has bars, indentation of at least
two spaces each. A line whose rule is `assumption` begins a subproof.
"""

import re
from dataclasses import dataclass

from rlvr_verifiers.proof_answer.formulas import Formula, Unreadable, parse_formula
from rlvr_verifiers.proof_answer.rule_names import LONGEST, RULES, Rule

_LINE = re.compile(r"([\s|│┃├]*)([0-9]{1,6})\s?[.):]?([\s|│┃├]*)(.*)")
_ONLY_RULES = re.compile(r"[\s|│┃├└┌─━_=+\-]*")
_PIECE = re.compile(r"[0-9]+|[^\W\d_]+|\s+|.")
_CITATION = re.compile(r"([0-9]{1,6})\s*(?:(?:-|–|—|\.\.|to)\s*([0-9]{1,6}))?")
_BETWEEN = re.compile(r"[\s,;:()\[\].–—-]+|lines?|from|on|of|using|and|to", re.IGNORECASE)
_BEFORE_RULE = " \t;:,([{/"
_STRIPPED = " \t;:,([{/-–—.·"
_BAR_SIGNS = "|│┃├"
_MIN_INDENT = 2
_MAX_LINE_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a derivation.

    citations: (first, last) line of each cited subproof, (number, None) of each cited line. depth: 0 outside subproofs.
    """

    number: int
    formula: Formula
    rule: Rule
    citations: tuple[tuple[int, int | None], ...]
    depth: int


@dataclass(frozen=True, slots=True)
class _Raw:
    number: int
    before: str
    between: str
    body: str


def read_lines(text: str, *, max_lines: int) -> list[Line]:
    """The lines of a derivation.

    Raises: Unreadable, with the line and the reason, for a text that is none.
    """
    raw: list[_Raw] = []
    for written in text.expandtabs(4).splitlines():
        if _ONLY_RULES.fullmatch(written):
            continue
        match = _LINE.fullmatch(written) if len(written) <= _MAX_LINE_CHARS else None
        if match is None:
            raise Unreadable(f"{written[:80]!r} is no numbered line of a derivation")
        number = int(match[2])
        if number != len(raw) + 1:
            raise Unreadable(f"a line has the number {number}, but it is line {len(raw) + 1}")
        if number > max_lines:
            raise Unreadable(f"the derivation has more than {max_lines} lines")
        raw.append(_Raw(number, match[1], match[3], match[4].strip()))
    if not raw:
        raise Unreadable("there is no derivation")
    return [_line(line, depth) for line, depth in zip(raw, _depths(raw), strict=True)]


def _depths(raw: list[_Raw]) -> list[int]:
    """How many subproofs each line is in, from its bars or its indentation."""
    bars = [sum(sign in _BAR_SIGNS for sign in line.before + line.between) for line in raw]
    if any(bars):
        return [count - min(bars) for count in bars]
    before = [len(line.before) for line in raw]
    # without indentation before the numbers, that of the formulas; a wider number moves its formula
    is_before = max(before) - min(before) >= _MIN_INDENT
    columns = before if is_before else [len(line.between) + len(str(line.number)) for line in raw]
    depths: list[int] = []
    levels = [min(columns)]
    for line, column in zip(raw, columns, strict=True):
        while len(levels) > 1 and column <= levels[-1] - _MIN_INDENT:
            levels.pop()
        if column >= levels[-1] + _MIN_INDENT:
            levels.append(column)
        elif abs(column - levels[-1]) >= _MIN_INDENT:
            raise Unreadable(f"line {line.number}: its indentation is that of no line above")
        depths.append(len(levels) - 1)
    return depths


def _line(raw: _Raw, depth: int) -> Line:
    formula, rule, cited = split_body(raw.body)
    if rule is None:
        raise Unreadable(f"line {raw.number}: {raw.body[-60:]!r} does not end with a rule and the lines that it uses")
    try:
        read = parse_formula(formula)
    except Unreadable as error:
        raise Unreadable(f"line {raw.number}: {error}") from error
    citations = tuple((int(first), int(last) if last else None) for first, last in _CITATION.findall(cited))
    return Line(raw.number, read, rule, citations, depth)


def split_body(body: str) -> tuple[str, Rule | None, str]:
    """(formula, rule, citations) of a line without its number; the rule is None if no known one is there.

    The citations are read backwards from the end, then the longest known rule.

    >>> split_body("p & q   &I 1, 2")
    ('p & q', <Rule.AND_I: 'and_i'>, ' 1, 2')
    >>> split_body("p; by modus ponens on lines 3 and 4")
    ('p', <Rule.IMPLIES_E: 'implies_e'>, ' on lines 3 and 4')
    """
    start = len(body)
    for piece in reversed(_PIECE.findall(body)):
        if not (piece[0] in "0123456789" or _BETWEEN.fullmatch(piece)):
            break
        start -= len(piece)
    attached = re.match(r"[0-9]+", body[start:])
    ends = [start]
    if attached and start and not body[start - 1].isspace():
        ends.insert(0, start + attached.end())  # `&E1 3`: the 1 belongs to the rule, if there is a rule with it
    for end in ends:
        lower = body[max(0, end - LONGEST) : end].lower()
        if len(lower) != min(end, LONGEST):
            break  # a letter whose lower case is longer; no rule has one
        for length in range(len(lower), 0, -1):
            rule = RULES.get(lower[-length:])
            first = end - length
            if rule is not None and (first == 0 or body[first - 1] in _BEFORE_RULE):
                return _formula_before(body[:first]), rule, body[end:]
    return body, None, ""


def _formula_before(text: str) -> str:
    text = text.rstrip(_STRIPPED)
    for word in (" by", " from", " via"):
        if text.lower().endswith(word):
            return text[: -len(word)].rstrip(_STRIPPED)
    return text
