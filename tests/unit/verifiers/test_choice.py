"""References, option lists and hostile texts of `choice`; its verdicts are in tests/golden/verdicts/choice.jsonl."""

from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, FinishReason, Message, Prompt, Status, Verdict
from rlvr_verifiers.multiple_choice.options import options_in
from rlvr_verifiers.multiple_choice.verifier import ChoiceConfig, ChoiceVerifier
from tests.hardware import cpu_seconds

CITIES = ["Oslo", "Paris", "Rome", "Cairo"]
ROW = {"answer": "B", "options": CITIES}


def build(**settings: Any) -> ChoiceVerifier:
    return ChoiceVerifier(ChoiceConfig(**settings), VerifierContext())


def verify(text: str, reference: Any = ROW, *, is_cut: bool = False, prompt: str = "?", **settings: Any) -> Verdict:
    completion = completion_from_text(text, prompt_id="p")
    if is_cut:
        object.__setattr__(completion, "finish_reason", FinishReason.LENGTH)
    check = Check(name="main", verifier="choice", reference=reference)
    asked = Prompt(prompt_id="p", text=prompt, checks=(check,), source="test")
    return build(**settings).verify(asked, completion)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "not a letter"),
        (True, "not a letter"),
        (1.5, "not a letter"),
        ("", "not a letter"),
        ([], "not a letter"),
        ({"answer": "E", "options": CITIES}, "none of the options 'Oslo', 'Paris'"),
        ({"answer": 4, "options": CITIES}, "index 4 is not from 0 to 3"),
        ({"answer": -1, "options": CITIES}, "index -1 is not from 0 to 3"),
        ({"answer": "Berlin", "options": CITIES}, "none of the options"),
        ({"answer": "B"}, "no options; it has answer"),
        ({"options": CITIES}, "no answer; it has options"),
        ({"answer": "A", "options": ["Oslo"]}, "fewer than two"),
        ({"answer": "A", "options": ["Oslo", " Oslo "]}, "are equal"),
        ({"answer": "A", "options": ["Oslo", None]}, "not all texts"),
        ({"answer": "A", "options": "Oslo, Rome"}, "not a list"),
        ({"answer": "B", "options": ["O", "A", "B", "AB"]}, "both a label and the text of another option"),
        ({"answerKey": "A", "choices": {"text": CITIES, "label": ["A", "B"]}}, "4 options and 2 labels"),
        ({"answerKey": "A", "choices": {"text": CITIES, "label": ["A", "B", "B", "D"]}}, "labels .* are equal"),
    ],
)
def test_a_reference_that_no_completion_can_match_is_refused_at_load(reference: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().parse_reference(reference)


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [
        ({"question": "?", "subject": "geography", "choices": CITIES, "answer": 1}, "B", "A"),
        ({"question": "?", "options": CITIES, "answer": "B", "answer_index": 1, "category": "x"}, "Paris", "Rome"),
        ({"question": "?", "choices": {"text": CITIES, "label": ["A", "B", "C", "D"]}, "answerKey": "B"}, "(B)", "C"),
        ({"ctx": "?", "endings": CITIES, "label": "1"}, "The answer is B.", "Oslo"),
        (
            {"question": "?", "options": dict(zip("ABCD", CITIES, strict=True)), "answer": "Paris", "answer_idx": "B"},
            "B",
            "D",
        ),
    ],
    ids=["mmlu", "mmlu-pro", "arc", "hellaswag", "medqa"],
)
def test_a_row_of_a_known_data_set_is_a_reference(row: dict[str, Any], right: str, wrong: str) -> None:
    build().parse_reference(row)
    assert verify(right, row).passed
    assert verify(wrong, row).status is Status.FAIL


def test_the_first_index_is_a_setting() -> None:
    reference = {"answer": 4, "options": CITIES}
    build(first_index=1).parse_reference(reference)
    assert verify("D", reference, first_index=1).passed


def test_an_answer_that_the_prompt_does_not_offer_is_an_error() -> None:
    with pytest.raises(ValueError, match="'E' is none of the options"):
        verify("A", "E", prompt="Which?\nA. Oslo\nB. Rome")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Which?\nA. Oslo\nB. Rome\nAnswer:", ("Oslo", "Rome")),
        ("Which?\n(A) Oslo\n(B) Rome", ("Oslo", "Rome")),
        ("Which?\nA) Oslo\n\nB) Rome\n\nThink first.", ("Oslo", "Rome")),
        ("Which? A) Oslo B) Rome C) Bern", ("Oslo", "Rome", "Bern")),
        ("Which? (A) Oslo, (B) Rome", ("Oslo", "Rome")),
        ("Which?\nA: Oslo\nB: Rome", ("Oslo", "Rome")),
        (
            "**A.** no\nA. a text of\ntwo lines\nB. Rome\n\nPlease answer with a letter.",
            ("a text of\ntwo lines", "Rome"),
        ),
        ("A. Old\nB. New\nAnswer: A\n\nA. Oslo\nB. Rome\nAnswer:", ("Oslo", "Rome")),
        ("\n".join(f"{letter}. {n}" for n, letter in enumerate("ABCDEFGHIJ")), tuple(map(str, range(10)))),
    ],
)
def test_the_options_of_a_prompt_are_read(text: str, options: tuple[str, ...]) -> None:
    found = options_in(text)
    assert found is not None
    assert found.texts == options


@pytest.mark.parametrize("text", ["", "Which city?", "A. Only one", "B. Oslo\nC. Rome", "A man met a woman."])
def test_a_prompt_without_a_list_has_no_options(text: str) -> None:
    assert options_in(text) is None


def test_the_options_of_a_chat_are_those_of_its_last_question() -> None:
    turns = (
        Message(role="user", content="Which?\nA. Oslo\nB. Rome"),
        Message(role="assistant", content="A. Bern\nB. x"),
    )
    check = Check(name="main", verifier="choice", reference="Rome")
    prompt = Prompt(prompt_id="p", messages=turns, checks=(check,), source="test")
    assert build().verify(prompt, completion_from_text("Rome", prompt_id="p")).passed


def test_a_named_column_must_be_there() -> None:
    with pytest.raises(ValueError, match="no column 'opts'"):
        verify("B", "B", column="opts")


def test_the_last_line_of_a_truncated_completion_does_not_count() -> None:
    assert verify("Let me think.\nB").passed
    assert verify("Let me think.\nB", is_cut=True).status is Status.UNPARSED
    assert verify("\\boxed{B} and so", is_cut=True).passed


def test_a_verdict_says_what_was_chosen() -> None:
    verdict = verify("The answer is Rome.")
    assert (verdict.reason, verdict.extracted) == ("the completion chooses C, and the answer is B", "C")
    assert verify("\\boxed{C. Paris}").reason == "the completion names B and C as its answer"
    assert verdict.details["origin"] == "sentence"


@pytest.mark.parametrize(
    "piece",
    [
        "answer is ",
        "\\boxed{B} ",
        "<answer>B",
        "</answer>",
        "#### ",
        "(B) ",
        "B or ",
        "_",
        "Paris ",
        "\\text{",
        "Answer:\n",
    ],
)
def test_a_verdict_on_a_hostile_text_takes_little_time(piece: str) -> None:
    start = cpu_seconds()
    verify(piece * (10_000_000 // len(piece)))
    assert cpu_seconds() - start < 2.0
