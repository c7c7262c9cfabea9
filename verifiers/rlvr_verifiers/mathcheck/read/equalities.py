"""Equality signs in an answer: names with values, chains of values, equations, approximations."""

import re
from dataclasses import replace

from rlvr_verifiers.mathcheck.text.spelling import split_outside, unwrapped_text
from rlvr_verifiers.mathcheck.text.vocabulary import words
from rlvr_verifiers.mathcheck.values.answers import (
    Answer,
    Chained,
    Equation,
    Formula,
    Group,
    Labelled,
    Named,
    Parts,
    Reader,
    Reading,
)

_GREEK = words("""
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma
    tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell
""")
_NAME = re.compile(
    rf"(?:(?P<letter>[A-Za-z]|\\(?:{'|'.join(_GREEK)})(?![A-Za-z]))\s*(?P<sub>_\s*(?:\{{[^{{}}]*\}}|[A-Za-z0-9]|\\text\{{[^{{}}]*\}}))?\s*(?P<marks>'*)"
    r"\s*(?P<power>\^\s*\{?\s*(?:-\d|\(\d\)|\\prime)\s*\}?)?\s*(?:\(\s*(?P<args>[A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\))?"
    r"|\\text\s*\{(?P<words>[^{}]*)\}|(?P<plain>[A-Z]?[a-z]{3,}(?: [a-z]+)*))"
)
_APPLIED = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?'*\s*\([^()=]*\)")
_COUNTED = re.compile(r"[_^]\s*\{?-?\d+\}?|\([^()=]*\)")
_NO_VARIABLE = re.compile(
    r"\\text\s*\{[^{}]*\}|\\(?:frac|sqrt|overline|bar|dot|cdot|times|div|pi|sin|cos|tan|cot|sec|csc|arc[a-z]+|ln|log|exp|binom|circ|infty|pm|mp|left|right)"
    r"(?![a-z])|(?<![A-Za-z\\])[ei](?![A-Za-z])"
)
OPERATION = re.compile(
    r"\\(?:i{1,3}nt|oint|sum|prod|coprod|lim|limsup|liminf)(?![a-z])"
    r"|\\frac\s*\{\s*(?:d|\\partial)[\^\da-zA-Z ]{0,6}\}\s*\{\s*(?:d|\\partial)\s*[a-z][\^\da-zA-Z ]{0,6}\}"
)
_MEASURE = re.compile(  # P(X = 2), \Pr[X = 2], \mathbb{E}[X], \max f, \det A
    r"(?:\\(?:mathbb|mathcal|text|operatorname)\s*\{?\s*(?:P|E|Pr|Prob|Var|Cov|dim|rank|tr|deg|ord|Area|Vol)\s*\}?|\\Pr|P|E|Pr|Prob|Var)"
    r"\s*(?:\\?[\[({|].*[\])}|]|[A-Za-z])|\\(?:max|min|sup|inf|det|gcd|deg|dim)(?![a-z]).*"
)
_MAX_SIGNS = 30
AND = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*[,;]?\s*(?:and|or|And|Or|AND|OR|and/or)(?:,? equivalently)?,?\s*\}"
    r"|(?<![A-Za-z\\{])(?:and|or|AND|OR)(?![A-Za-z])|(?<=[\d)])(?:and|or)(?=[A-Z\d(\\-])|\\&|;)\s*,?\s*"
)
CONDITION = re.compile(
    r"\s*[,(]?\s*\\text\s*\{\s*[,(]?\s*(?:for|where|with|when|such that|on|over)\b[^{}]*\}.*$"
    r"|\s*,\s*(?:for|where|with) .*$"
)


def arrow(text: str, reader: Reader) -> list[Reading] | None:
    if "\\Rightarrow" not in text:
        return None
    return reader.readings(text.rpartition("\\Rightarrow")[2].strip())


def approximation(text: str, reader: Reader) -> list[Reading] | None:
    r"""`exact ≈ rounded` means the exact side; `x ≈ 11` is a value for x."""
    if "≈" not in text or len(split_outside(AND.sub(",", text), ",;")) > 1:
        return None
    left, _, right = text.partition("≈")
    left, right = left.strip(), right.strip()
    if left.endswith("(") and right.endswith(")"):  # 9/16 (≈ 0.56)
        left, right = left[:-1].rstrip(), right[:-1].rstrip()
    if not left:
        return reader.readings(right)
    if _NAME.fullmatch(left) or _APPLIED.fullmatch(left):
        return equality(f"{left} = {right.partition('≈')[0]}", reader)
    return reader.readings(left)


def equality(text: str, reader: Reader) -> list[Reading] | None:
    """Names with values, chains of equal values, equations."""
    if "=" not in text:
        return None
    pieces = split_outside(text, "=")
    if len(pieces) < 2 or AND.search(text) or (len(split_outside(text, ",;")) > 1 and len(pieces) > 2):
        return None
    if "," in text and any(len(split_outside(piece, ",;")) > 1 for piece in pieces[:-1]):
        return None
    if len(pieces) > _MAX_SIGNS:
        return []
    right = pieces[-1]
    if right and (worked := _worked_out(pieces, reader)) is not None:
        return worked
    if len(split_outside(right, ",;")) > 1:
        shorter = CONDITION.sub("", text)
        if shorter != text:
            return reader.readings(shorter)
        if tuple_of_names(pieces[0]) is None and not _NAME.fullmatch(pieces[0]):
            return None
    if not right:
        return []  # an equation without a right side
    if len(pieces) == 2 and pieces[0]:
        return _one_equality(pieces[0], right, reader)
    values = [piece for piece in pieces if piece]
    if not values:
        return []
    is_named = _is_name(values[0])
    while len(values) > 1 and _is_name(values[0]):
        values.pop(0)
    if len(values) == 1:
        return reader.readings(values[0])
    kept = [value for value in values if not is_quantity(value) or not re.search("[A-Za-z]", value)]
    return [Chained(tuple(reader.answer(value) for value in (kept or values)), is_named)]


def _worked_out(pieces: list[str], reader: Reader) -> list[Reading] | None:
    """The value in `operation = value` and `x = operation = ... = value`; None if no operation precedes it."""
    if OPERATION.search(pieces[-1]) or not any(map(_is_operation, pieces[:-1])):
        return None
    kept = [piece for piece in pieces[:-1] if piece and not _is_operation(piece) and not _is_name(piece)]
    if not kept:
        return reader.readings(pieces[-1])
    values = tuple(reader.answer(piece) for piece in (*kept, pieces[-1]))
    return [Chained(values, is_named=True)]


def _is_operation(text: str) -> bool:
    return OPERATION.search(text) is not None or _MEASURE.fullmatch(text) is not None


def _one_equality(left: str, right: str, reader: Reader) -> list[Reading] | None:
    shorter = CONDITION.sub("", right)
    if shorter and shorter != right:
        right = shorter
    if names := tuple_of_names(left):
        return _assignments(names, right, reader)
    equation = Equation(Formula(left), Formula(right))
    for name, value in ((left, right), (right, left)):
        match = _NAME.fullmatch(name)
        if match is not None and not _mentions(value, name):
            value_answer = _set_apart(reader.answer(value))
            if match["words"] is not None or match["plain"] is not None:
                return list(value_answer.readings)
            arguments = tuple(re.findall("[A-Za-z]", match["args"] or ""))
            head = (match["letter"] + (match["sub"] or "") + match["marks"] + (match["power"] or "")).replace(" ", "")
            head = re.sub(r"[{}]", "", unwrapped_text(head))
            named = Named(head, arguments, value_answer)
            return [named, equation] if _holds_variables(value) and not arguments else [named]
    left_answer, right_answer = reader.answer(left), reader.answer(right)
    if not _holds_variables(left) and not _holds_variables(right):
        return [Chained((left_answer, right_answer))]
    found: list[Reading] = [equation]
    is_zero = right == "0"
    if (
        left[0] != "-"
        and left != right
        and (_APPLIED.fullmatch(left) or (is_quantity(left) and not (is_zero and re.search("[+-]", left))))
    ):
        found.append(Labelled(left, right_answer))
    return found


def _set_apart(answer: Answer) -> Answer:
    """The values of one name, which are not a tuple."""
    first = answer.readings[0] if answer.readings else None
    if not isinstance(first, Parts) or first.group is not Group.LIST:
        return answer
    return Answer(answer.text, (replace(first, is_apart=True), *answer.readings[1:]))


def tuple_of_names(text: str) -> list[str] | None:
    if not (text.startswith("(") and text.endswith(")")):
        return None
    names = split_outside(text[1:-1], ",")
    return names if len(names) > 1 and all(_NAME.fullmatch(name) for name in names) else None


def _holds_variables(text: str) -> bool:
    """Whether letters remain apart from constants, functions and words."""
    return re.search(r"[A-Za-z]", _NO_VARIABLE.sub(" ", text)) is not None


def _assignments(names: list[str], right: str, reader: Reader) -> list[Reading]:
    """(x, y) = (1, 2), (3, 4): the tuples; for a single tuple also its named parts."""
    plain = tuple(re.sub(r"[{} ]", "", name) for name in names)
    found = [with_names(reading, plain) for reading in reader.readings(right)]
    for reading in found:
        if isinstance(reading, Parts) and reading.names:
            items = tuple(
                Answer(f"{name} = {item.text}", (Named(name, (), item),))
                for name, item in zip(plain, reading.items, strict=True)
            )
            return [*found, Parts(Group.LIST, items)]
    return found


def with_names(reading: Reading, names: tuple[str, ...]) -> Reading:
    """The reading with the parts of tuples of that length named; any other reading unchanged."""
    if not isinstance(reading, Parts):
        return reading
    if reading.group is Group.TUPLE:
        return replace(reading, names=names) if len(reading.items) == len(names) else reading
    items = tuple(
        Answer(item.text, tuple(with_names(inner, names) for inner in item.readings)) for item in reading.items
    )
    return replace(reading, items=items)


def _is_name(text: str) -> bool:
    return (
        _NAME.fullmatch(text) is not None
        or _APPLIED.fullmatch(text) is not None
        or (is_quantity(text) and re.search(r"(?<!\\)\b[A-Za-z]", text) is not None)
    )


def is_quantity(text: str) -> bool:
    """Whether the text has digits only in subscripts, exponents and brackets: a + b, AB^2, P(X = 2), but not 2x."""
    return re.search(r"\d", _COUNTED.sub("", text)) is None


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])", text) is not None
