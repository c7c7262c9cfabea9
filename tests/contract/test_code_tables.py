"""Tables of rows as data sets write them and programs as models write them, verified in a real box."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.protocols import Sandbox
from rlvr.records import Check, Prompt
from rlvr.registry import build_sandbox
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from tests.contract.test_code_attacks import need

FOLDER = Path(__file__).parents[1] / "golden" / "code"
TABLES = (
    "imports", "blocks", "solution_class", "call_rows", "sequences", "numbers", "white_space", "accepted",
)  # fmt: skip


def rows_of(table: str) -> list[dict[str, Any]]:
    lines = (FOLDER / f"{table}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


async def status_of(sandbox: Sandbox, row: dict[str, Any]) -> tuple[str, str]:
    """(status, reason) of one row."""
    settings = {"languages": ["python", "cpp"], **row.get("settings", {})}
    verifier = CodeVerifier(CodeConfig(**settings), VerifierContext(sandbox=sandbox))
    verifier.parse_reference(row["reference"])
    check = Check(name="main", verifier="code", reference=row["reference"])
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="table")
    found = await verifier.verify(prompt, completion_from_text(row["completion"], prompt_id="p"))
    return found.status.value, found.reason


@pytest.mark.parametrize("table", TABLES)
def test_each_row_gets_the_verdict_of_its_table(table: str) -> None:
    need("namespaces")
    rows = rows_of(table)

    async def verify() -> list[tuple[str, str]]:
        sandbox = build_sandbox("namespaces", {"slots": 2, "should_self_test": False})
        try:
            return list(await asyncio.gather(*(status_of(sandbox, row) for row in rows)))
        finally:
            await sandbox.close()

    found = asyncio.run(verify())
    wrong = [
        f"{row['why']}: {status}, not {row['status']}: {reason}"
        for row, (status, reason) in zip(rows, found, strict=True)
        if status != row["status"]
    ]
    assert wrong == []


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_right_and_wrong_programs_in_like_numbers(table: str) -> None:
    rows = rows_of(table)
    counts = Counter(row["status"] == "pass" for row in rows)
    assert len(rows) >= 30
    assert abs(counts[True] - counts[False]) <= len(rows) / 5
    assert len({row["why"] for row in rows}) == len(rows)
