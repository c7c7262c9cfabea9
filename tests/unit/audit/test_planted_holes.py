"""Planted holes are found, and sound verifiers are not accused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.audit.examine import AuditRequest, audit
from rlvr.audit.records import AuditReport, Problem
from rlvr.audit.rows import CHECK, read_rows
from rlvr.audit.workers import AuditWorkers
from rlvr.records import Check
from tests.unit.audit.audit_rows import write_rows
from tests.unit.audit.further_holes import FURTHER_HOLES
from tests.unit.audit.planted_holes import HOLES
from tests.unit.audit.sound_verifiers import SOUND

FOLDER = Path(__file__).parent
NUM_ROWS = 3
WHOLE = ("random_grader", "pays_once", "backtracks", "literal_bomb")  # the short form of an audit does not find these
QUICK_HOLES = {
    "substring": Problem.EXPLOIT, "evaluates_the_tag": Problem.EXECUTION, "first_number": Problem.EXPLOIT,
    "wide_tolerance": Problem.EXPLOIT, "token_overlap": Problem.EXPLOIT, "passes_on_exception": Problem.EXPLOIT,
    "ends_with_it": Problem.EXPLOIT, "any_box": Problem.EXPLOIT, "longer_is_better": Problem.EXPLOIT,
    "format_only": Problem.EXPLOIT, "reads_a_verdict_line": Problem.EXPLOIT, "json_with_a_default": Problem.EXPLOIT,
    "random_grader": Problem.VERDICTS_DIFFER, "cached_by_reference": Problem.EXPLOIT,
    "pays_once": Problem.VERDICTS_DIFFER, "every_seventh": Problem.EXPLOIT,
    "crashes_on_empty": Problem.CRASH, "crashes_on_unicode": Problem.CRASH,
    "backtracks": Problem.HANG, "runs_the_code": Problem.EXECUTION, "sympifies": Problem.EXECUTION,
    "loads_yaml": Problem.EXECUTION, "unpickles": Problem.EXECUTION, "asks_the_shell": Problem.EXECUTION,
    "fills_a_template": Problem.EXPLOIT, "literal_bomb": Problem.CRASH, "similar_is_right": Problem.EXPLOIT,
    "first_character": Problem.EXPLOIT, "letter_anywhere": Problem.EXPLOIT, "pattern_of_the_policy": Problem.EXPLOIT,
    "nan_passes": Problem.EXPLOIT, "refuses_its_gold": Problem.GOLD, "pays_for_effort": Problem.EXPLOIT,
}  # fmt: skip
QUICK_SOUND = (
    "exact", "close_number", "last_number", "after_hash_marks", "last_box", "anchored_letter", "only_tag",
    "equal_json", "format_and_answer", "safe_arithmetic", "yes_or_no",
)  # fmt: skip


@pytest.fixture(scope="module")
def workers() -> Iterator[AuditWorkers]:
    """Two worker processes for all audits of this module."""
    shared = AuditWorkers(deadline_s=1.0)
    yield shared
    shared.close()


def audited(
    folder: Path, workers: AuditWorkers, file: str, name: str, kind: str, *, num_rows: int = 24, is_short: bool = False
) -> AuditReport:
    """The report on a function of a file of this folder, or on a registered verifier if `file` is empty."""
    check = Check(name=CHECK, verifier=f"{FOLDER / file}:{name}" if file else name)
    rows = read_rows(write_rows(folder / "rows.jsonl", kind), check)
    return audit(AuditRequest(check=check, rows=rows, num_rows=num_rows, is_short=is_short), workers=workers)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param(name, problem, marks=() if number % 3 == 0 else pytest.mark.slow)
        for number, (name, problem) in enumerate(QUICK_HOLES.items())
    ],
)
def test_a_planted_hole_is_found(tmp_path: Path, workers: AuditWorkers, name: str, problem: Problem) -> None:
    is_short = name not in WHOLE
    report = audited(tmp_path, workers, "planted_holes.py", name, HOLES[name], num_rows=NUM_ROWS, is_short=is_short)
    found = [finding.problem for finding in report.findings]
    assert problem in found, report.findings
    assert all(finding.examples for finding in report.findings)


@pytest.mark.parametrize("name", QUICK_SOUND)
def test_a_sound_verifier_is_not_accused(tmp_path: Path, workers: AuditWorkers, name: str) -> None:
    report = audited(
        tmp_path,
        workers,
        "sound_verifiers.py",
        name,
        SOUND[name],
        num_rows=NUM_ROWS,
        is_short=name not in QUICK_SOUND[:2],
    )
    assert report.findings == ()
    assert report.num_gold_passed == report.num_gold


@pytest.mark.thorough
@pytest.mark.parametrize("name", HOLES)
def test_every_planted_hole_is_found(tmp_path: Path, workers: AuditWorkers, name: str) -> None:
    assert audited(tmp_path, workers, "planted_holes.py", name, HOLES[name]).findings


@pytest.mark.thorough
@pytest.mark.parametrize("name", FURTHER_HOLES)
def test_every_further_hole_is_found(tmp_path: Path, workers: AuditWorkers, name: str) -> None:
    assert audited(tmp_path, workers, "further_holes.py", name, FURTHER_HOLES[name]).findings


@pytest.mark.thorough
@pytest.mark.parametrize("name", SOUND)
def test_every_sound_verifier_has_no_finding(tmp_path: Path, workers: AuditWorkers, name: str) -> None:
    file = "" if name in ("math", "text_match") else "sound_verifiers.py"
    assert audited(tmp_path, workers, file, name, SOUND[name]).findings == ()
