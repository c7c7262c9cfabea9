"""The rows of a source: questions with their references, by number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlvr.data.generators import ProblemDraws
from rlvr.records import Json


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
