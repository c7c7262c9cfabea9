"""The audits of `llm_judge` and `reward_model` in verifiers/README.md find nothing."""

import pytest

from tests.audit_table import AUDITED, report_on

NAMES = [name for name, (verifier, _, _) in AUDITED.items() if verifier in ("llm_judge", "reward_model")]


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_an_audit_finds_nothing(name: str) -> None:
    report = report_on(name)
    assert report.is_sound, report.findings
