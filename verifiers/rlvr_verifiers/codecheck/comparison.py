"""Compares the output of a program with the expected output, as text."""

import math
import re
from decimal import Decimal, InvalidOperation

from rlvr_verifiers.codecheck.references.references import Tolerance, WhiteSpace

_BLANKS = " \t\r\f\v"
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf|nan)", re.ASCII)
_DECIMAL = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)
_MAX_DIGITS = 400  # of a number that is compared by value
_FEW_DECIMALS = 3  # a number with at most this many is exact up to noise
_SHOWN_CHARS = 80


def output_problem(
    printed: bytes,
    expected: str,
    tolerance: Tolerance | None,
    *,
    white_space: WhiteSpace = WhiteSpace.LAYOUT,
    loose: float = 0.0,
    whole_by_value: bool = False,
) -> str:
    r"""Why the output differs from the expected one; "" if it does not.

    Lines are counted before they are compared, so a correct beginning is not enough.

    Args:
        tolerance: of all numbers, as the reference specifies; None if it does not.
        white_space: which white space counts. Blanks at the end of a line and blank lines around the whole never do.
        loose: without `tolerance`, the allowed error of a number whose expected value has a fraction: absolute, also
            relative if it has more than three decimals. 0: compared as text.
        whole_by_value: with `loose`, compare integers by value, so that `2.0` is `2`; otherwise as text.

    >>> output_problem(b"1 2 \n3\n\n", "1 2\n3", None)
    ''
    >>> output_problem(b"1\n", "1\n2\n", None)
    'printed 1 line, expected 2'
    >>> output_problem(b"2.0 0.5\n", "2 0.50", None, loose=1e-6, whole_by_value=True)
    ''
    """
    try:
        text = printed.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"printed what is no UTF-8 (byte {error.start})"
    if text == expected:
        return ""
    has_layout = white_space is WhiteSpace.EXACT
    skips_blank = white_space is WhiteSpace.WORDS
    got, wanted = _lines(text, skips_blank, has_layout), _lines(expected, skips_blank, has_layout)
    if white_space is WhiteSpace.LAYOUT:
        has_layout = any("  " in line or line[:1] in _BLANKS for line in wanted if line)
    if len(got) != len(wanted):
        return f"printed {len(got)} line{'s' * (len(got) != 1)}, expected {len(wanted)}"
    for number, (left, right) in enumerate(zip(got, wanted, strict=True), start=1):
        if left != right and not _is_same_line(left, right, has_layout, tolerance, loose, whole_by_value):
            where = f"line {number} is" if len(wanted) > 1 else "printed"
            return f"{where} {_shown(left)}, expected {_shown(right)}"
    return ""


def _lines(text: str, skips_blank: bool, keeps_first: bool) -> list[str]:
    lines = [line.rstrip(_BLANKS) for line in text.split("\n")]
    if skips_blank:
        return [line for line in lines if line]
    while lines and not lines[-1]:
        lines.pop()
    first = 0 if keeps_first else next((i for i, line in enumerate(lines) if line), 0)
    return lines[first:]


def _is_same_line(
    got: str, wanted: str, has_layout: bool, tolerance: Tolerance | None, loose: float, whole_by_value: bool
) -> bool:
    left, right = got.split(), wanted.split()
    if len(left) != len(right):
        return False
    if tolerance is None and has_layout and _blanks_of(got) != _blanks_of(wanted):
        return False
    for a, b in zip(left, right, strict=True):
        if a == b:
            continue
        if tolerance is not None:
            if not _is_close_word(a, b, tolerance):
                return False
        elif not (loose and _is_same_number(a, b, loose, whole_by_value)):
            return False
    return True


def _blanks_of(line: str) -> list[str]:
    """The white space before each word."""
    return re.findall(r"(\s*)\S+", line)


def _is_close_word(got: str, wanted: str, tolerance: Tolerance) -> bool:
    if not (_NUMBER.fullmatch(got) and _NUMBER.fullmatch(wanted)):
        return False
    left, right = float(got), float(wanted)
    if not (math.isfinite(left) and math.isfinite(right)):
        return False  # the same infinity is the same word; two numbers too large for a float are not known to be equal
    return abs(left - right) <= max(tolerance.abs_tol, tolerance.rel_tol * abs(right))


def _is_same_number(got: str, wanted: str, loose: float, whole_by_value: bool) -> bool:
    if max(len(got), len(wanted)) > _MAX_DIGITS:
        return False
    if not (_DECIMAL.fullmatch(got) and _DECIMAL.fullmatch(wanted)):
        return False
    is_whole = not ("." in wanted or "e" in wanted.lower())
    if is_whole and not whole_by_value:
        return False
    try:
        left, right = Decimal(got), Decimal(wanted)
        if left == right:
            return "." in got + wanted or "e" in (got + wanted).lower()
        if is_whole:
            return False
        difference = float(abs(left - right))
    except (InvalidOperation, OverflowError):
        return False
    decimals = len(wanted.lower().partition("e")[0].partition(".")[2])
    is_rough = decimals > _FEW_DECIMALS or "e" in wanted.lower()
    return difference <= loose * max(1.0, abs(float(right)) if is_rough else 0.0)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
