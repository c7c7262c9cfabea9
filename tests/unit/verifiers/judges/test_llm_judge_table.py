"""The truth table of `llm_judge` (tests/golden/verdicts/llm_judge.jsonl), by a server that answers from the table."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.plugin import completion_from_text
from rlvr.records import Check, Completion, Prompt, Status, Verdict
from rlvr.verification.service import VerifierService
from tests.unit.rollout.loopback_server import loopback
from tests.unit.verifiers.judges.scripted_judge import Script

TABLE = Path(__file__).parents[3] / "golden" / "verdicts" / "llm_judge.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]


def pair(url: str, number: int, row: dict[str, Any]) -> tuple[Prompt, Completion]:
    settings = {"url": url, "model": "tiny", **row.get("settings", {})}
    check = Check(name="main", verifier="llm_judge", reference=row["reference"], settings=settings)
    prompt = Prompt(
        prompt_id="p", checks=(check,), source="table", text=f"Row {number}: where to?", tags=row.get("tags", {})
    )
    return prompt, completion_from_text(row["completion"], prompt_id="p")


def judged(rows: dict[int, dict[str, Any]], *, deadline_s: float) -> list[Verdict]:
    """Verdicts on rows, each after as many requests as it needs; a row that is `spent` is judged twice before."""
    service = VerifierService(workers=1, deadline_s=deadline_s)
    try:
        with loopback(raw_to=Script(ROWS).raw) as server:
            pairs = [pair(server.url, number, row) for number, row in rows.items()]
            service.verify_batch([p for p, row in zip(pairs, rows.values(), strict=True) if row.get("spent")])
            return [found["main"] for found in service.verify_batch(pairs)]
    finally:
        service.close()


@pytest.mark.parametrize("is_broken", [False, True])
def test_verdicts_are_as_the_table_says(is_broken: bool) -> None:
    rows = {
        number: {**row, "settings": {**row.get("settings", {}), **({"cache_size": 0} if row.get("spent") else {})}}
        for number, row in enumerate(ROWS)
        if (row["status"] == "error") is is_broken
    }
    verdicts = judged(rows, deadline_s=1.0 if is_broken else 30.0)
    wrong = [
        f"{row['why']}: {verdict.status} {verdict.score} ({verdict.reason})"
        for row, verdict in zip(rows.values(), verdicts, strict=True)
        if verdict.status != row["status"] or verdict.score != pytest.approx(row["score"])
    ]
    assert wrong == []


def test_the_table_has_all_outcomes_and_no_row_twice() -> None:
    statuses = Counter(row["status"] for row in ROWS)
    assert len(ROWS) >= 60
    assert set(statuses) == {"pass", "fail", "unparsed", "error"}
    assert all(row["score"] is None for row in ROWS if row["status"] == Status.ERROR)
    assert len({json.dumps({**row, "why": ""}) for row in ROWS}) == len(ROWS)
