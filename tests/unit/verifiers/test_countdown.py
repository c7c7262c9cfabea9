"""Settings and references of `countdown`; its verdicts stand in
tests/golden/verdicts/countdown.jsonl.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.commands.verify_file import completion_from_text
from rlvr.plugin import VerifierContext
from rlvr.records import FinishReason, Status, Verdict
from rlvr_verifiers.countdown import CountdownConfig, CountdownVerifier


def verify(answer: str, numbers: list[int], target: int, **settings: object) -> Verdict:
    built = CountdownVerifier(CountdownConfig(**settings), VerifierContext())
    completion = completion_from_text(answer, prompt_id="p")
    verdict = built.prejudge({"numbers": numbers, "target": target}, completion)
    assert verdict is not None
    return verdict


def test_numbers_may_be_left_over_when_the_settings_say_so() -> None:
    answer = "<answer>5 * 2</answer>"
    assert verify(answer, [5, 2, 7], 10).status is Status.FAIL
    assert verify(answer, [5, 2, 7], 10, use_all=False).status is Status.PASS
    assert verify("<answer>5 + 5</answer>", [5, 2], 10, use_all=False).status is Status.FAIL


def test_the_last_line_counts_when_the_settings_say_so() -> None:
    text = "Let me think.\n\n5 * 2 = 10\n"
    assert verify(text, [5, 2], 10).status is Status.UNPARSED
    assert verify(text, [5, 2], 10, allow_last_line=True).status is Status.PASS


def test_the_last_line_of_a_truncated_completion_does_not_count() -> None:
    built = CountdownVerifier(CountdownConfig(allow_last_line=True), VerifierContext())
    cut = replace(completion_from_text("5 * 2", prompt_id="p"), finish_reason=FinishReason.LENGTH)
    verdict = built.prejudge({"numbers": [5, 2], "target": 10}, cut)
    assert verdict is not None
    assert verdict.status is Status.UNPARSED


def test_signs_in_front_count_when_the_settings_say_so() -> None:
    answer = "<answer>-5 + 7</answer>"
    assert verify(answer, [5, 7], 2).status is Status.FAIL
    assert verify(answer, [5, 7], 2, allow_unary_minus=True).status is Status.PASS
    deep = "<answer>" + "-" * 400 + "5</answer>"
    assert verify(deep, [5], 5, allow_unary_minus=True).status is Status.UNPARSED


def test_the_limit_of_characters_is_a_setting() -> None:
    assert verify("<answer>5 * 2</answer>", [5, 2], 10, max_chars=4).status is Status.UNPARSED


def test_a_verdict_says_what_is_wrong() -> None:
    assert verify("<answer>5 + 2</answer>", [5, 2], 10).reason == ("the expression is 7, and the target is 10")
    assert verify("<answer>5 * 5</answer>", [5, 2], 25).reason == "used more often than given: 5"


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "24",
        {"numbers": [1, 2]},
        {"target": 3},
        {"numbers": [], "target": 3},
        {"numbers": [1, 2.5], "target": 3},
        {"numbers": [1, True], "target": 3},
        {"numbers": [1, -2], "target": 3},
        {"numbers": [1, 2], "target": "3"},
    ],
)
def test_a_reference_of_another_form_is_refused(reference: object) -> None:
    built = CountdownVerifier(CountdownConfig(), VerifierContext())
    with pytest.raises(ValueError, match=r"whole number|not of the form"):
        built.parse_reference(reference)


@given(st.text(alphabet="0123456789+-*/()= .eE_x", max_size=60))
def test_any_text_gets_a_verdict(text: str) -> None:
    assert verify(f"<answer>{text}</answer>", [1, 2], 3).status is not Status.ERROR


@given(first=st.integers(1, 99), second=st.integers(1, 99), operator=st.sampled_from("+-*"))
def test_the_value_is_what_python_computes(first: int, second: int, operator: str) -> None:
    value = {"+": first + second, "-": first - second, "*": first * second}[operator]
    answer = f"<answer>({first} {operator} {second})</answer>"
    assert verify(answer, [first, second], value).passed
    assert not verify(answer, [first, second], value + 1).passed
