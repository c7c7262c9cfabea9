"""`sql`: whether a query returns the rows of a gold query, on one or more SQLite databases."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, cast

from pydantic import BaseModel, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers.blocks import Source, block_text
from rlvr_verifiers.sql_answer.comparison import has_order, same_rows
from rlvr_verifiers.sql_answer.database import QueryFailed, QueryLimits, Table, build_image, run_query
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_MAX_CACHED = 64
_MAX_TEXT_CHARS = 2_000_000
_SHOWN_CHARS = 500
_KEYS = {"schema", "query", "also"}
_MAX_DATABASES = 10
_GOLD_SECONDS = 10.0
_GOLD_STEPS = 10  # times those of a completion's query
_QUERY = re.compile(
    r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.{0,5000}?\*/|\(){0,50}(?:select|with|values|explain|insert|update|delete|replace|create"
    r"|drop|alter|pragma|attach|detach|vacuum|reindex|analyze|begin|commit|rollback|savepoint|release|end)\b",
    re.IGNORECASE | re.DOTALL,
)


class Order(StrEnum):
    """Whether the order of rows counts."""

    AUTO = "auto"  # if the gold query has an ORDER BY
    ALWAYS = "always"
    NEVER = "never"


class SqlConfig(ThinkingConfig):
    """How `sql` finds, runs and compares a query."""

    source: Source = Field(
        Source.AUTO,
        description="where the query is: `block` (the last ```sql block), `whole` (the whole text), `auto` (a block if "
        "there is one)",
    )
    order: Order = Field(
        Order.AUTO,
        description="whether the order of rows counts: `auto` (if the gold query has an ORDER BY), `always`, `never`",
    )
    column_names: bool = Field(False, description="the names of the columns must be those of the gold query")
    tolerance: float = Field(1e-6, ge=0.0, description="absolute and relative tolerance for floating-point numbers")
    allow_empty: bool = Field(
        False,
        description="accept references whose gold query returns no rows on any database, which many queries match",
    )
    max_chars: int = Field(10_000, ge=1, le=100_000, description="characters of a query")
    max_rows: int = Field(10_000, ge=1, le=1_000_000, description="rows of a result, also of the gold query")
    max_steps: int = Field(
        10_000_000, ge=10_000, le=1_000_000_000, description="steps of SQLite's virtual machine for a query"
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """The databases of a reference, with the result of the gold query on each."""

    images: tuple[bytes, ...]
    golds: tuple[Table, ...]
    ordered: bool


class SqlVerifier:
    """Runs the completion's query and the gold query on the reference's databases, and compares the rows."""

    name: ClassVar[str] = "sql"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = SqlConfig

    def __init__(self, config: SqlConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        self._limits = QueryLimits(steps=config.max_steps, rows=config.max_rows)

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError if a script or the gold query fails, or if the gold query returns no rows anywhere."""
        self._read(reference)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the query returns the gold rows on every database; UNPARSED if there is no query."""
        task = self._task(prompt.reference)
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        if len(text) > _MAX_TEXT_CHARS:
            return verdict(self, Status.UNPARSED, f"the completion has more than {_MAX_TEXT_CHARS:,} characters")
        query = block_text(text, "sql", source=self.config.source)
        is_whole = query is not None and query == text.strip()
        if query is None or (is_whole and completion.finish_reason is not FinishReason.STOP):
            return verdict(self, Status.UNPARSED, "there is no complete ```sql block")
        shown = query[:_SHOWN_CHARS]
        if len(query) > self.config.max_chars:
            reason = f"the query has {len(query):,} characters; {self.config.max_chars:,} are allowed"
            return verdict(self, Status.UNPARSED, reason, extracted=shown)
        if not _QUERY.match(query):
            return verdict(self, Status.UNPARSED, "the completion has no SQL query", extracted=shown)
        for number, (image, gold) in enumerate(zip(task.images, task.golds, strict=True), start=1):
            where = "" if len(task.images) == 1 else f" on database {number}"
            try:
                problem = self._difference(run_query(image, query, self._limits), gold, ordered=task.ordered)
            except QueryFailed as error:
                problem = str(error)
            if problem:
                return verdict(self, Status.FAIL, f"{problem}{where}", extracted=shown)
        return verdict(self, Status.PASS, "the query returns the rows of the gold query", extracted=shown)

    def _difference(self, found: Table, gold: Table, *, ordered: bool) -> str:
        """How a result differs from the gold one; "" if it does not."""
        if gold.tables and not found.tables:
            return "the query reads no table"
        if len(found.columns) != len(gold.columns):
            return f"the result has {len(found.columns)} columns and not {len(gold.columns)}"
        names = [tuple(name.lower() for name in table.columns) for table in (found, gold)]
        if self.config.column_names and names[0] != names[1]:
            return f"the columns are named {', '.join(found.columns)[:200]}"
        if len(found.rows) != len(gold.rows):
            return f"the result has {len(found.rows)} rows and not {len(gold.rows)}"
        if same_rows(found.rows, gold.rows, ordered=ordered, tolerance=self.config.tolerance):
            return ""
        is_disordered = ordered and same_rows(found.rows, gold.rows, ordered=False, tolerance=self.config.tolerance)
        return "the rows are in another order" if is_disordered else "the rows are not those of the gold query"

    def _task(self, reference: Json) -> _Task:
        key = json.dumps(reference)
        cache = self.context.cache
        if key not in cache:
            if len(cache) >= _MAX_CACHED:
                cache.clear()
            cache[key] = self._read(reference)
        return cache[key]

    def _read(self, reference: Json) -> _Task:
        """The databases and gold results. Raises ValueError."""
        if not isinstance(reference, dict) or not {"schema", "query"} <= set(cast("Any", reference)) <= _KEYS:
            raise ValueError(
                f'{reference!r:.200} is not of the form {{"schema": script, "query": gold query, "also": [scripts]}}'
            )
        fields = cast("dict[str, Json]", reference)
        also = fields.get("also", [])
        scripts = [fields["schema"], *(cast("list[Json]", also) if isinstance(also, list) else [also])]
        query = fields["query"]
        if not all(isinstance(text, str) for text in (query, *scripts)):
            raise ValueError("schema, query and the items of also must be texts")
        if len(scripts) > _MAX_DATABASES:
            raise ValueError(f"there are {len(scripts)} databases; {_MAX_DATABASES} are allowed")
        images = tuple(build_image(cast(str, script)) for script in scripts)
        limits = QueryLimits(
            steps=_GOLD_STEPS * self.config.max_steps, rows=self.config.max_rows, seconds=_GOLD_SECONDS
        )
        try:
            golds = tuple(run_query(image, cast(str, query), limits) for image in images)
        except QueryFailed as error:
            raise ValueError(f"the gold query fails: {error}") from error
        if not self.config.allow_empty and not any(gold.rows for gold in golds):
            raise ValueError(
                "the gold query returns no rows on any database, so any query without rows would pass; add rows, or "
                "set allow_empty"
            )
        ordered = has_order(cast(str, query)) if self.config.order is Order.AUTO else self.config.order is Order.ALWAYS
        return _Task(images, golds, ordered)
