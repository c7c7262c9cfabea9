"""The `math` verifier as a plugin: where items are settled, what verdicts say, settings, a second opinion, GSM8K."""

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.commands.verify_file import completion_from_text
from rlvr.plugin import VerifierContext
from rlvr.records import Check, FinishReason, Json, Prompt, Status, Verdict
from rlvr.verification.service import VerifierService
from rlvr_verifiers import math_cross_check
from rlvr_verifiers.math_answer import MathConfig, MathVerifier

ROOT = Path(__file__).parents[4]
SHARED = Path(os.environ.get("RLVR_SHARED", ROOT.parent / "shared"))


def built(**settings: object) -> MathVerifier:
    return MathVerifier(MathConfig(**{"cross_check_rate": 0.0} | settings), VerifierContext())  # type: ignore[arg-type] # by name


VERIFIER = built()


def prejudge(reference: Json, text: str) -> Verdict | None:
    return VERIFIER.prejudge(reference, completion_from_text(text, prompt_id="p"))


def verify(reference: Json, text: str, verifier: MathVerifier = VERIFIER) -> Verdict:
    return verifier.verify(prompt_of(reference), completion_from_text(text, prompt_id="p"))


def prompt_of(reference: Json, **settings: object) -> Prompt:
    check = Check(name="math", verifier="math", reference=reference, settings=settings)
    return Prompt(prompt_id="p", text="?", checks=(check,), source="test")


@pytest.mark.parametrize(
    ("reference", "answer", "method", "gold_type"),
    [("42", "42", "number", "integer"), ("42", "42.0", "number", "integer"), ("(1,2)", "(2,1)", "structure", "tuple"),
     ("x+1", "x + 1", "string", "expression")],
)  # fmt: skip
def test_easy_answers_are_settled_in_the_parent(reference: str, answer: str, method: str, gold_type: str) -> None:
    verdict = prejudge(reference, f"\\boxed{{{answer}}}")
    assert verdict is not None
    assert verdict.details == {"gold_type": gold_type, "origin": "box", "method": method}
    assert (verdict.extracted, verdict.verifier) == (answer, "math@3")


def test_what_the_parent_settles_the_worker_settles_alike() -> None:
    for reference, answer in (("42", "42"), ("x^2-1", "(x-1)(x+1)"), ("4", ""), ("[2,9)", "2<=x<9")):
        text = f"\\boxed{{{answer}}}"
        quick = prejudge(reference, text)
        assert quick in (None, verify(reference, text))


def test_a_verdict_without_an_answer_gives_the_reason() -> None:
    verdict = verify("4", "\\boxed{4")
    assert verdict.status is Status.UNPARSED
    assert verdict.details["problem"] == "truncated"
    assert "never closed" in verdict.reason


def test_ordinary_answers_import_no_computer_algebra() -> None:
    program = """
import sys
from rlvr_verifiers.math_answer import MathConfig, MathVerifier
from rlvr.plugin import VerifierContext
from rlvr.commands.verify_file import completion_from_text
built = MathVerifier(MathConfig(), VerifierContext())
answers = ("0.75", "75\\\\%", "\\\\frac{6}{8}", "(1,2)", "\\\\{1\\\\}", "x^2", "\\\\sqrt{2}", "[1,2)", "\\\\text{no}")
for reference in ("3/4", "(1,2)", "\\\\{1,2\\\\}", "(x+1)^2", "\\\\sqrt{8}", "[1,2)", "B"):
    built.parse_reference(reference)
    for answer in answers:
        built.prejudge(reference, completion_from_text(f"\\\\boxed{{{answer}}}", prompt_id="p"))
assert not {"sympy", "mpmath", "math_verify", "torch"} & set(sys.modules), set(sys.modules)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, check=True)


def test_a_cut_off_completion_needs_a_closed_box() -> None:
    for text, status in (("the answer is 4", Status.UNPARSED), ("\\boxed{4} and", Status.PASS)):
        cut = replace(completion_from_text(text, prompt_id="p"), finish_reason=FinishReason.LENGTH)
        verdict = VERIFIER.prejudge("4", cut)
        assert verdict is not None
        assert verdict.status is status


@pytest.mark.parametrize("reference", [None, [], {}, True, ["1", None], "", "\\text{see figure}", "\\frac{"])
def test_references_that_cannot_be_used_are_refused(reference: Json) -> None:
    with pytest.raises(ValueError, match=r"."):
        VERIFIER.parse_reference(reference)


@pytest.mark.parametrize("reference", ["42", 42, 0.5, "\\sqrt{2}", "x=4", ["1", "2"], "\\text{no}", "2^{100}", "10!"])
def test_references_that_can_be_used_are_accepted(reference: Json) -> None:
    VERIFIER.parse_reference(reference)
    gold = reference[0] if isinstance(reference, list) else reference
    assert verify(reference, f"\\boxed{{{gold}}}").passed


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hash_marks": False}, "The sum is 8.\n#### 8"),
        ({"final_answer": False}, "Adding gives that. Final answer: 8"),
        ({"the_answer_is": False}, "After that, the answer is 8."),
        ({"whole_text": False}, "$8$"),
        ({"think_tags": [["<a>", "</a>"]]}, "<a>\\boxed{8}"),
        ({"starts_thinking": True}, "hm \\boxed{8}"),
    ],
)
def test_each_setting_of_the_extraction_changes_a_verdict(settings: dict[str, object], text: str) -> None:
    assert verify("8", text).passed
    assert verify("8", text, built(**settings)).status is Status.UNPARSED


def test_a_rounded_decimal_counts_only_where_it_is_asked_for() -> None:
    assert not verify("2/3", "\\boxed{0.667}").passed
    assert verify("2/3", "\\boxed{0.667}", built(decimal_digits=3)).passed
    assert not verify("2/3", "\\boxed{0.67}", built(decimal_digits=3)).passed
    assert not verify("2/3", "\\boxed{0.666}", built(decimal_digits=3)).passed


def test_the_work_key_tells_answers_apart_and_nothing_else() -> None:
    def key(reference: Json, text: str) -> str:
        return VERIFIER.work_key(reference, completion_from_text(text, prompt_id="p"))

    assert key("4", "So \\boxed{x+1}.") == key("4", "Hence $\\boxed{x+1}$, at last.")
    others = [
        key("5", "\\boxed{x+1}"),
        key(["4", "5"], "\\boxed{x+1}"),
        key("4", "\\boxed{x+2}"),
        key("4", "\\boxed{x+1} or 5"),
        key("4", "\\boxed{x} or \\boxed{x+1}"),
    ]
    assert len({key("4", "\\boxed{x+1}"), *others}) == 6


def test_the_sample_that_is_cross_checked_goes_to_a_worker_and_its_verdict_stays() -> None:
    checking = built(cross_check_rate=1.0)
    assert checking.prejudge("4", completion_from_text("\\boxed{4}", prompt_id="p")) is None
    assert "cross_check" not in verify("4", "\\boxed{4}", checking).details  # not in a worker
    service = VerifierService(workers=1, deadline_s=10.0)
    try:
        prompts = [("0.5", "1/2"), ("4", "5"), ("\\pi", "3.14159265"), ("6", "9^{9^{9^9}}")]
        pairs = [
            (prompt_of(gold, cross_check_rate=1.0), completion_from_text(f"\\boxed{{{said}}}", prompt_id="p"))
            for gold, said in prompts
        ]
        verdicts = [answer["math"] for answer in service.verify_batch(pairs)]
    finally:
        service.close()
    assert [v.status for v in verdicts] == [Status.PASS, *[Status.FAIL] * 3]
    opinions = [v.details["cross_check"] for v in verdicts]
    assert opinions == ["agrees", "agrees", "disagrees", "no verdict"]


def test_a_second_opinion_that_does_not_come_is_none() -> None:
    assert math_cross_check.verify(["4"], "9" * 1000, limit_s=1.0) is None


def test_the_sample_is_the_share_that_is_asked_for_and_always_the_same() -> None:
    checking = built(cross_check_rate=0.1)
    texts = [f"\\boxed{{{number}}}" for number in range(2000)]
    first = [checking.prejudge("4", completion_from_text(t, prompt_id="p")) is None for t in texts]
    again = [checking.prejudge("4", completion_from_text(t, prompt_id="q")) is None for t in texts]
    assert first == again
    assert 140 < sum(first) < 260


@given(value=st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**9))
def test_a_fraction_equals_itself_in_each_spelling_and_no_neighbour(value: Fraction) -> None:
    sign, top, bottom = ("-" if value < 0 else ""), abs(value.numerator), value.denominator
    gold = f"{sign}\\frac{{{top}}}{{{bottom}}}"
    for text in (f"{sign}{top}/{bottom}", f"\\frac{{{sign}{top}}}{{{bottom}}}"):
        assert verify(gold, f"\\boxed{{{text}}}").passed
    assert not verify(gold, f"\\boxed{{{sign}{top + 1}/{bottom}}}").passed


@given(st.text(alphabet="0123456789.,/%${}()[]\\^_=<>+-*! abxfrc\n", max_size=80))
def test_any_box_gets_a_verdict_without_an_exception(text: str) -> None:
    for reference in ("4", "\\{1,2\\}", "[1,2)", "x^2+1", "B"):
        prejudge(reference, f"\\boxed{{{text}}}")
        prejudge(reference, f"the answer is {text}")


def test_the_development_rows_get_the_expected_verdicts() -> None:
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


def gsm8k_rows() -> Iterator[tuple[str, str]]:
    """(reference, the official solution's text) of all 8,792 problems."""
    folder = SHARED / "data" / "math"
    for name in ("gsm8k_train.jsonl.gz", "gsm8k_test.jsonl"):
        path = folder / name
        if not path.is_file():
            pytest.skip(f"{path} is not there; set RLVR_SHARED to the folder that holds data/math")
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        for line in text.rstrip("\n").split("\n"):
            solution = json.loads(line)["answer"]
            yield solution.split("####")[-1].strip(), solution


def test_every_gsm8k_reference_accepts_itself_and_its_solution_and_rejects_others() -> None:
    rows = list(gsm8k_rows())
    assert len(rows) == 8792
    for reference, solution in rows:
        VERIFIER.parse_reference(reference)
        for text in (f"\\boxed{{{reference}}}", solution):
            verdict = prejudge(reference, text)
            assert verdict is not None, reference
            assert verdict.passed, verdict.reason
    shuffled = [reference for reference, _ in rows]
    random.Random(0).shuffle(shuffled)
    for other, (reference, solution) in zip(shuffled, rows, strict=True):
        is_equal = other.replace(",", "") == reference.replace(",", "")
        verdict = prejudge(other, solution)
        assert verdict is not None
        assert verdict.passed is is_equal, (other, reference)
