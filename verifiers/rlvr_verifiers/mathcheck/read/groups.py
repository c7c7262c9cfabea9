"""Reads the parts of an answer: lists, tuples, sets, ratios, matrices, and the values of ±."""

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from rlvr_verifiers.mathcheck.read.equalities import AND, CONDITION, tuple_of_names, with_names
from rlvr_verifiers.mathcheck.text.spelling import is_balanced, split_outside
from rlvr_verifiers.mathcheck.text.units import Unit
from rlvr_verifiers.mathcheck.values.answers import (
    MAX_PARTS,
    Alternatives,
    Answer,
    Formula,
    Group,
    Matrix,
    Named,
    Parts,
    Reader,
    Reading,
)
from rlvr_verifiers.mathcheck.values.numbers import INDIAN_THOUSANDS, Form, Number, parse_number
from rlvr_verifiers.mathcheck.values.relations import region
from rlvr_verifiers.mathcheck.values.words import Phrase

if TYPE_CHECKING:
    from rlvr_verifiers.mathcheck.tree.nodes import Expr

_AND_IN_TEXT = re.compile(r"\\text\s*\{(\s*[^{},]*[^{}, ]),?\s+and\s*\}")
_MATRIX = re.compile(
    r"(?P<before>.*?)\\begin\s*\{(?P<env>[pbB]?matrix|smallmatrix|array)\*?\}(?:\s*(?:\{[lcr| ]*\}"
    r"|\[[lcr]\]))?(?P<body>.*)\\end\s*\{(?P=env)\*?\}(?P<after>.*)",
    re.DOTALL,
)
_ONE_MATRIX = re.compile(r"\\begin\s*\{([pbB]?matrix)\}(.*?)\\end\s*\{\1\}", re.DOTALL)
_MAX_FACTORS = 6
_IS_CONDITION = re.compile(
    r"\\text\s*\{\s*(?:for|where|with|when|such that|on|over)\b|(?:for|where|with) |[A-Za-z]\s*[∈≥>]"
)
_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)(?P<rest>\D.*)?")
_OR = re.compile(r"(?<![A-Za-z])or(?![A-Za-z])")
_TO = re.compile(r"\s*(?:\\text\s*\{\s*to\s*\}|(?<![A-Za-z])to(?![A-Za-z]))\s*")
_CONNECTIVE = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", re.IGNORECASE)
_CONNECTIVES = re.compile(
    r"\s*(?:\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*", re.IGNORECASE
)
PLAIN_FORMULA = re.compile(r"[A-Za-z]{2,}")


_BRACKETS = (("\\{", "\\}", Group.SET), ("(", ")", Group.TUPLE), ("[", "]", Group.BRACKET), ("{", "}", Group.LIST))


def listed(text: str, reader: Reader) -> list[Reading] | None:
    """Parts separated by commas, semicolons, "and" or "or" outside brackets."""
    if "," not in text and ";" not in text and "and" not in text and "or" not in text and "\\&" not in text:
        return None
    if "\\text" in text:
        text = _AND_IN_TEXT.sub(r"\\text{\1} , ", text)
    pieces = [piece for piece in split_outside(text, ";") if piece]
    if len(pieces) > 1 and len(pieces) <= MAX_PARTS and any(len(split_outside(piece, ",")) > 1 for piece in pieces):
        return [Parts(Group.LIST, tuple(reader.answer(piece) for piece in pieces))]
    if (solutions := _solutions(text, reader)) is not None:
        return solutions
    joined = AND.sub(" , ", text)
    parts = [part for part in split_outside(joined, ",") if part]
    if len(parts) < 2:
        if joined != text and len(parts) == 1 and parts[0] != text:
            return reader.readings(parts[0])
        return None
    if len(parts) > MAX_PARTS:
        return []
    if not all(is_balanced(part) for part in parts):
        return None
    kept = [CONDITION.sub("", part).strip() for part in parts]
    if kept != parts:
        kept = [part for part in kept if part and not _IS_CONDITION.match(part)]
        if len(kept) < 2:
            return reader.readings(kept[0]) if kept else None
        parts = kept
    answers = [reader.answer(part) for part in parts]
    names = [next((r.name for r in answer.readings if isinstance(r, Named)), None) for answer in answers]
    values = [next((r.value for r in answer.readings if isinstance(r, Named)), answer) for answer in answers]
    found: list[Reading] = []
    common: tuple[str, ...] = ()
    is_apart = _CONNECTIVE.search(text) is not None and None in names
    if names[0] is not None and (not any(names[1:]) or len(set(names)) == 1):
        answers, common, is_apart = values, (names[0],), True
    elif names[0] is None and (match := re.match(r"\(.*?\)\s*=", parts[0])):
        names_found = tuple_of_names(match[0][:-1].strip())
        if names_found and not any("=" in part for part in parts[1:]):
            first = reader.answer(parts[0][match.end() :].strip())
            plain = tuple(re.sub(r"[{} ]", "", name) for name in names_found)
            answers = [
                Answer(one.text, tuple(with_names(reading, plain) for reading in one.readings))
                for one in (first, *answers[1:])
            ]
    found.append(Parts(Group.LIST, _flattened(answers), names=common, is_apart=is_apart))
    if len(answers) == 2 and _OR.search(text):
        found.append(Alternatives(tuple(answers)))
    if INDIAN_THOUSANDS.fullmatch(text):
        found.append(Number(Fraction(text.replace(",", ""))))
    elif match := _DECIMAL_COMMA.fullmatch(text):
        number = parse_number(f"{match[1]}.{match[2]}{match['rest'] or ''}")
        if number is not None and "," not in (match["rest"] or "") and match[2].strip("0"):
            found.append(number)
    return found


def _solutions(text: str, reader: Reader) -> list[Reading] | None:
    """`x = 1, y = 2 or x = 2, y = 1`: the solutions of a system; None for any other list."""
    chunks = split_outside(_CONNECTIVES.sub(";", text), ";")
    if len(chunks) < 2 or not all("=" in chunk and "," in chunk for chunk in chunks):
        return None
    answers = [reader.answer(chunk.strip(" ,")) for chunk in chunks]
    names: list[frozenset[str]] = []
    for answer in answers:
        first = answer.readings[0] if answer.readings else None
        items = first.items if isinstance(first, Parts) and first.group is Group.LIST else ()
        found = [next((r.name for r in i.readings if isinstance(r, Named)), "") for i in items]
        names.append(frozenset(found) if len(set(found)) == len(found) > 1 else frozenset())
    if not names[0] or "" in names[0] or len(set(names)) != 1:
        return None
    return [Parts(Group.LIST, tuple(answers), is_apart=True)]


def grouped(text: str, reader: Reader) -> list[Reading] | None:
    """Tuples, sets, intervals and a single value in brackets."""
    held = next((one for one in _BRACKETS if text.startswith(one[0]) and text.endswith(one[1])), None)
    if held is None:
        found = region(text) if text[:1] in "([]" and text[-1:] in ")[]" else None
        return None if found is None else [found]
    opening, closing, group = held
    inner = text[len(opening) : -len(closing)].strip()
    if not is_balanced(inner):
        return None
    if not inner:
        return [Parts(Group.SET, ()), Phrase("nothing")] if group is Group.SET else None
    parts = [part for part in split_outside(AND.sub(" , ", inner) if group is Group.SET else inner, ",;") if part]
    if group is Group.SET and any(sign in inner for sign in "|:∈<>≤≥≠"):
        found = region(text)
        if found is not None:
            return [found]
    if len(parts) > MAX_PARTS:
        return []
    if len(parts) == 1:
        if group is Group.SET:
            return [Parts(Group.SET, _flattened([reader.answer(parts[0])]))]
        if opening == "[":
            return []
        return reader.readings(inner) if opening == "(" and not _formula_like(inner) else None
    if opening == "[" and all(part.startswith("[") and part.endswith("]") for part in parts):
        return _rows(parts, reader)
    is_pair = len(parts) == 2
    found = region(text) if is_pair and (opening == "[" or "\\infty" in text) else None
    if opening == "[" and found is not None:
        return [found]
    items = tuple(reader.answer(part) for part in parts)
    if group in (Group.SET, Group.LIST):
        items = _flattened(items)
    if group is Group.TUPLE and any(_is_signed(item) for item in items):
        points = _points_of_signs(items)
        if points is not None:
            return [points]
    if found is not None:
        return [found, Parts(group, items)]
    return [Parts(group, items, text if is_pair and group is Group.TUPLE else "")]


def _rows(parts: list[str], reader: Reader) -> list[Reading]:
    """[[1, 2], [3, 4]] as a matrix and as a list of tuples."""
    rows = [tuple(map(reader.answer, split_outside(part[1:-1], ","))) for part in parts]
    tuples = tuple(Answer(part, (Parts(Group.TUPLE, row),)) for part, row in zip(parts, rows, strict=True))
    if sum(map(len, rows)) > MAX_PARTS:
        return []
    found: list[Reading] = [Parts(Group.BRACKET, tuples)]
    return [Matrix(tuple(rows)), *found] if len({len(row) for row in rows}) == 1 else found


def _formula_like(text: str) -> bool:
    """Whether brackets around the text belong to an expression."""
    return "\\begin" not in text and "=" not in text and "\\pm" not in text


def ratio(text: str, reader: Reader) -> list[Reading] | None:
    if ":" not in text and "to" in text:
        text = _TO.sub(":", text)
    if ":" not in text or "\\text" in text:
        return None
    parts = split_outside(text, ":")
    if len(parts) < 2 or len(parts) > 10 or not all(parts):
        return None
    if any(PLAIN_FORMULA.fullmatch(part) and len(part) > 2 for part in parts):
        return None
    return [Parts(Group.RATIO, tuple(reader.answer(part) for part in parts))]


def matrix(text: str, reader: Reader) -> list[Reading] | None:
    if "\\begin" not in text:
        return None
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    if "\\begin" in match["body"]:
        return _matrix_arithmetic(text)
    before, after = match["before"].strip(), match["after"].strip()
    while before[-1:] in ("(", "[") and after[:1] in (")", "]"):
        before, after = before[:-1].rstrip(), after[1:].lstrip()
    before = before.rpartition("=")[2].strip()
    transposed = re.fullmatch(r"\^\s*\{?\s*(?:T|\\top|\\text\{T\})\s*\}?", after) is not None
    if (after and not transposed) or before[-1:] in ("(", "["):
        return None
    rows = [row for row in re.split(r"\\\\|\\cr(?![a-z])", match["body"].replace("\\hline", "")) if row.strip()]
    cells = [[reader.answer(_cell(cell)) for cell in row.split("&")] for row in rows]
    if not cells or sum(map(len, cells)) > MAX_PARTS or len({len(row) for row in cells}) != 1:
        return None
    if transposed:
        cells = [list(column) for column in zip(*cells, strict=True)]
    factor = None
    if before:
        factor = Formula("-1" if before == "-" else before.removesuffix("\\cdot").strip())
    return [Matrix(tuple(tuple(row) for row in cells), factor)]


def _matrix_arithmetic(text: str) -> list[Reading] | None:
    """The value of a sum of products of numeric matrices; None for anything else."""
    total: list[list[Fraction]] | None = None
    term: list[list[Fraction]] = []
    sign, end = 1, 0
    for count, match in enumerate(_ONE_MATRIX.finditer(text)):
        between = text[end : match.start()].strip()
        end = match.end()
        rows = [[_number(cell) for cell in row.split("&")] for row in match[2].split("\\\\") if row.strip()]
        values = [[value for value in row if value is not None] for row in rows]
        is_rectangle = values and len({len(row) for row in values}) == 1
        if values != rows or not is_rectangle or count >= _MAX_FACTORS or len(values) * len(values[0]) > MAX_PARTS:
            return None
        if between in ("+", "-") or count == 0:
            if count and (total := _matrix_sum(total, sign, term)) is None:
                return None
            sign, term = -1 if between == "-" else 1, values
            if between not in ("", "+", "-"):
                return None
        elif between in ("", "*", "\\cdot", "\\times") and len(term[0]) == len(values):
            columns = list(zip(*values, strict=True))
            term = [[sum((a * b for a, b in zip(row, c, strict=True)), Fraction(0)) for c in columns] for row in term]
        else:
            return None
    result = _matrix_sum(total, sign, term)
    if text[end:].strip() or not result:
        return None
    return [Matrix(tuple(tuple(Answer(str(v), (Number(v),)) for v in row) for row in result))]


def _matrix_sum(
    total: list[list[Fraction]] | None, sign: int, term: list[list[Fraction]]
) -> list[list[Fraction]] | None:
    """total + sign * term; None for different shapes."""
    if total is None:
        return [[sign * value for value in row] for row in term]
    if [len(row) for row in total] != [len(row) for row in term]:
        return None
    return [[a + sign * b for a, b in zip(*rows, strict=True)] for rows in zip(total, term, strict=True)]


def _number(text: str) -> Fraction | None:
    number = parse_number(text.strip())
    return number.value if number is not None and number.unit is None and number.form is not Form.PERCENT else None


def is_ragged(text: str) -> bool:
    """Whether the text holds a matrix whose rows have different lengths."""
    if "\\begin" not in text or (match := _MATRIX.fullmatch(text)) is None:
        return False
    return len({row.count("&") for row in match["body"].split("\\\\") if row.strip()}) > 1


def _cell(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if text.startswith("{") and text.endswith("}") and is_balanced(text[1:-1]) else text


def _is_signed(answer: Answer) -> bool:
    """Whether the answer is a list of the values of a ±."""
    first = answer.readings[0] if answer.readings else None
    return (
        isinstance(first, Parts)
        and first.group is Group.LIST
        and re.search(r"\\[pm][mp](?![A-Za-z])", answer.text) is not None
    )


def _flattened(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """The parts with ± expanded in place: {1 ± 2, 5} has three."""
    flat: list[Answer] = []
    for answer in answers:
        first = answer.readings[0] if answer.readings else None
        if isinstance(first, Parts) and _is_signed(answer):
            flat.extend(first.items)
        else:
            flat.append(answer)
    return tuple(flat)


def _points_of_signs(items: tuple[Answer, ...]) -> Parts | None:
    """The tuples that a tuple with signs means: (±1, 2) is two points; signs in different parts are independent."""
    choices = [item.readings[0].items if _is_signed(item) else (item,) for item in items]  # type: ignore[union-attr]
    points = list(itertools.islice(itertools.product(*choices), MAX_PARTS + 1))
    if len(points) > MAX_PARTS:
        return None
    return Parts(Group.LIST, tuple(Answer("", (Parts(Group.TUPLE, tuple(point)),)) for point in points))


def signed(text: str, unit: Unit | None) -> list[Reading] | None:
    from rlvr_verifiers.mathcheck.parse.expression import TooBig, Unreadable, expanded_signs, parse

    try:
        exprs = expanded_signs(parse(text))
    except (Unreadable, TooBig):
        return None
    if len(exprs) == 1:
        return None
    values = {_exact(expr) for expr in exprs}
    if len(values) == 1 and None not in values:
        return [Formula(text, unit, exprs[0])]
    return [Parts(Group.LIST, tuple(Answer("", (Formula(text, unit, expr),)) for expr in exprs))]


def _exact(expr: "Expr") -> Fraction | None:
    from rlvr_verifiers.mathcheck.parse.expression import TooBig
    from rlvr_verifiers.mathcheck.tree.exact import Undefined, exact_value

    try:
        return exact_value(expr)
    except (TooBig, Undefined):
        return None
