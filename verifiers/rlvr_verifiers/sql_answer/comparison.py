"""Whether two results have the same rows, as lists or as multisets, with a tolerance for floating-point numbers.

>>> same_rows([(1, "a"), (2, None)], [(2.0, None), (1, "a")], ordered=False, tolerance=1e-6)
True
>>> has_order("SELECT a FROM (SELECT a FROM t ORDER BY a)"), has_order("SELECT a FROM t ORDER BY a LIMIT 3")
(False, True)
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from rlvr_verifiers.sql_answer.database import Cell, Row

_MAX_PAIRED = 500
_DIGITS = 6
_SKIPPED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TOKEN = re.compile(r"[()]|\border\s+by\b", re.IGNORECASE)


def has_order(query: str) -> bool:
    """Whether a query has an ORDER BY outside all brackets, comments and texts."""
    depth = 0
    for match in _TOKEN.finditer(_SKIPPED.sub(" ", query)):
        token = match.group()
        if token in "()":
            depth += 1 if token == "(" else -1
        elif depth == 0:
            return True
    return False


def same_rows(rows: Sequence[Row], gold: Sequence[Row], *, ordered: bool, tolerance: float) -> bool:
    """Whether the rows are the gold rows; NULL equals NULL, and 1 equals 1.0 but not '1'."""
    if len(rows) != len(gold):
        return False
    if ordered:
        return all(_same_row(row, other, tolerance) for row, other in zip(rows, gold, strict=True))
    if Counter(map(_key, rows)) == Counter(map(_key, gold)):
        return True
    left, right = sorted(rows, key=_sort_key), sorted(gold, key=_sort_key)
    if all(_same_row(row, other, tolerance) for row, other in zip(left, right, strict=True)):
        return True
    return len(rows) <= _MAX_PAIRED and _can_be_paired(rows, list(gold), tolerance)


def _can_be_paired(rows: Sequence[Row], gold: list[Row], tolerance: float) -> bool:
    """Whether each row finds a gold row of its own; for numbers that sort differently within the tolerance."""
    for row in rows:
        index = next((index for index, other in enumerate(gold) if _same_row(row, other, tolerance)), None)
        if index is None:
            return False
        del gold[index]
    return True


def _same_row(row: Row, other: Row, tolerance: float) -> bool:
    return len(row) == len(other) and all(
        _same_cell(cell, wanted, tolerance) for cell, wanted in zip(row, other, strict=True)
    )


def _same_cell(cell: Cell, wanted: Cell, tolerance: float) -> bool:
    if isinstance(cell, (int, float)) and isinstance(wanted, (int, float)):
        if cell == wanted:
            return True
        if isinstance(cell, int) and isinstance(wanted, int):
            return False
        return math.isclose(cell, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return type(cell) is type(wanted) and cell == wanted


def _key(row: Row) -> tuple[object, ...]:
    return tuple(("number" if isinstance(cell, (int, float)) else type(cell).__name__, cell) for cell in row)


def _sort_key(row: Row) -> tuple[tuple[int, float, str, bytes], ...]:
    return tuple(map(_cell_key, row))


def _cell_key(cell: Cell) -> tuple[int, float, str, bytes]:
    if cell is None:
        return 0, 0.0, "", b""
    if isinstance(cell, (int, float)):
        return 1, float(f"{float(cell):.{_DIGITS}g}"), "", b""
    return (2, 0.0, cell, b"") if isinstance(cell, str) else (3, 0.0, "", cell)
