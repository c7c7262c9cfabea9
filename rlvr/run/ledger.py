"""What became of each issued prompt: issued -> completed -> trained, or dropped with a reason.

The issue index comes from the prompt stream. Changes are committed once a step, together with the
step that they belong to; a crash before the commit leaves the ledger at the step before.
"""

import sqlite3
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from rlvr.errors import CheckpointError, RlvrError


class IssueState(StrEnum):
    """Where an issued prompt stands."""

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


class Ledger:
    """The ledger of a run, in SQLite; one writer."""

    def __init__(self, path: Path | str) -> None:
        """Opens or makes the ledger. Raises CheckpointError when the file is no ledger."""
        self._path = path
        self._db = sqlite3.connect(path, isolation_level="DEFERRED")
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise CheckpointError(f"ledger {str(path)!r} cannot be read: {error}") from error

    def issue(
        self, issue_index: int, *, prompt_id: str, group_id: str, issued_version: int
    ) -> None:
        """Notes that a prompt was handed out. Raises RlvrError when the index was issued before."""
        try:
            self._db.execute(
                "INSERT INTO issues (issue_index, prompt_id, group_id, issued_version, state) "
                "VALUES (?, ?, ?, ?, ?)",
                (issue_index, prompt_id, group_id, issued_version, IssueState.ISSUED),
            )
        except sqlite3.IntegrityError as error:
            raise RlvrError(
                f"ledger: issue {issue_index} ({prompt_id!r}) was issued before; the data position "
                "and the ledger disagree"
            ) from error

    def complete(self, issue_index: int) -> None:
        """Notes that all its completions were judged."""
        self._move(issue_index, IssueState.COMPLETED, allowed=(IssueState.ISSUED,))

    def trained(self, issue_indices: Iterable[int], *, step: int) -> None:
        """Notes that the groups were part of the update of `step`. Raises RlvrError for a second time."""
        for issue_index in issue_indices:
            self._move(issue_index, IssueState.TRAINED, allowed=(IssueState.COMPLETED,), step=step)

    def drop(self, issue_index: int, *, reason: str, step: int) -> None:
        """Notes that the group was left out while `step` was prepared, and why."""
        before = (IssueState.ISSUED, IssueState.COMPLETED)
        self._move(issue_index, IssueState.DROPPED, allowed=before, step=step, reason=reason)

    def commit(self) -> None:
        """Makes all changes since the last commit durable; once a step."""
        self._db.commit()

    def counts(self) -> dict[IssueState, int]:
        """How many issued prompts stand where; every state is a key."""
        found = dict(self._db.execute("SELECT state, COUNT(*) FROM issues GROUP BY state"))
        return {state: found.get(state.value, 0) for state in IssueState}

    def drop_reasons(self) -> dict[str, int]:
        """How many groups were dropped for which reason."""
        query = (
            "SELECT reason, COUNT(*) FROM issues WHERE state = ? GROUP BY reason ORDER BY reason"
        )
        return dict(self._db.execute(query, (IssueState.DROPPED,)))

    def frontier(self) -> int:
        """The lowest issue index that is neither trained nor dropped, holes included.

        All below it is settled; a checkpoint stores it.
        """
        settled = (IssueState.TRAINED, IssueState.DROPPED)
        expected = 0
        query = "SELECT issue_index, state FROM issues ORDER BY issue_index"
        for issue_index, state in self._db.execute(query):
            if issue_index != expected or state not in settled:
                return expected
            expected += 1
        return expected

    def open_issues(self) -> list[tuple[int, str]]:
        """(issue index, prompt id) of all that were issued and are not settled, in order."""
        query = (
            "SELECT issue_index, prompt_id FROM issues WHERE state IN (?, ?) ORDER BY issue_index"
        )
        return list(self._db.execute(query, (IssueState.ISSUED, IssueState.COMPLETED)))

    def forget_after(self, step: int, *, next_issue: int | None = None) -> int:
        """How many issues were forgotten, so that the ledger agrees with the checkpoint of `step`.

        Issues settled in later steps and those still open are forgotten: the restored stream issues
        them again. Committed at once.

        Args:
            next_issue: the issue index at which the restored stream goes on; all from there on are
                forgotten too.
        """
        query = "DELETE FROM issues WHERE state IN (?, ?) OR step > ?"
        values: list[object] = [IssueState.ISSUED, IssueState.COMPLETED, step]
        if next_issue is not None:
            query += " OR issue_index >= ?"
            values.append(next_issue)
        num_forgotten = self._db.execute(query, values).rowcount
        self._db.commit()
        return num_forgotten

    def close(self) -> None:
        """Commits and closes."""
        self._db.commit()
        self._db.close()

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
        changed = self._db.execute(
            f"UPDATE issues SET state = ?, step = ?, reason = ? WHERE issue_index = ? AND state IN ({marks})",
            (state, step, reason, issue_index, *allowed),
        ).rowcount
        if changed != 1:
            query = "SELECT state FROM issues WHERE issue_index = ?"
            row = self._db.execute(query, (issue_index,)).fetchone()
            now = "never issued" if row is None else row[0]
            raise RlvrError(
                f"ledger: issue {issue_index} cannot become {state.value}: it is {now}, expected "
                f"{' or '.join(allowed)}"
            )
