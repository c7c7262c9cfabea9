"""The two workers of an audit, with other hash seeds, run adapted code in the jail and leave marks in one folder."""

from pathlib import Path

import pytest

from rlvr.audit.workers import AuditWorkers
from rlvr.records import Check, Prompt
from rlvr.registry import VERIFIERS, find

CODE = "def compute_score(solution_str, ground_truth):\n    return float(eval(solution_str) == ground_truth)\n"


def test_each_worker_of_an_audit_writes_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evaluates.py").write_text(CODE)
    check = Check(name="main", verifier="verl:evaluates.py:compute_score", reference=4)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="s")
    audit = AuditWorkers(deadline_s=10.0)
    try:
        source = find(VERIFIERS, check.verifier)
        workers = [audit.worker(source, check, hash_seed=seed, is_jailed=True) for seed in (0, 1)]
        for worker in workers:
            worker.wait()
            path = audit.canary.new_path()
            verdict = worker.submit(prompt, f"open({str(path)!r}, 'w').close() or 4").result(60)
            assert verdict.passed, verdict.reason
            assert path.name in audit.canary.executed()
    finally:
        audit.close()
