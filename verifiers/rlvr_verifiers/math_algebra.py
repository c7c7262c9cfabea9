"""Symbolic equality by math-verify and sympy; only in a worker that can be killed, behind guards on
size.

math-verify's own timeouts are off: they use signals, which fail outside the main thread and cannot
stop C code.
"""

import logging
import re
from typing import Any

_MAX_CHARS = 2000
_MAX_DEPTH = 30
_MAX_EXPONENT = 1000
_MAX_BITS = 20_000
_POWER = re.compile(r"(?P<base>\d*)\s*\}?\)?\s*\^\s*")
_FACTORIAL = re.compile(r"(\d+|[)}!])(?=\s*!)")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{?\s*(\d+)")
_DIGITS_FOR_CONSTANTS = 40

logging.getLogger("math_verify").setLevel(
    logging.ERROR
)  # it warns at each call that timeouts are off


class Unreadable(ValueError):  # noqa: N818 - a finding about the text
    """The text is not mathematics that can be parsed."""


def size_problem(text: str) -> str:
    """Why an expression is too big to evaluate; "" when it is not. Pure string work.

    >>> size_problem("9^{9^{9^9}}")
    'it has a tower of powers'
    """
    text = re.sub(r"\s+", " ", text).replace("**", "^")  # runs of spaces make patterns below slow
    if len(text) > _MAX_CHARS:
        return f"it is longer than {_MAX_CHARS} characters"
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        return f"it is nested deeper than {_MAX_DEPTH}"
    for match in _FACTORIAL.finditer(text):
        number = match.group(1)
        if not number.isdigit() or len(number) > 4 or int(number) > _MAX_EXPONENT:
            return "it has a large or nested factorial"
    for match in _BINOMIAL.finditer(text):
        if len(match.group(1)) > 4 or int(match.group(1)) > _MAX_EXPONENT:
            return "it has a large binomial"
    for match in _POWER.finditer(text):
        exponent = _argument(text, match.end())
        if "^" in exponent and not re.search(r"(?<![\\a-z])[a-z]", exponent):
            return "it has a tower of powers"
        if "!" in exponent:
            return "it has a factorial in an exponent"
        digits = re.sub(r"[^0-9]", "", exponent)
        if re.fullmatch(r"[-+\s{}()]*\d+[\s{}()]*", exponent) and (
            len(digits) > 4
            or int(digits) > _MAX_EXPONENT
            or int(digits) * 4 * max(len(match["base"]), 1) > _MAX_BITS
        ):
            return "it has a large power"
        if len(digits) > 12 and not re.search("[a-z]", exponent):
            return "it has a large power"
    return ""


def _argument(text: str, start: int) -> str:
    """The exponent at `start`: a group in braces or one token (with a chain of powers that follows
    it).
    """
    if text[start : start + 1] in ("{", "("):
        depth = 0
        for index in range(start, len(text)):
            depth += (text[index] in "{(") - (text[index] in ")}")
            if depth == 0:
                chained = re.match(r"\s*\^", text[index + 1 :])
                return text[start : index + 1] + ("^" if chained and text[start] == "(" else "")
        return text[start:]
    match = re.compile(r"-?(?:\d+|\\[a-z]+|.)\s*\^?").match(text, start)
    return match.group(0) if match else ""


def can_parse(text: str) -> bool:
    """Whether math-verify reads the text as an expression. Call it on small, trusted text: it has
    no deadline.
    """
    try:
        _parse(text)
    except Unreadable:
        return False
    return True


def same_expression(gold: str, answer: str) -> bool:
    """Whether two expressions or equations are equal; False as well when the answer cannot be read.

    Raises: Unreadable when the gold cannot be read.
    """
    import math_verify

    if gold.count("=") == 1 and answer.count("=") == 1:
        return _same_equation(gold, answer)
    gold_parsed = _parse(gold)
    try:
        answer_parsed = _parse(answer)
    except Unreadable:
        return False
    if not math_verify.verify(gold_parsed, answer_parsed, timeout_seconds=None):
        return False
    return _same_constant(gold_parsed[0], answer_parsed[0])


def warm_up() -> None:
    """Imports sympy and runs the parser once, so that the first item does not pay for it."""
    same_expression("\\frac{x}{2}+1", "0.5x+1")


def _parse(text: str) -> list[Any]:
    """What math-verify makes of a boxed text: an expression and its spelling."""
    import math_verify

    parsed = math_verify.parse(
        f"\\boxed{{{text}}}",
        extraction_config=[math_verify.LatexExtractionConfig()],
        parsing_timeout=None,  # type: ignore[arg-type] - None is documented, the annotation lags
    )
    if not parsed or isinstance(parsed[0], str):
        raise Unreadable(f"{text[:80]!r} cannot be read as mathematics")
    return parsed


def _same_equation(gold: str, answer: str) -> bool:
    """Whether both equations have the same solutions, as far as their differences are
    proportional.
    """
    import sympy

    differences: list[Any] = []
    for equation in (gold, answer):
        sides: list[Any] = []
        for side in equation.split("="):
            try:
                sides.append(_parse(side)[0])
            except Unreadable:
                if equation is gold:
                    raise
                return False
        try:
            differences.append(sympy.expand(sides[0] - sides[1]))
        except TypeError:  # a set or a relation has no difference
            return False
    first, second = differences
    if first == 0 or second == 0:
        return bool(first == second)
    ratio = sympy.simplify(first / second)
    return bool(ratio.is_number and ratio != 0)


def _same_constant(gold: Any, answer: Any) -> bool:
    """Whether two constants agree to 40 digits, relatively; True for what is no constant.

    math-verify compares to an absolute tolerance, so that 3.14159265 passes for pi and 1/2004! for
    1/2006!.
    """
    import sympy

    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return True
    if gold.free_symbols or answer.free_symbols:
        return True
    exact: list[Any] = [
        value.xreplace({f: sympy.Rational(str(f)) for f in value.atoms(sympy.Float)})
        for value in (gold, answer)
    ]
    numbers = [sympy.N(value, _DIGITS_FOR_CONSTANTS + 10) for value in exact]
    if not all(number.is_number and number.is_finite for number in numbers):
        return True
    size = max(abs(number) for number in numbers)
    difference = sympy.N(exact[0] - exact[1], _DIGITS_FOR_CONSTANTS + 10, maxn=400)
    return bool(size == 0 or abs(difference) <= size * sympy.Float(10) ** -_DIGITS_FOR_CONSTANTS)
