"""Runs one query read-only on a fresh copy of an in-memory SQLite database, in bounded time and memory.

>>> image = build_image("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2);")
>>> run_query(image, "SELECT sum(a) FROM t", QueryLimits()).rows
[(3,)]
>>> run_query(image, "DROP TABLE t", QueryLimits())
Traceback (most recent call last):
rlvr_verifiers.sql_answer.database.QueryFailed: the query does more than read: not authorized
"""

import contextlib
import sqlite3
import time
from dataclasses import dataclass

Cell = int | float | str | bytes | None
Row = tuple[Cell, ...]
MAX_SCRIPT_CHARS = 5_000_000
_MAX_VALUE_BYTES = 200_000
_MAX_HEAP_BYTES = 512 * 2**20  # of SQLite in this process
_STEPS_BETWEEN = 1_000
_SCRIPT_STEPS = 200_000_000
_MAX_LIKE_WORK = 2_000_000
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: _MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_DENIED_FUNCTIONS = {"load_extension", "random", "randomblob", "current_timestamp", "current_date", "current_time"}


class QueryFailed(Exception):  # noqa: N818 - not a fault of this program
    """The query is invalid, does more than read, or needs more than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """What a query may use. steps: of SQLite's virtual machine. bytes: of all rows. seconds: of processor time."""

    steps: int = 10_000_000
    rows: int = 10_000
    bytes: int = 10_000_000
    seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Table:
    """A result. tables: the names of the tables that the query reads."""

    columns: tuple[str, ...]
    rows: list[Row]
    tables: frozenset[str]


def build_image(script: str) -> bytes:
    """The database that a script makes, as bytes. Raises ValueError if the script fails."""
    if len(script) > MAX_SCRIPT_CHARS:
        raise ValueError(f"the script has more than {MAX_SCRIPT_CHARS:,} characters")
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        _bound_memory(connection)
        denied = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
        connection.set_authorizer(
            lambda action, *names: (
                sqlite3.SQLITE_DENY
                if action in denied or (action == sqlite3.SQLITE_FUNCTION and names[1] == "load_extension")
                else sqlite3.SQLITE_OK
            )
        )
        meter = _Meter(_SCRIPT_STEPS, seconds=20.0)
        connection.set_progress_handler(meter, _STEPS_BETWEEN)
        try:
            connection.executescript(script)
            connection.set_authorizer(None)
            return connection.serialize()
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            raise ValueError(f"the script of the database fails: {error}") from error


def run_query(image: bytes, query: str, limits: QueryLimits) -> Table:
    """The result of a query on a fresh copy of a database. Raises QueryFailed."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(image)
        _bound_memory(connection)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        for kind, limit in _LIMITS.items():
            connection.setlimit(kind, limit)
        for name, many, one in (("like", "%", "_"), ("glob", "*", "?")):
            for count in (2, 3) if name == "like" else (2,):
                connection.create_function(name, count, _Wildcards(many, one, name == "like"), deterministic=True)
        tables: set[str] = set()

        def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            if action == sqlite3.SQLITE_READ and first:
                tables.add(first)
            is_function = action == sqlite3.SQLITE_FUNCTION and second not in _DENIED_FUNCTIONS
            return sqlite3.SQLITE_OK if action in _READS or is_function else sqlite3.SQLITE_DENY

        connection.set_authorizer(authorize)
        meter = _Meter(limits.steps, limits.seconds)
        connection.set_progress_handler(meter, _STEPS_BETWEEN)
        try:
            cursor = connection.execute(query)
            if cursor.description is None:
                raise QueryFailed("the statement is not a query")
            columns = tuple(column[0] for column in cursor.description)
            return Table(columns, _rows(cursor, limits), frozenset(tables))
        except sqlite3.DatabaseError as error:
            raise QueryFailed(_explained(error, meter, limits)) from error
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise QueryFailed(f"the query cannot be run: {str(error)[:200]}") from error
        except (ValueError, OverflowError) as error:
            raise QueryFailed(f"the query cannot be run: {str(error)[:200]}") from error
        except MemoryError as error:
            raise QueryFailed("the query needs too much memory") from error


def _rows(cursor: sqlite3.Cursor, limits: QueryLimits) -> list[Row]:
    rows: list[Row] = []
    num_bytes = 0
    for row in cursor:
        rows.append(row)
        num_bytes += sum(len(cell) if isinstance(cell, (str, bytes)) else 8 for cell in row)
        if len(rows) > limits.rows or num_bytes > limits.bytes:
            raise QueryFailed(f"the query returns more than {limits.rows:,} rows or {limits.bytes:,} bytes")
    return rows


def _explained(error: sqlite3.DatabaseError, meter: "_Meter", limits: QueryLimits) -> str:
    if meter.is_spent:
        return f"the query takes more than {limits.steps:,} steps or {limits.seconds:g} s"
    text = str(error)
    if any(word in text for word in ("not authorized", "authorization denied", "prohibited")):
        return f"the query does more than read: {text[:200]}"
    return f"the query cannot be run: {text[:200]}"


def _bound_memory(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA hard_heap_limit = {_MAX_HEAP_BYTES}")
    connection.execute("PRAGMA trusted_schema = OFF")


class _Meter:
    """Counts steps and processor time; a true result interrupts the query."""

    def __init__(self, steps: int, seconds: float) -> None:
        self._left = steps
        self._end = time.process_time() + seconds
        self.is_spent = False

    def __call__(self) -> bool:
        self._left -= _STEPS_BETWEEN
        self.is_spent = self._left < 0 or time.process_time() > self._end
        return self.is_spent


class _Wildcards:
    """LIKE and GLOB in time proportional to text times pattern; SQLite's own may take exponentially long."""

    def __init__(self, many: str, one: str, is_like: bool) -> None:
        self._many, self._one, self._is_like = many, one, is_like

    def __call__(self, pattern: Cell, text: Cell, escape: Cell = None) -> bool | None:
        if pattern is None or text is None:
            return None
        wanted, given = _as_text(pattern), _as_text(text)
        if len(wanted) * len(given) > _MAX_LIKE_WORK:
            raise ValueError("the pattern and the text are too long")
        if self._is_like:
            tokens = _like_tokens(_lower(wanted), _lower(str(escape)) if escape is not None else None)
            return _matches(tokens, _lower(given))
        return _matches(_glob_tokens(wanted), given)


def _as_text(value: Cell) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _lower(text: str) -> str:
    """The text with ASCII letters in lower case, as LIKE compares them."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


_MANY = object()
Token = object | str | tuple[bool, frozenset[str]] | None  # _MANY; one character; a class; None: any character


def _like_tokens(pattern: str, escape: str | None) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if escape is not None and letter == escape and at + 1 < len(pattern):
            at += 1
            tokens.append(pattern[at])
        else:
            tokens.append(_MANY if letter == "%" else None if letter == "_" else letter)
        at += 1
    return tokens


def _glob_tokens(pattern: str) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "[":
            end = pattern.find("]", at + 2 + pattern.startswith("^", at + 1))
            if end < 0:
                return [(False, frozenset())]
            inner = pattern[at + 1 : end]
            is_negated = inner.startswith("^")
            tokens.append((is_negated, _members(inner[is_negated:])))
            at = end
        else:
            tokens.append(_MANY if letter == "*" else None if letter == "?" else letter)
        at += 1
    return tokens


def _members(inner: str) -> frozenset[str]:
    found: set[str] = set()
    at = 0
    while at < len(inner):
        if inner[at + 1 : at + 2] == "-" and at + 2 < len(inner):
            last = min(ord(inner[at + 2]), ord(inner[at]) + 5_000)
            found |= {chr(code) for code in range(ord(inner[at]), last + 1)}
            at += 3
        else:
            found.add(inner[at])
            at += 1
    return frozenset(found)


def _matches(tokens: list[Token], text: str) -> bool:
    """Whether the tokens match the whole text: the last `many` is extended when a later token fails."""
    at, position = 0, 0
    many_at, many_position = -1, 0
    while position < len(text):
        if at < len(tokens) and tokens[at] is _MANY:
            many_at, many_position = at, position
            at += 1
        elif at < len(tokens) and _fits(tokens[at], text[position]):
            at, position = at + 1, position + 1
        elif many_at >= 0:
            many_position += 1
            at, position = many_at + 1, many_position
        else:
            return False
    return all(token is _MANY for token in tokens[at:])


def _fits(token: Token, letter: str) -> bool:
    if isinstance(token, tuple):
        is_negated, letters = token
        return (letter in letters) is not is_negated
    return token is None or token == letter
