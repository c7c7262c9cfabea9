"""The columns of a row by the names that a recipe gives them."""

from collections.abc import Mapping
from typing import Any

WHOLE_ROW = "*"


def has_column(columns: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a column; `outer.inner`, `tests.0` and `*` as for `column_value`."""
    if column in columns or column == WHOLE_ROW:
        return True
    head, dot, rest = column.partition(".")
    inner = _opened(columns.get(head))
    return bool(dot) and inner is not None and has_column(inner, rest)


def column_value(columns: Mapping[str, Any], column: str) -> Any:
    """The value of a column; `outer.inner` reaches into an object, `tests.0` into a list, and `*` is the whole row.
    None where it is missing.
    """
    if column in columns:
        return columns[column]
    if column == WHOLE_ROW:
        return dict(columns)
    head, dot, rest = column.partition(".")
    inner = _opened(columns.get(head))
    return column_value(inner, rest) if dot and inner is not None else None


def _opened(value: object) -> Mapping[str, Any] | None:
    """An object or a list as a mapping from names or positions; None for anything else."""
    if isinstance(value, Mapping):
        return value
    return {str(index): item for index, item in enumerate(value)} if isinstance(value, list) else None
