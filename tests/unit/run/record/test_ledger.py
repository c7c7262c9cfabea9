"""The ledger: each prompt once, and agreement with the checkpoint after a restart."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rlvr.errors import RlvrError, StorageError
from rlvr.run.record.ledger import IssueState, Ledger


def filled(path: Path) -> Ledger:
    """0 trained in step 1, 1 dropped in step 1, 2 trained in step 2, 3 completed, 4 issued."""
    ledger = Ledger(path)
    for i in range(5):
        ledger.issue(i, prompt_id=f"p{i}", group_id=str(i), issued_version=0)
    for i in range(4):
        ledger.complete(i)
    ledger.trained([0], step=1)
    ledger.drop(1, reason="unjudged", step=1)
    ledger.trained([2], step=2)
    return ledger


def rows(path: Path) -> list[tuple[int, str, str]]:
    """(issue index, state, reason) of every issue, as another reader of the file sees them."""
    with closing(sqlite3.connect(path)) as reader:
        query = "SELECT issue_index, state, reason FROM issues ORDER BY issue_index"
        return list(reader.execute(query))


def test_states_are_counted(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    assert ledger.counts() == {
        IssueState.ISSUED: 1,
        IssueState.COMPLETED: 1,
        IssueState.TRAINED: 2,
        IssueState.DROPPED: 1,
    }
    ledger.commit()
    assert rows(tmp_path / "l.sqlite") == [
        (0, "trained", ""),
        (1, "dropped", "unjudged"),
        (2, "trained", ""),
        (3, "completed", ""),
        (4, "issued", ""),
    ]
    ledger.close()


def test_only_what_was_committed_survives(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "l.sqlite")
    first.issue(0, prompt_id="a", group_id="g", issued_version=0)
    first.commit()
    first.issue(1, prompt_id="b", group_id="h", issued_version=0)
    assert rows(tmp_path / "l.sqlite") == [(0, "issued", "")]
    first.close()


def test_resuming_forgets_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    assert ledger.forget_after(1) == 3
    assert ledger.counts()[IssueState.TRAINED] == 1
    assert [index for index, _, _ in rows(tmp_path / "l.sqlite")] == [0, 1]
    ledger.issue(2, prompt_id="p2", group_id="2", issued_version=1)
    assert ledger.forget_after(1, next_issue=1) == 2
    assert [index for index, _, _ in rows(tmp_path / "l.sqlite")] == [0]
    ledger.close()


def test_no_prompt_is_trained_or_issued_twice(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "l.sqlite")
    with pytest.raises(RlvrError, match="issue 0 cannot become trained: it is trained"):
        ledger.trained([0], step=3)
    with pytest.raises(RlvrError, match=r"issue 0 .*was already issued"):
        ledger.issue(0, prompt_id="p0", group_id="0", issued_version=0)
    with pytest.raises(RlvrError, match="never issued"):
        ledger.complete(99)
    ledger.close()


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"not a data base" * 100)
    with pytest.raises(StorageError, match=r"l\.sqlite"):
        Ledger(tmp_path / "l.sqlite")
