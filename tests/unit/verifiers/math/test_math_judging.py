"""A completion against its references: ambiguity, several boxes, rivals, what is remembered."""

import pytest

from rlvr_verifiers.mathcheck import verification
from rlvr_verifiers.mathcheck.decision import Problem
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.text.extraction import ExtractionOptions, Found
from rlvr_verifiers.mathcheck.text.markers import Origin
from rlvr_verifiers.mathcheck.verification import AnswerVerifier, Outcome, Result, VerificationOptions, verify


def passes(gold: str, text: str) -> bool:
    return verify([gold], text).result is Result.PASS


@pytest.mark.parametrize("answer", ["42", "42.0", r"\frac{84}{2}", "6 \\cdot 7", r"42\text{ apples}"])
def test_the_outcome_of_a_right_answer_has_the_answer_its_origin_and_the_method(answer: str) -> None:
    outcome = verify(["42"], f"So $\\boxed{{{answer}}}$.")
    assert (outcome.result, outcome.extracted, outcome.origin) == (Result.PASS, answer, Origin.BOX)
    assert outcome.method in (Method.STRING, Method.NUMBER, Method.SYMBOLIC)
    assert outcome.gold_type == "integer"
    assert outcome.problem == ""
    assert outcome.reason.startswith(f"{answer!r} equals '42'")


def test_a_wrong_answer_has_a_reason() -> None:
    outcome = verify(["42"], r"\boxed{24}")
    assert (outcome.result, outcome.method) == (Result.FAIL, Method.NUMBER)
    assert outcome.reason.startswith("'24' is not '42'")


def test_no_answer_is_unparsed_with_its_reason() -> None:
    for text, problem in (("so it is 42", Found.NONE), (r"\boxed{42", Found.TRUNCATED), (r"\boxed{}", Found.EMPTY)):
        outcome = verify(["42"], text)
        assert (outcome.result, outcome.problem) == (Result.UNPARSED, problem.value)
        assert outcome.reason
        assert outcome.extracted is None


@pytest.mark.parametrize(
    ("gold", "text", "is_right"),
    [
        ("17", r"Either \boxed{16} or \boxed{17}.", False),
        ("17", r"Either \boxed{17} or \boxed{16}.", False),
        ("0.5", r"\boxed{1/2}, or \boxed{0.5}", True),
        ("17", r"\boxed{17} and \boxed{17}", True),
        ("3,4", r"$\boxed{3}$ and $\boxed{4}$", True),
        ("3,4", r"$\boxed{4}$ or $\boxed{3}$", True),
        (r"\{3,4\}", r"$\boxed{3}$ and $\boxed{4}$", True),
        ("(3,4)", r"$x=\boxed{3}$, $y=\boxed{4}$", True),
        ("(3,4)", r"$x=\boxed{4}$, $y=\boxed{3}$", False),
        ("3,4", r"$\boxed{3}$, $\boxed{4}$ and $\boxed{5}$", False),
        ("3,4", r"$\boxed{3}$", False),
        ("3,4", r"The roots are \boxed{3} together with \boxed{4}.", True),
        ("4", r"The roots are \boxed{3} together with \boxed{4}.", True),
        ("16", r"I first got \boxed{16}, but that misses one case, so \boxed{17}.", False),
        ("17", r"I first got \boxed{16}, but that misses one case, so \boxed{17}.", True),
        ("5", r"\boxed{5} or 6", False),
        ("0.5", r"\boxed{0.5} or 1/2", True),
        ("5", "The answer is 5 or 6.", False),
        ("5", "The answer is probably 5.", False),
        ("5", "I counted 5 apples.", False),
        ("5", "boxed{5}", False),
        ("5,6", "The answer is 5 or 6.", True),
        ("\\frac{1}{2}", r"The answer is $\frac{1}{2}$ of the total.", True),
    ],
)
def test_several_answers_count_only_where_they_are_one(gold: str, text: str, is_right: bool) -> None:
    assert passes(gold, text) is is_right


def test_several_values_are_ambiguous_and_say_which() -> None:
    outcome = verify(["17"], r"Either \boxed{16} or \boxed{17}.")
    assert outcome.problem == Problem.AMBIGUOUS.value
    assert "also offers '16'" in outcome.reason


def test_another_final_answer_after_the_box_is_ambiguous() -> None:
    outcome = verify(["4"], r"\boxed{4}. No wait, the answer is 5.")
    assert (outcome.result, outcome.problem) == (Result.FAIL, Problem.AMBIGUOUS.value)
    assert "'5'" in outcome.reason
    for tail in (
        "So the answer is 4.",
        "The final answer is $4.0$.",
        "The answer is right.",
        "The answer is what we wanted.",
    ):
        assert passes("4", rf"\boxed{{4}}. {tail}"), tail


def test_a_letter_after_the_box_of_its_value_is_the_choice() -> None:
    text = r"So it is $\boxed{[2,5)}$. Final Answer: The final answer is (B). I hope it is correct."
    assert passes("(B)", text)
    assert not passes("(C)", text)
    assert not passes("B", r"\boxed{C}. The answer is B.")


def test_any_accepted_reference_may_be_met() -> None:
    assert verify(["1", "2"], r"\boxed{2}").result is Result.PASS
    assert verify(["1", "2"], r"\boxed{3}").result is Result.FAIL


def test_an_unusable_reference_is_an_error_for_any_completion() -> None:
    for text in (r"\boxed{12}", "nothing here"):
        with pytest.raises(ValueError, match="see figure"):
            verify([r"\text{see figure}"], text)


def test_a_very_long_answer_is_too_big() -> None:
    outcome = verify(["4"], "\\boxed{" + "4" * 20_000 + "}")
    assert (outcome.result, outcome.problem) == (Result.FAIL, Problem.TOO_BIG.value)
    assert len(outcome.reason) < 400


def test_equal_answers_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = verification.compare

    def counted(gold: verification.Gold, answer: str, **options: object) -> verification.Decision:
        calls.append(answer)
        return real(gold, answer, **options)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(verification, "compare", counted)
    verifier = AnswerVerifier()

    def ask(text: str) -> Outcome | None:
        return verifier.verify(["3/4"], verifier.extract(text, is_cut=False), bounded=True)

    first, again = ask(r"so \boxed{0.75}"), ask(r"hence $\boxed{0.75}$")
    assert first == again
    assert calls == ["0.75"]
    ask(r"\boxed{0.76}")
    assert calls == ["0.75", "0.76"]


def test_options_reach_extraction_and_comparison() -> None:
    exact = AnswerVerifier()
    rounding = AnswerVerifier(VerificationOptions(comparison=verification.CompareOptions(decimal_digits=2)))
    plain = AnswerVerifier(VerificationOptions(extraction=ExtractionOptions(markers=frozenset())))

    def result(verifier: AnswerVerifier, text: str) -> Result:
        outcome = verifier.verify(["2/3"], verifier.extract(text, is_cut=False), bounded=False)
        assert outcome is not None
        return outcome.result

    assert result(exact, r"\boxed{0.667}") is Result.FAIL
    assert result(rounding, r"\boxed{0.667}") is Result.PASS
    assert result(rounding, r"\boxed{0.668}") is Result.FAIL
    assert result(plain, "The answer is 2/3") is Result.UNPARSED
    assert result(exact, "The answer is 2/3") is Result.PASS


def test_a_bounded_outcome_never_contradicts_the_full_one() -> None:
    golds = ["4", "x^2-1", r"\sqrt{8}", r"\cos 2x", "(1,2)", r"\frac{\pi}{3}", "[2,9)", "2\\sqrt{2}"]
    answers = ["4", "(x-1)(x+1)", r"2\sqrt{2}", r"1-2\sin^2 x", "(2,1)", r"60^\circ", r"2\le x<9", "2.83", "3!"]
    verifier = AnswerVerifier()
    for gold in golds:
        for answer in answers:
            found = verifier.extract(f"\\boxed{{{answer}}}", is_cut=False)
            quick = verifier.verify([gold], found, bounded=True)
            full = verifier.verify([gold], found, bounded=False)
            assert full is not None
            assert quick is None or quick.result is full.result, (gold, answer)
