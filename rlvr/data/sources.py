"""Opens a `DataSource` as rows: maps columns, extracts references, reports all bad rows together."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlvr.config.recipe import DataSource, Layout, source_name
from rlvr.data.files import RawRow, read_rows
from rlvr.data.generators import ProblemDraws, open_generator
from rlvr.data.messages import read_messages
from rlvr.errors import ConfigError, DataError
from rlvr.records import Json

GENERATOR_PREFIX = "generator:"
MAX_SHOWN = 10
_LONG_FAULT = 120  # characters
_WHOLE_ROW = "*"  # in `columns`, for all of them as one object
_ROLES = frozenset({"prompt", "reference", "id"})  # of `columns`; any other name in it is a tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question with its reference.

    row_id: unique in its source. question: text, or chat messages as a list of {"role", "content"}.
    key: two rows with the same key are the same problem. tags: the other columns that hold one plain
    value, and those that the recipe's `columns` names or `layout` keeps, whatever they hold. where: the file and
    line it was read from; "" for a generated one.
    """

    row_id: str
    question: str | Sequence[Mapping[str, str]]
    reference: Json = field(repr=False)
    key: str
    tags: Mapping[str, Json]
    where: str = ""


class Rows(Protocol):
    """Rows by number: finite with a length, or endless with `num_rows` None."""

    @property
    def num_rows(self) -> int | None:
        """How many there are; None when endless."""
        ...

    def row(self, index: int) -> Row:
        """The row of that number, from 0; always the same one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FiniteRows:
    """Rows held in memory. columns: every column of any row, except those of prompt and reference."""

    rows: Sequence[Row]
    columns: frozenset[str] = frozenset()

    @property
    def num_rows(self) -> int | None:
        """How many there are."""
        return len(self.rows)

    def row(self, index: int) -> Row:
        """The row of that number."""
        return self.rows[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedRows:
    """Rows computed on demand; `draws` also demonstrates if its generator can."""

    draws: ProblemDraws
    split: str

    @property
    def num_rows(self) -> int | None:
        """None: a generator is endless."""
        return None

    def row(self, index: int) -> Row:
        """The problem of that draw as a row."""
        problem = self.draws.problem(index)
        return Row(
            row_id=f"{self.split}-{index}",
            question=problem.prompt,
            reference=problem.reference,
            key=problem.key,
            tags=problem.fields,
        )


class FileReader:
    """Reads files, folders and hub data sets, each once for all the sources that name it."""

    def __init__(self, sources: Iterable[DataSource]) -> None:
        """Args: sources: all that will be read; raw rows are kept until the last of those that name them has come."""
        self._sharing: dict[_Origin, list[DataSource]] = {}
        for config in sources:
            self._sharing.setdefault(_origin(config), []).append(config)
        self._raw: dict[_Origin, list[RawRow]] = {}
        self._limits: dict[_Origin, int] = {}  # the most rows that were read into `_raw`; 0: all
        self._rows: dict[str, FiniteRows] = {}

    def read(self, config: DataSource) -> FiniteRows:
        """The rows of a source; those that are mapped alike are the same object.

        Raises: DataError, ConfigError: see `open_source`.
        """
        key = _mapping_key(config)
        if key not in self._rows:
            pattern = _compile(config)
            self._rows[key] = _finite_rows(config, self._raw_rows(config), pattern)
        origin = _origin(config)
        waiting = self._sharing.get(origin, [])
        if all(_mapping_key(other) in self._rows for other in waiting):
            self._raw.pop(origin, None)
        return self._rows[key]

    def _raw_rows(self, config: DataSource) -> list[RawRow]:
        origin = _origin(config)
        limits = [config.limit, *(other.limit for other in self._sharing.get(origin, []))]
        limit = max(limits) if all(limits) else 0
        if origin not in self._raw or self._limits[origin] != limit:  # a source that was not announced may need more
            self._raw[origin], self._limits[origin] = _read(config, limit=limit), limit
        raw = self._raw[origin]
        return raw[: config.limit] if config.limit else raw


def open_source(config: DataSource, *, seed: int, reader: FileReader | None = None) -> FiniteRows | GeneratedRows:
    """The rows of a source.

    Args:
        seed: decides a generator's draws; rows from files do not depend on it.
        reader: shares what it reads with other sources.

    Raises:
        DataError: missing file or column, unreadable rows, rows without prompt or reference,
        duplicate ids, no row.
        ConfigError: unknown generator or setting, a bad pattern, `datasets` needed and missing.
    """
    if config.source.startswith(GENERATOR_PREFIX):
        _refuse_file_keys(config)
        generator = config.source.removeprefix(GENERATOR_PREFIX)
        draws = open_generator(generator, settings=config.settings, split=config.split, seed=seed)
        return GeneratedRows(draws=draws, split=config.split)
    if config.settings:
        raise ConfigError(
            f"source {config.source!r}: settings={config.settings!r} are only for generators; remove them"
        )
    return (reader or FileReader([config])).read(config)


_Origin = tuple[str, str, str]


def _origin(config: DataSource) -> _Origin:
    """What is read for a source, but for its limit."""
    return config.source, config.subset, config.split


def _mapping_key(config: DataSource) -> str:
    """Sources of one key have the same rows."""
    columns = sorted(config.columns.items())
    return repr((_origin(config), config.limit, config.reference_pattern, columns, config.layout))


def _read(config: DataSource, *, limit: int) -> list[RawRow]:
    try:
        return read_rows(config.source, subset=config.subset, split=config.split, limit=limit)
    except OSError as error:
        raise DataError(f"source {config.source!r} cannot be read: {error}") from error


def _finite_rows(config: DataSource, raw: Sequence[RawRow], pattern: re.Pattern[str] | None) -> FiniteRows:
    if not raw:
        name = source_name(config)
        raise DataError(f"source {config.source!r} ({name}) is empty: it has no row")
    hidden = {_wanted(config)[role] for role in ("prompt", "reference")}
    columns = {name for item in raw for name in item.columns} | (config.columns.keys() - _ROLES)
    return FiniteRows(rows=_map_rows(config, raw, pattern), columns=frozenset(columns - hidden))


def _wanted(config: DataSource) -> dict[str, str]:
    """The column of each role."""
    return {"prompt": "prompt", "reference": "reference", **config.columns}


def _refuse_file_keys(config: DataSource) -> None:
    ignored = [key for key in ("subset", "reference_pattern", "limit") if getattr(config, key)]
    if ignored:
        raise ConfigError(
            f"source {config.source!r}: {', '.join(ignored)} have no meaning for a generator; remove them"
        )


def _compile(config: DataSource) -> re.Pattern[str] | None:
    if not config.reference_pattern:
        return None
    try:
        pattern = re.compile(config.reference_pattern)
    except re.error as error:
        raise ConfigError(
            f"source {config.source!r}: reference_pattern={config.reference_pattern!r} is no "
            f"regular expression: {error}"
        ) from error
    if pattern.groups < 1:
        raise ConfigError(
            f"source {config.source!r}: reference_pattern={config.reference_pattern!r} has no "
            "group; "
            "put parentheses around the part that is the reference"
        )
    return pattern


def _map_rows(config: DataSource, raw: Sequence[RawRow], pattern: re.Pattern[str] | None) -> list[Row]:
    wanted = _wanted(config)
    _require_columns(config, raw, wanted)
    rows: list[Row] = []
    faults: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for index, item in enumerate(raw):
        try:
            row = _map_row(item, index, wanted, pattern, keeps_all=config.layout is not Layout.PLAIN)
            if row.row_id in seen:
                raise ValueError(f"id {row.row_id!r} is already used at {seen[row.row_id]}")
        except ValueError as error:
            faults.append((item.where, str(error)))
            continue
        seen[row.row_id] = item.where
        rows.append(row)
    if faults:
        raise DataError(_faults_message(config, faults, num_rows=len(raw)))
    return rows


def _faults_message(config: DataSource, faults: Sequence[tuple[str, str]], *, num_rows: int) -> str:
    """One line per row, for the first rows; a long text is not repeated. Args: faults: place and text of each."""
    lines: list[str] = []
    said: set[str] = set()
    for place, fault in faults[:MAX_SHOWN]:
        lines.append(f"  {place}: {'the same' if fault in said else fault}")
        if len(fault) > _LONG_FAULT:
            said.add(fault)
    more = f"\n  ... and {len(faults) - MAX_SHOWN} more" if len(faults) > MAX_SHOWN else ""
    return (
        f"source {config.source!r}: {len(faults)} of {num_rows} rows cannot be used; repair or "
        "remove them:\n" + "\n".join(lines) + more
    )


def _require_columns(config: DataSource, raw: Sequence[RawRow], wanted: Mapping[str, str]) -> None:
    """A column that no row has is an error in the recipe; one that only some rows lack is an error in those rows."""
    readable = [item for item in raw if not item.fault]
    if not readable:
        return
    held = list(dict.fromkeys(name for item in readable for name in item.columns))
    missing = [
        f"{column!r} (columns.{role})"
        for role, column in wanted.items()
        if not any(_has_column(item.columns, column) for item in readable)
    ]
    if missing:
        raise DataError(
            f"source {config.source!r} has no column {', '.join(missing)}. Columns there are: "
            f"{', '.join(held)}. "
            'Set `columns`, for example {"prompt": "question", "reference": "answer"}'
        )


def _map_row(
    item: RawRow, index: int, wanted: Mapping[str, str], pattern: re.Pattern[str] | None, *, keeps_all: bool
) -> Row:
    if item.fault:
        raise ValueError(item.fault)
    columns = item.columns
    question = _question(columns, wanted["prompt"])
    reference = _reference(columns, wanted["reference"], pattern)
    row_id = str(index)
    if "id" in wanted:
        value = _column_value(columns, wanted["id"])
        if value is None or value == "":
            raise ValueError(f"column {wanted['id']!r} (columns.id) is empty")
        row_id = str(value)
    hidden = {wanted["prompt"], wanted["reference"]}
    if keeps_all:
        tops = {name.partition(".")[0] for name in hidden}  # `reward_model` holds the reference
        tags = {name: _kept(value, name) for name, value in columns.items() if name not in hidden | tops}
    else:
        tags = {name: value for name, value in columns.items() if name not in hidden and _is_scalar(value)}
    for name in wanted.keys() - _ROLES:
        value = _column_value(columns, wanted[name])
        if value is not None:
            tags[name] = _as_json(value, name)
    return Row(row_id=row_id, question=question, reference=reference, key=row_id, tags=tags, where=item.where)


def _question(columns: Mapping[str, Any], column: str) -> str | list[dict[str, str]]:
    value = _column_value(columns, column)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value:
        return read_messages(value, column)
    if value is None or value == "" or isinstance(value, str | list):
        raise ValueError(f"column {column!r} (columns.prompt) is empty")
    raise ValueError(f"column {column!r} (columns.prompt) holds {type(value).__name__}, expected text or messages")


def _reference(columns: Mapping[str, Any], column: str, pattern: re.Pattern[str] | None) -> Json:
    value = _column_value(columns, column)
    is_nan = isinstance(value, float) and math.isnan(value)  # many tables use NaN for null
    if value is None or is_nan or (isinstance(value, str) and not value.strip()) or value in ([], {}):
        raise ValueError(f"column {column!r} (columns.reference) is empty; a row without reference cannot be verified")
    if pattern is not None:
        if not isinstance(value, str):
            raise ValueError(f"reference_pattern needs text, but column {column!r} holds {type(value).__name__}")
        match = pattern.search(value)
        if match is None or not (match.group(1) or "").strip():
            raise ValueError(f"reference_pattern={pattern.pattern!r} finds nothing in {_short(value)!r}")
        return match.group(1)
    return _as_json(value, "reference", column)


def _has_column(columns: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a column; `outer.inner`, `tests.0` and `*` as for `_column_value`."""
    if column in columns or column == _WHOLE_ROW:
        return True
    head, dot, rest = column.partition(".")
    inner = _opened(columns.get(head))
    return bool(dot) and inner is not None and _has_column(inner, rest)


def _column_value(columns: Mapping[str, Any], column: str) -> Any:
    """The value of a column; `outer.inner` reaches into an object, `tests.0` into a list, and `*` is the whole row.
    None where it is missing.
    """
    if column in columns:
        return columns[column]
    if column == _WHOLE_ROW:
        return dict(columns)
    head, dot, rest = column.partition(".")
    inner = _opened(columns.get(head))
    return _column_value(inner, rest) if dot and inner is not None else None


def _opened(value: object) -> Mapping[str, Any] | None:
    """An object or a list as a mapping from names or positions; None for anything else."""
    if isinstance(value, Mapping):
        return value
    return {str(index): item for index, item in enumerate(value)} if isinstance(value, list) else None


def _as_json(value: Any, role: str, column: str = "") -> Json:
    """The value. Raises ValueError if it is not a JSON value."""
    named = f"column {column!r} (columns.{role})" if column else f"columns.{role}"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{named} holds {value}, which no answer equals")
    if not _is_scalar(value):
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{named} is not a JSON value: {error}") from error
    return value


def _kept(value: Any, name: str) -> Json:
    """A column of any kind as a tag; NaN, which many tables use for null, as None. Raises ValueError."""
    if isinstance(value, float) and math.isnan(value):
        return None
    try:
        return _as_json(value, name)
    except ValueError as error:
        raise ValueError(f"{error}; layout: plain keeps only the columns that `columns` names") from error


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _short(text: str) -> str:
    return text if len(text) <= 60 else "..." + text[-57:]
