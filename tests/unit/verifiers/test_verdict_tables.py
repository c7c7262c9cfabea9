"""The truth tables of `text_match` and `countdown`, one file for each kind of answer
(tests/golden/verdicts/text_match/, tests/golden/verdicts/countdown/).
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt
from rlvr_verifiers.countdown import CountdownConfig, CountdownVerifier
from rlvr_verifiers.text_match import TextMatchConfig, TextMatchVerifier

TABLES = Path(__file__).parents[2] / "golden" / "verdicts"
READ = {
    (name, path.stem): [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for name in ("countdown", "text_match")
    for path in sorted((TABLES / name).glob("*.jsonl"))
}
ROWS = [
    pytest.param(name, row, id=f"{name}-{table}-{index}-{row['why'][:40]}")
    for (name, table), rows in READ.items()
    for index, row in enumerate(rows)
]


def build(name: str, settings: dict[str, Any]) -> CountdownVerifier | TextMatchVerifier:
    if name == "countdown":
        return CountdownVerifier(CountdownConfig(**settings), VerifierContext())
    return TextMatchVerifier(TextMatchConfig(**settings), VerifierContext())


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_verdict_is_as_the_table_says(name: str, row: dict[str, Any]) -> None:
    built = build(name, row.get("settings", {}))
    check = Check(name="main", verifier=name, reference=row["reference"])
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="table")
    completion = completion_from_text(row["completion"], prompt_id="p")
    verdict = built.verify(prompt, completion)
    assert verdict.status == row["status"], verdict.reason
    quick = built.prejudge(row["reference"], completion)
    assert quick is None or quick.status == row["status"]


@pytest.mark.parametrize("table", READ)
def test_a_table_accepts_and_rejects(table: tuple[str, str]) -> None:
    rows = READ[table]
    statuses = Counter(row["status"] for row in rows)
    assert set(statuses) <= {"pass", "fail", "unparsed"}
    assert len(rows) >= 30
    assert 0.35 * len(rows) <= len(rows) - statuses["pass"] <= 0.75 * len(rows)


def test_no_row_is_there_twice() -> None:
    keys = [json.dumps({**row, "why": ""}) for rows in READ.values() for row in rows]
    assert len(keys) == len(set(keys))
