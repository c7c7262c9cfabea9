"""The `math` verifier beside its truth table (tests/golden/verdicts/math.jsonl)."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.plugin import VerifierContext
from rlvr.records import Check, FinishReason, Json, Prompt, Status, Verdict
from rlvr.run.offline import completion_from_text
from rlvr_verifiers.math_algebra import size_problem
from rlvr_verifiers.math_answer import MathConfig, MathVerifier
from rlvr_verifiers.math_number import parse_number, tidy

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("RLVR_SHARED", ROOT.parent / "shared"))
VERIFIER = MathVerifier(MathConfig(), VerifierContext())


def prejudge(reference: Json, text: str) -> Verdict | None:
    return VERIFIER.prejudge(reference, completion_from_text(text, prompt_id="p"))


def verify(reference: Json, text: str) -> Verdict:
    check = Check(name="math", verifier="math", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", checks=(check,), source="test")
    return VERIFIER.verify(prompt, completion_from_text(text, prompt_id="p"))


@pytest.mark.parametrize(
    ("reference", "answer", "method"),
    [("42", "42", "string"), ("42", "42.0", "number"), ("(1,2)", "(2,1)", "structure")],
)
def test_easy_answers_are_settled_in_the_parent(reference: str, answer: str, method: str) -> None:
    verdict = prejudge(reference, f"\\boxed{{{answer}}}")
    assert verdict is not None
    assert verdict.details["method"] == method
    assert verdict.extracted == answer


def test_expressions_are_left_to_a_worker() -> None:
    assert prejudge("x^2-1", "\\boxed{(x-1)(x+1)}") is None
    assert verify("x^2-1", "\\boxed{(x-1)(x+1)}").details["method"] == "symbolic"


def test_numbers_never_import_computer_algebra() -> None:
    program = """
import sys
from rlvr_verifiers.math_answer import MathConfig, MathVerifier
from rlvr.plugin import VerifierContext
from rlvr.run.offline import completion_from_text
built = MathVerifier(MathConfig(), VerifierContext())
built.parse_reference("3/4")
for text in ("\\\\boxed{0.75}", "\\\\boxed{75\\\\%}", "the answer is 1", "nothing"):
    assert built.prejudge("3/4", completion_from_text(text, prompt_id="p")) is not None
assert not {"sympy", "math_verify", "torch"} & set(sys.modules)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, check=True
    )


def test_a_cut_off_completion_needs_a_closed_box() -> None:
    for text, status in (("the answer is 4", Status.UNPARSED), ("\\boxed{4} and", Status.PASS)):
        cut = replace(completion_from_text(text, prompt_id="p"), finish_reason=FinishReason.LENGTH)
        verdict = VERIFIER.prejudge("4", cut)
        assert verdict is not None
        assert verdict.status is status


def test_a_rival_answer_after_the_box_is_ambiguous() -> None:
    assert not verify("4", "\\boxed{4}. No wait, the answer is 5.").passed
    assert verify("4", "\\boxed{4}. So the answer is 4.").passed


@pytest.mark.parametrize(
    "reference", [None, [], {}, True, ["1", None], "", "\\text{see figure}", "\\frac{", "9^{9^{9}}"]
)
def test_references_that_cannot_be_used_are_refused(reference: Json) -> None:
    with pytest.raises(ValueError, match=r"."):
        VERIFIER.parse_reference(reference)


@pytest.mark.parametrize("reference", ["42", 42, 0.5, "\\sqrt{2}", "x=4", ["1", "2"], "\\text{no}"])
def test_references_that_can_be_used_are_accepted(reference: Json) -> None:
    VERIFIER.parse_reference(reference)


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^9}}",
        "2^{10^9}",
        "100000!",
        "5!!",
        "(3!)!",
        "\\binom{99999}{5}",
        "9**9**9",
        "2^(3^4)",
    ],
)
def test_expressions_that_would_never_end_are_too_big(text: str) -> None:
    assert size_problem(text)


@pytest.mark.parametrize(
    "text", ["2^{10}", "e^{x^2}", "x^{100}", "10!", "\\binom{10}{3}", "3^{-2}"]
)
def test_ordinary_expressions_are_not_too_big(text: str) -> None:
    assert size_problem(text) == ""


@given(value=st.fractions())
def test_a_fraction_is_read_in_each_spelling(value: Fraction) -> None:
    sign, top, bottom = ("-" if value < 0 else ""), abs(value.numerator), value.denominator
    for text in (f"{sign}{top}/{bottom}", f"{sign}\\frac{{{top}}}{{{bottom}}}"):
        number = parse_number(tidy(text))
        assert number is not None
        assert number.value == value


@given(value=st.integers())
def test_a_whole_number_is_read_with_separators(value: int) -> None:
    number = parse_number(tidy(f"{value:,}"))
    assert number is not None
    assert number.value == value


@given(st.text(alphabet="0123456789.,/%${}()[]\\^_=<>+-*! abxfrc\n", max_size=80))
def test_any_box_is_judged_without_an_exception(text: str) -> None:
    prejudge("4", f"\\boxed{{{text}}}")
    prejudge("\\{1,2\\}", f"\\boxed{{{text}}}")
    prejudge("[1,2)", f"the answer is {text}")


def test_huge_texts_are_settled_quickly() -> None:
    texts = ["\\boxed{" * 20_000, "\\boxed{1} " * 20_000, "$ " * 50_000, "the answer is " * 10_000]
    texts += [
        "9" * 200_000,
        "\\boxed{" + "9," * 50_000 + "}",
        "\\boxed{" + "{" * 50_000 + "}" * 50_001,
    ]
    texts += ["\\boxed{1" + " " * 1990 + "x}", "\\boxed{" + "1 " * 999 + "}"]
    for text in texts:
        start = time.perf_counter()
        prejudge("4", text)
        assert time.perf_counter() - start < 1.0, text[:30]


def test_the_development_rows_are_judged_as_expected() -> None:
    path = SHARED / "math_dev.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set RLVR_SHARED to the folder that holds math_dev.jsonl")
    wrong: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            VERIFIER.parse_reference(row["gold"])
            passed = verify(row["gold"], row["response"]).passed
        except ValueError:
            passed = False
        if passed != row["expected"]:
            wrong.append(row["id"])
    assert wrong == []
