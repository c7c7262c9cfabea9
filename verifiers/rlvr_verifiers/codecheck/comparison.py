"""What a program printed against what it should have printed, as text."""

import math
import re

from rlvr_verifiers.codecheck.references import Tolerance

_BLANKS = " \t\r\f\v"
_NUMBER = re.compile(
    r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf|nan)", re.ASCII
)
_SHOWN_CHARS = 80


def output_problem(printed: bytes, expected: str, tolerance: Tolerance | None) -> str:
    r"""Why the output is not the expected one; "" when it is.

    Trailing blanks of a line and trailing blank lines never count; all else does. The lines are counted before they are
    compared, so a right beginning is not enough. With a tolerance, each line's words are compared, numbers by value.

    >>> output_problem(b"1 2 \n3\n\n", "1 2\n3", None)
    ''
    >>> output_problem(b"1\n", "1\n2\n", None)
    'printed 1 line, expected 2'
    """
    try:
        text = printed.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"printed what is no UTF-8 (byte {error.start})"
    got, wanted = _lines(text), _lines(expected)
    if len(got) != len(wanted):
        return f"printed {len(got)} line{'s' * (len(got) != 1)}, expected {len(wanted)}"
    for number, (left, right) in enumerate(zip(got, wanted, strict=True), start=1):
        if left != right and not (tolerance and _is_close_line(left, right, tolerance)):
            where = f"line {number} is" if len(wanted) > 1 else "printed"
            return f"{where} {_shown(left)}, expected {_shown(right)}"
    return ""


def _lines(text: str) -> list[str]:
    lines = [line.rstrip(_BLANKS) for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _is_close_line(got: str, wanted: str, tolerance: Tolerance) -> bool:
    left, right = got.split(), wanted.split()
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(_is_close_word(a, b, tolerance) for a, b in pairs)


def _is_close_word(got: str, wanted: str, tolerance: Tolerance) -> bool:
    if got == wanted:
        return True
    if not (_NUMBER.fullmatch(got) and _NUMBER.fullmatch(wanted)):
        return False
    left, right = float(got), float(wanted)
    if not (math.isfinite(left) and math.isfinite(right)):
        return False  # the same infinity is the same word; two numbers too large for a float are not known to be equal
    return abs(left - right) <= max(tolerance.abs_tol, tolerance.rel_tol * abs(right))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
