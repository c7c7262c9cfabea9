"""Function tests through two processes: honest programs pass, forged verdicts fail, and no answer reaches the program.

The boxes here are plain subprocesses: what is under test is the protocol, and not the isolation.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import VerifierError
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt, Verdict
from rlvr_verifiers.code_answer import CodeConfig, CodeVerifier
from rlvr_verifiers.codecheck.inside.proxies import Remote
from tests.unit.verifiers.code.code_box import PlainBox

TABLE = Path(__file__).parents[3] / "golden" / "verdicts" / "code" / "protocol.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
HONEST = [row for row in ROWS if row["status"] == "pass"]
FORGED = [row for row in ROWS if row["status"] == "fail"]


def verify(reference: Any, code: str, *, box: PlainBox | None = None, **settings: Any) -> Verdict:
    verifier = CodeVerifier(CodeConfig(**settings), VerifierContext(sandbox=box or PlainBox()))
    check = Check(name="main", verifier="code", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    completion = completion_from_text(f"```python\n{code}\n```", prompt_id="p")
    return asyncio.run(verifier.verify(prompt, completion))


def boxed(*asserts: str, setup: str = "x = 1", **more: Any) -> dict[str, Any]:
    """A function reference whose setup sends it through two boxes."""
    return {"kind": "function", "asserts": list(asserts), "setup": setup, **more}


@pytest.mark.parametrize("row", HONEST, ids=[row["why"] for row in HONEST])
def test_an_honest_program_passes(row: dict[str, Any]) -> None:
    verdict = verify(row["reference"], row["code"])
    assert verdict.status == "pass", verdict.reason
    assert verdict.details["how"] == "two_boxes"


@pytest.mark.parametrize("row", FORGED, ids=[row["why"] for row in FORGED])
def test_a_program_that_does_not_compute_the_answers_fails(row: dict[str, Any]) -> None:
    verdict = verify(row["reference"], row["code"])
    assert verdict.status == "fail", verdict.reason
    assert row["reason"] in verdict.reason


@pytest.mark.parametrize("setup", ["x = 1", ""], ids=["two boxes", "literals"])
def test_nothing_expected_goes_to_the_program_and_no_program_goes_to_the_tests(setup: str) -> None:
    box = PlainBox()
    reference = boxed("assert f('in-put') == 'ex-pected'", setup=setup)
    code = "def f(v):\n    return 'ex-' + 'pec' + 'ted'  # pro-gram"
    assert verify(reference, code, box=box).status == "pass"
    for files in box.seen_files:
        is_candidate = "main.py" in files
        text = b"".join(files.values())
        assert b"ex-pected" not in text
        assert (b"pro-gram" in text) is is_candidate
    to_program = b"".join(frame for name, frame in box.sent_frames if "candidate" in name)
    to_tests = b"".join(frame for name, frame in box.sent_frames if "tests" in name)
    assert b"in-put" in to_program
    assert b"ex-pected" not in to_program
    assert b"assert" not in to_program
    assert b"pro-gram" not in to_tests


def test_nothing_expected_goes_to_a_program_that_reads_standard_input() -> None:
    box = PlainBox()
    assert verify([{"stdin": "3\n", "stdout": "ex-pected\n"}], "print('ex-' + 'pected')", box=box).status == "pass"
    assert all(b"ex-pected" not in b"".join(files.values()) for files in box.seen_files)


def test_a_setup_that_fails_by_itself_is_the_references_fault() -> None:
    with pytest.raises(VerifierError, match="setup of the reference failed by itself: ZeroDivisionError"):
        verify(boxed("assert f() == 1", setup="x = 1 / 0"), "def f(): return 1")


def test_a_setup_that_fails_in_the_program_is_a_fail() -> None:
    verdict = verify(boxed("assert f(n) == 1", setup="n = f(0)"), "def f(x): raise ValueError('no')")
    assert verdict.status == "fail"
    assert "ValueError: no" in verdict.reason


def test_an_object_of_the_tests_that_cannot_travel_is_the_references_fault() -> None:
    reference = boxed("assert f(t) == 1", setup="class T:\n    pass\nt = T()")
    with pytest.raises(VerifierError, match="pass a T, which cannot leave their box"):
        verify(reference, "def f(t): return 1")


def test_a_value_too_large_to_compare_outside_is_compared_in_the_boxes() -> None:
    reference = {"asserts": [f"assert f(3) == {[0] * 30_000!r}"]}
    verdict = verify(reference, "def f(n): return [0] * 30_000")
    assert (verdict.status, verdict.details["how"]) == ("pass", "two_boxes")


def test_large_requests_are_not_sent_ahead() -> None:
    big = list(range(20_000))
    reference = {"asserts": [f"assert f({big!r}) == {sum(big)}"] * 4}
    verdict = verify(reference, "def f(a): return sum(a)")
    assert (verdict.status, verdict.details["how"]) == ("pass", "literals")


def test_a_proxy_shows_no_annotations_of_its_own() -> None:
    """`hasattr(f, "__annotations__")` in a test asks for the candidate's, so the class must have none."""
    assert "__annotations__" not in vars(Remote)
