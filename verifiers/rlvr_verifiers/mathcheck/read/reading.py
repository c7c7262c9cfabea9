r"""`read` finds all readings of a text."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.compare.congruences import congruence
from rlvr_verifiers.mathcheck.compare.piecewise import piecewise
from rlvr_verifiers.mathcheck.read.conditions import conditional
from rlvr_verifiers.mathcheck.read.descriptions import described
from rlvr_verifiers.mathcheck.read.equalities import (
    AND,
    CONDITION,
    approximation,
    arrow,
    equality,
    tuple_of_names,
    with_names,
)
from rlvr_verifiers.mathcheck.read.explanations import enumerated, explained, remarked
from rlvr_verifiers.mathcheck.read.groups import PLAIN_FORMULA, grouped, listed, matrix, ratio, signed
from rlvr_verifiers.mathcheck.read.lines import line
from rlvr_verifiers.mathcheck.text.spelling import is_balanced, split_outside, tidy, unwrapped_text
from rlvr_verifiers.mathcheck.text.units import Unit, is_known, parse_unit
from rlvr_verifiers.mathcheck.values.answers import (
    MAX_PARTS,
    Answer,
    Chain,
    Family,
    Formula,
    Group,
    Parts,
    Reader,
    Reading,
)
from rlvr_verifiers.mathcheck.values.numbers import Number, parse_number
from rlvr_verifiers.mathcheck.values.numerals import based, european
from rlvr_verifiers.mathcheck.values.relations import region
from rlvr_verifiers.mathcheck.values.words import (
    Choice,
    Phrase,
    choice,
    choice_text,
    clock,
    date,
    main_words,
    number_word,
    phrase,
)

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

_MAX_DEPTH = 4
_MAX_FAMILY_CHARS = 400
_INTEGER_PARAMETER = re.compile(
    r"(?P<body>.+?)\s*(?:[,;|:(]|\\quad|\\text\s*\{\s*[,(]?\s*(?:where|for|with|and)?\s*\}|(?<![A-Za-z])(?:where|for|with)(?![A-Za-z]))+\s*"
    r"(?:\\text\s*\{\s*[,(]?\s*(?:where|for|with|for any|for all)?\s*\}|(?:where|for|with|for any"
    r"|for all)\s+)?\s*(?:\\forall\s*)?"
    r"(?P<name>[A-Za-z])\s*(?:∈\s*(?:\\mathbb\{[ZN]\}|Z|\\text\{Z\})\S*(?:\\text\s*\{[^{}]*\})?"
    r"|\\text\s*\{\s*(?:is|an|any|be)[^{}]*(?:integer|whole)[^{}]*\}|is (?:an|any) (?:arbitrary )?integer)\s*\)?"
)
_TEXT_PARAMETER = re.compile(
    r"(?P<body>.+?)\s*,?\s*\\text\s*\{\s*[,(]?\s*(?:where|for|with)\s+(?:any |all |some "
    r"|every )?(?:\$)?(?P<before>integers?)?\s*\}?\s*\$?(?P<name>[a-z])\$?\s*"
    r"(?:\\text\s*\{)?\s*(?:is an(?:y)? integer|an integer|integer|∈[^{}]*)?\s*\)?\}?"
)
_TEXT_UNIT = r"\\text\s*\{[^{}]*\}(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?"
_UNIT_TAIL = re.compile(
    rf"(?P<body>.*?[^\s])\s*(?P<unit>(?:\\mu\s*)?{_TEXT_UNIT}(?:\s*(?:[/-]|\\cdot)?\s*{_TEXT_UNIT}){{0,3}}|\^\\circ)\s*"
)
_PLAIN_UNIT_TAIL = re.compile(
    r"(?P<body>.*[\d})])\s+(?P<unit>[A-Za-z][A-Za-z.]+(?: [A-Za-z]+)?(?:\^\s*\{?\s*-?[1-9]\s*\}?)?)"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_TEXT_DIGITS = re.compile(r"\d\s*\\text\s*\{\s*\d|\\text\s*\{[^{}]*\d\s*\}\s*\d")
_UNIT_VECTOR = re.compile(r"\\(?:mathbf|hat|vec|boldsymbol|bm|overrightarrow)\s*\{?\s*(?:\\[ij]math|[ijk])(?![A-Za-z])")
_PLAIN_GROUP = re.compile(r"[(\[]-?\d[\d./]*(?:, ?-?\d[\d./]*)+[)\]]")
_ORDER = re.compile(r"[<>≤≥≠]")
_UPWARD = {"<": "<", "≤": "≤", ">": "<", "≥": "≤"}
_VOWELS = frozenset("aeiouyAEIOUY")


def read(text: str, *, is_reference: bool = False) -> Answer:
    r"""All readings of a text.

    Args:
        is_reference: read with less tolerance ("5 m" is five times m).

    >>> [type(reading).__name__ for reading in read(r"$(1, \tfrac12)$").readings]
    ['Parts']
    >>> [type(reading).__name__ for reading in read(r"2 < x \leq 3").readings]
    ['Region', 'Chain']
    """
    return read_tidied(tidy(text), is_reference=is_reference)


def read_tidied(text: str, *, is_reference: bool = False) -> Answer:
    """All readings of a text that `tidy` returned."""
    return _Reader(0, is_reference=is_reference).at_depth(text)


class _Reader:
    """Reads texts at one depth; beyond the depth limit there are no readings."""

    __slots__ = ("depth", "is_reference")

    def __init__(self, depth: int, *, is_reference: bool = False) -> None:
        self.depth = depth
        self.is_reference = is_reference

    def at_depth(self, text: str) -> Answer:
        """All readings of a text at this depth."""
        return Answer(text, tuple(self._read(text)))

    def answer(self, text: str) -> Answer:
        """All readings of a part."""
        return Answer(text, tuple(self.readings(text)))

    def readings(self, text: str) -> list[Reading]:
        """The readings of a text one level deeper."""
        return _Reader(self.depth + 1)._read(text)

    def _read(self, text: str) -> list[Reading]:
        if not text or self.depth > _MAX_DEPTH:
            return []
        number = parse_number(text, is_reference=self.is_reference)
        if number is not None:
            return _with_number(text, number, self)
        if _PLAIN_GROUP.fullmatch(text):
            return grouped(text, self) or []
        found: list[Reading] = []
        if text[0].isalpha() or text[0] in "\\(∅[":
            found.extend(_verbal(text))
            if not self.is_reference and self.depth == 0 and (main := main_words(text)):
                found.extend(_verbal(main))
            if found and isinstance(found[0], Phrase) and " " in text and not _may_hold_mathematics(text):
                return _listed_words(text, found, self)
        elif text[0].isdigit():
            time = clock(text)
            if time is not None:
                found.append(time)
            day = date(text)
            if day is not None:
                return [day]
            if (foreign := european(text)) is not None:
                return [*found, foreign]
        if (numeral := based(text)) is not None:
            return [numeral]
        if found and isinstance(found[0], Choice) and (rest := choice_text(text)):
            return found + self.readings(rest)
        for attempt in _ATTEMPTS:
            result = attempt(text, self)
            if result is not None:
                return found + result
        return found + _formula(text)


def _with_number(text: str, number: Number, reader: _Reader) -> list[Reading]:
    found: list[Reading] = [number]
    has_month = number.unit is not None and reader.depth == 0 and not text.islower()
    if has_month and (day := date(text)) is not None:
        return [day]
    is_thousands = reader.is_reference and reader.depth == 0  # a reference is one number
    if "," in text and not is_thousands and text.replace(",", "").replace("-", "").isdigit():
        items = tuple(reader.answer(part) for part in text.split(","))
        found.append(Parts(Group.LIST, items))
    if reader.depth == 0 and (time := clock(text)) is not None:
        found.insert(0, time)
    return found


def _may_hold_mathematics(text: str) -> bool:
    plain = unwrapped_text(text)
    return any(character in "0123456789=<>≤≥≠∈^\\_+*/" for character in plain)


def _verbal(text: str) -> list[Reading]:
    """Readings of the text as words."""
    found: list[Reading] = []
    word = number_word(text)
    if word is not None:
        return [Number(word)]
    letter = choice(text)
    if letter is not None:
        found.append(letter)
    time = date(text)
    if time is not None:
        return [time]
    said = phrase(text)
    if said is not None:
        is_symbols = PLAIN_FORMULA.fullmatch(text) is not None and (
            len(text) < 3
            or not _VOWELS.intersection(text)
            or (len(text) == 3 and not (text.islower() or text.istitle()))
        )
        if not (is_symbols and said.key not in ("yes", "no", "nothing", "undefined", "infinite")):
            found.append(said)
        if said.key == "reals":
            everything = region("\\mathbb{R}")
            if everything is not None:
                found.append(everything)
        if said.key == "nothing":
            found.append(Parts(Group.SET, ()))
    return found


def _listed_words(text: str, found: list[Reading], reader: Reader) -> list[Reading]:
    """The readings of a list of words, in addition to the phrase as a whole."""
    if letters := region(text):
        found.append(letters)
    joined = AND.sub(",", text)
    parts = [part for part in split_outside(joined, ",") if part]
    if 1 < len(parts) <= MAX_PARTS:
        found.append(Parts(Group.LIST, tuple(reader.answer(part) for part in parts)))
    else:
        inner = explained(text, reader)
        if inner is not None:
            found.extend(inner)
    return found


def _family(text: str, reader: Reader) -> list[Reading] | None:
    if len(text) > _MAX_FAMILY_CHARS or not any(sign in text for sign in ("Z", "integer", "\\mathbb{N}")):
        return None
    inner = text
    if text.startswith("\\{") and text.endswith("\\}"):
        inner = text[2:-2].strip()
    match = _INTEGER_PARAMETER.fullmatch(inner) or _TEXT_PARAMETER.fullmatch(inner)
    if match is None:
        return None
    name = match["name"]
    bodies: list[Reading] = []
    for body in split_outside(AND.sub(",", match["body"].strip().rstrip(",(|: ")), ","):
        _, sign, value = body.rpartition("=") if body.count("=") == 1 else ("", "", body)
        value = (value if sign else body).strip()
        with_signs = signed(value, None) if "\\pm" in value else None
        if with_signs and isinstance(with_signs[0], Parts):
            exprs = [item.readings[0] for item in with_signs[0].items]
            bodies.extend(Family(expr, name) for expr in exprs if isinstance(expr, Formula))
        else:
            bodies.append(Family(Formula(value), name))
    if len(bodies) == 1:
        return bodies
    return [Parts(Group.LIST, tuple(Answer("", (body,)) for body in bodies))]


def _relation(text: str, reader: Reader) -> list[Reading] | None:
    """Regions and chains of inequalities."""
    has_order = _ORDER.search(text) is not None
    if not has_order and not any(sign in text for sign in ("∈", "∪", "∩", "∖", "\\mathbb{R}", "real", "\\}-", "\\} -")):
        return None
    found: list[Reading] = []
    body = text
    region_found = region(body)
    if region_found is None:
        shorter = CONDITION.sub("", body)
        region_found = region(shorter) if shorter != body else None
        body = shorter if region_found is not None else body
    if region_found is not None:
        found.append(region_found)
    if has_order and not any(sign in text for sign in ("≠", ",", "∈", "\\{", "\\text", "∪")) and is_balanced(text):
        operands = [piece.strip() for piece in _ORDER.split(text)]
        signs = _ORDER.findall(text)
        directions = {sign in "<≤" for sign in signs}
        if len(directions) == 1 and all(operands) and not any("=" in operand for operand in operands):
            if directions == {False}:
                operands.reverse()
                signs.reverse()
            turned = tuple(_UPWARD[sign] for sign in signs)
            found.append(Chain(tuple(Formula(operand) for operand in operands), turned))
    if not found and not has_order and len(split_outside(text, "∈")) > 1:
        names, _, member = text.partition("∈")
        found = reader.readings(member.strip())
        if names_found := tuple_of_names(names.strip()):
            found = [with_names(reading, tuple(names_found)) for reading in found]
        return found or None
    return found or None


def _formula(text: str) -> list[Reading]:
    """The text as an expression, with ± expanded and an optional unit."""
    unit: Unit | None = None
    body = text
    match = _UNIT_TAIL.fullmatch(text)
    if match is not None:
        found = parse_unit(unwrapped_text(match["unit"]).strip())
        if found is not None and not ("circ" in match["unit"] and _TRIGONOMETRIC.search(match["body"])):
            body, unit = match["body"].strip(), found
            body = re.sub(r"\\cdot\s*$", "", body).strip()
    elif match := _PLAIN_UNIT_TAIL.fullmatch(text):
        found = parse_unit(match["unit"])
        if found is not None and is_known(found):
            body, unit = match["body"], found
    if "\\pm" in body or "\\mp" in body:
        with_signs = signed(body, unit)
        if with_signs is not None:
            return with_signs
    said: list[Reading] = []
    if body.replace(" ", "") in ("\\infty", "+\\infty"):
        said.append(Phrase("infinite"))
    if unit is None:
        inner = unwrapped_text(body)
        if (
            inner != body
            and not _TEXT_DIGITS.search(body)
            and "\\text" not in inner
            and not re.search(r"[A-Za-z]{3,}", re.sub(r"\\[A-Za-z]+", "", inner))
        ):
            body = inner
    formula = Formula(body, unit)
    if unit is None and _UNIT_VECTOR.search(body):
        said.extend(_components(formula))
    return [formula, *said]


def _components(formula: Formula) -> list[Reading]:
    r"""The components of 3\mathbf{i} - \mathbf{j}, as a tuple."""
    from rlvr_verifiers.mathcheck.parse.expression import Num, substituted, variables

    try:
        expr = formula.expr()
        names = variables(expr)
    except ValueError:
        return []
    units = [name for name in ("vec:i", "vec:j", "vec:k") if name in names or name != "vec:k"]
    if not names & set(units):
        return []
    items: list[Answer] = []
    for unit in units:
        values: dict[str, Expr] = {other: Num(Fraction(int(other == unit))) for other in units}
        items.append(Answer(f"{formula.text} along {unit}", (Formula("", None, substituted(expr, values)),)))
    return [Parts(Group.TUPLE, tuple(items))]


_ATTEMPTS: tuple[Callable[[str, Reader], list[Reading] | None], ...] = (
    enumerated, arrow, approximation, piecewise, line, matrix, congruence, _family, described, conditional, _relation,
    remarked, equality, listed, grouped, ratio, explained,
)  # fmt: skip
