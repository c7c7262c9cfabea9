"""The truth tables of the `math` verifier, one file for each type of reference
(tests/golden/verdicts/math/).
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands.verify_file import completion_from_text
from rlvr.plugin import VerifierContext
from rlvr.records import Check, Prompt, Verdict
from rlvr_verifiers.math_answer import MathConfig, MathVerifier
from tests.hardware import cpu_seconds

TABLES = Path(__file__).parents[3] / "golden" / "verdicts" / "math"
VERIFIER = MathVerifier(MathConfig.model_validate({}), VerifierContext())
LIMIT_CPU_S = 2.0


def read_tables() -> dict[str, list[dict[str, Any]]]:
    return {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted(TABLES.glob("*.jsonl"))
    }


READ = read_tables()
REFERENCES = READ.pop("reference_errors")
ROWS = [
    pytest.param(row, id=f"{name}-{index}-{row['why'][:40]}")
    for name, rows in READ.items()
    for index, row in enumerate(rows)
]


def verify(reference: Any, text: str) -> Verdict:
    """What a run does: the quick path in the caller, then a worker for what it leaves open."""
    completion = completion_from_text(text, prompt_id="p")
    quick = VERIFIER.prejudge(reference, completion)
    if quick is not None:
        return quick
    check = Check(name="math", verifier="math", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="table")
    return VERIFIER.verify(prompt, completion)


@pytest.mark.parametrize("row", ROWS)
def test_a_verdict_is_as_the_table_says(row: dict[str, Any]) -> None:
    VERIFIER.parse_reference(row["reference"])
    start = cpu_seconds()
    verdict = verify(row["reference"], row["completion"])
    assert verdict.status == row["status"], verdict.reason
    assert cpu_seconds() - start < LIMIT_CPU_S


@pytest.mark.parametrize("row", REFERENCES, ids=[f"{i}-{row['why'][:40]}" for i, row in enumerate(REFERENCES)])
def test_exactly_the_unusable_references_are_refused(row: dict[str, Any]) -> None:
    if row["status"] == "accepted":
        VERIFIER.parse_reference(row["reference"])
        return
    with pytest.raises(ValueError, match=r"."):
        VERIFIER.parse_reference(row["reference"])


@pytest.mark.parametrize("name", READ)
def test_a_table_accepts_and_rejects(name: str) -> None:
    statuses = Counter(row["status"] for row in READ[name])
    assert set(statuses) <= {"pass", "fail", "unparsed"}
    rejected = statuses["fail"] + statuses["unparsed"]
    assert statuses["pass"] >= 8
    assert rejected >= 0.35 * len(READ[name])


def test_no_row_is_there_twice() -> None:
    keys = [(json.dumps(row["reference"]), row["completion"]) for rows in READ.values() for row in rows]
    assert len(keys) == len(set(keys))
