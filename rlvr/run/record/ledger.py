"""The state of each issued prompt: issued -> completed -> trained, or dropped with a reason.

The issue index comes from the prompt stream. Changes are committed once per step, together with
their step; a crash before the commit leaves the ledger at the previous step.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rlvr.errors import RlvrError, StorageError


class IssueState(StrEnum):
    """The state of an issued prompt."""

    ISSUED = "issued"
    COMPLETED = "completed"
    TRAINED = "trained"
    DROPPED = "dropped"


_SCHEMA = """
CREATE TABLE IF NOT EXISTS issues (
    issue_index INTEGER PRIMARY KEY,
    prompt_id TEXT NOT NULL,
    group_id TEXT NOT NULL,
    issued_version INTEGER NOT NULL,
    state TEXT NOT NULL,
    step INTEGER,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS issues_by_state ON issues (state, step);
"""


_SETTLED = (IssueState.TRAINED, IssueState.DROPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The numbers of prompts trained and dropped up to a step, and a digest of these records."""

    trained: int
    dropped: int
    digest: str


class Ledger:
    """The ledger of a run, in SQLite; one writer.

    Every method raises StorageError when the file cannot be read or written.
    """

    def __init__(self, path: Path | str) -> None:
        """Opens or creates the ledger. Raises StorageError when the file is not a ledger or cannot be opened."""
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level="DEFERRED")
        except sqlite3.Error as error:
            raise StorageError(f"ledger {str(path)!r} cannot be opened: {error}") from error
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._db.close()
            raise StorageError(f"ledger {str(path)!r} cannot be read: {error}") from error

    def issue(self, issue_index: int, *, prompt_id: str, group_id: str, issued_version: int) -> None:
        """Records that a prompt was handed out. Raises RlvrError when the index was issued before."""
        try:
            with self._as_storage_errors():
                self._db.execute(
                    "INSERT INTO issues (issue_index, prompt_id, group_id, issued_version, state) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (issue_index, prompt_id, group_id, issued_version, IssueState.ISSUED),
                )
        except sqlite3.IntegrityError as error:
            raise RlvrError(
                f"ledger: issue {issue_index} ({prompt_id!r}) was already issued; the data position "
                "and the ledger disagree"
            ) from error

    def complete(self, issue_index: int) -> None:
        """Records that all its completions were judged."""
        self._move(issue_index, IssueState.COMPLETED, allowed=(IssueState.ISSUED,))

    def trained(self, issue_indices: Iterable[int], *, step: int) -> None:
        """Records that the groups were part of the update of `step`. Raises RlvrError when one was already."""
        for issue_index in issue_indices:
            self._move(issue_index, IssueState.TRAINED, allowed=(IssueState.COMPLETED,), step=step)

    def drop(self, issue_index: int, *, reason: str, step: int) -> None:
        """Records that the group was left out of `step`, and why."""
        before = (IssueState.ISSUED, IssueState.COMPLETED)
        self._move(issue_index, IssueState.DROPPED, allowed=before, step=step, reason=reason)

    def commit(self) -> None:
        """Commits all changes; called once per step."""
        with self._as_storage_errors():
            self._db.commit()

    def flush(self) -> None:
        """Commits and syncs to disk; called once per checkpoint."""
        with self._as_storage_errors():
            self._db.commit()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def settled(self, step: int) -> Settled:
        """The prompts settled up to `step`."""
        digest = hashlib.sha256()
        counts = dict.fromkeys(_SETTLED, 0)
        query = (
            "SELECT issue_index, prompt_id, state, step FROM issues WHERE state IN (?, ?) AND step <= ? "
            "ORDER BY issue_index"
        )
        with self._as_storage_errors():
            for row in self._db.execute(query, (*_SETTLED, step)):
                counts[row[2]] += 1
                digest.update(repr(row).encode())
        return Settled(
            trained=counts[IssueState.TRAINED], dropped=counts[IssueState.DROPPED], digest=digest.hexdigest()
        )

    def require_sound(self) -> None:
        """Raises StorageError when the file is damaged."""
        with self._as_storage_errors():
            found = [str(row[0]) for row in self._db.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise StorageError(f"ledger {str(self._path)!r} is damaged: {' '.join(found)[:200]}")

    def counts(self) -> dict[IssueState, int]:
        """The number of issued prompts in each state; every state is a key."""
        found = dict(self._db.execute("SELECT state, COUNT(*) FROM issues GROUP BY state"))
        return {state: found.get(state.value, 0) for state in IssueState}

    def forget_after(self, step: int, *, next_issue: int | None = None) -> int:
        """Deletes issues, so that the ledger agrees with the checkpoint of `step`; returns their number.

        Issues settled in later steps and open ones are deleted: the restored stream issues them
        again. Committed at once.

        Args:
            next_issue: the issue index at which the restored stream continues; all from there on are
                deleted too.
        """
        query = "DELETE FROM issues WHERE state NOT IN (?, ?) OR step IS NULL OR step > ?"
        values: list[object] = [*_SETTLED, step]
        if next_issue is not None:
            query += " OR issue_index >= ?"
            values.append(next_issue)
        with self._as_storage_errors():
            num_forgotten = self._db.execute(query, values).rowcount
            self._db.commit()
        return num_forgotten

    def close(self) -> None:
        """Commits and closes."""
        try:
            self.commit()
        finally:
            self._db.close()

    @contextmanager
    def _as_storage_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise StorageError(f"ledger {str(self._path)!r} cannot be used: {error}") from error

    def _move(
        self,
        issue_index: int,
        state: IssueState,
        *,
        allowed: tuple[IssueState, ...],
        step: int | None = None,
        reason: str = "",
    ) -> None:
        marks = ", ".join("?" for _ in allowed)
        with self._as_storage_errors():
            changed = self._db.execute(
                f"UPDATE issues SET state = ?, step = ?, reason = ? WHERE issue_index = ? AND state IN ({marks})",
                (state, step, reason, issue_index, *allowed),
            ).rowcount
        if changed != 1:
            query = "SELECT state FROM issues WHERE issue_index = ?"
            row = self._db.execute(query, (issue_index,)).fetchone()
            now = "never issued" if row is None else row[0]
            raise RlvrError(
                f"ledger: issue {issue_index} cannot become {state.value}: it is {now}; expected {' or '.join(allowed)}"
            )


def move_aside(path: Path) -> Path:
    """Renames a damaged ledger and SQLite's companion files; returns its new path. Raises StorageError."""
    target = path.with_name(f"{path.name}.damaged")
    try:
        for ending in ("-wal", "-shm", ""):
            part = path.with_name(path.name + ending)
            if part.exists():
                os.replace(part, target.with_name(target.name + ending))
    except OSError as error:
        raise StorageError(f"{path} is damaged and cannot be moved aside: {error}") from error
    return target
