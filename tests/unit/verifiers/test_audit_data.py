"""The audit of the built-in verifiers on the rows in tests/golden/audit/: right answers pass, and no attack does."""

from pathlib import Path
from typing import Any

import pytest

from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.rows import CHECK, read_rows
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.protocols import SupportsParseReference
from rlvr.records import Check, Verdict
from rlvr.registry import VERIFIERS, build_verifier, find

DATA = Path(__file__).parents[2] / "golden" / "audit"
NAMES = sorted(path.stem for path in DATA.glob("*.jsonl"))
NUM_ROWS = 24
# the usual forms of an answer follow the default tags, and `format` accepts every answer in them
SETTINGS: dict[str, dict[str, Any]] = {"format": {"tags": ["plan", "result"]}}


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answer_of_each_row_passes(name: str) -> None:
    rows = read_rows(DATA / f"{name}.jsonl", Check(name=CHECK, verifier=name))
    built = build_verifier(find(VERIFIERS, name), SETTINGS.get(name, {}), VerifierContext())
    assert len(rows) >= NUM_ROWS
    for row in rows:
        if isinstance(built, SupportsParseReference):
            built.parse_reference(row.prompt.reference)
        verdict = built.verify(row.prompt, completion_from_text(row.completion or "", prompt_id="p"))
        assert isinstance(verdict, Verdict)
        assert verdict.passed, (row.place, verdict.reason)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_an_audit_finds_nothing(name: str) -> None:
    check = Check(name=CHECK, verifier=name, settings=SETTINGS.get(name, {}))
    report = audit(AuditRequest(check=check, rows=read_rows(DATA / f"{name}.jsonl", check)))
    assert report.is_sound, report.findings
