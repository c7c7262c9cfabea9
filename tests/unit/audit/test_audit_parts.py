"""The parts of an audit: what counts as the same answer, wrong answers, forms, and the bounds."""

import re

import pytest

from rlvr.audit.answers import accepted_texts, gold_texts, is_same, number_of, states_last
from rlvr.audit.attacks import Attack, Kind, Target, attacks_on, wrong_answers
from rlvr.audit.findings import Evidence, outcomes_of
from rlvr.audit.forms import BARE, BOX, MARKS, TAG, Form, form_of
from rlvr.audit.mutations import mutations
from rlvr.audit.records import Outcome
from rlvr.audit.rows import CHECK, Row
from rlvr.audit.session import Asked, evenly
from rlvr.audit.workers import Item
from rlvr.records import Check, Json, Prompt, Status, Verdict
from tests.unit.audit.audit_rows import REFERENCES

LONG = "\n".join("Row 1 2 3 4 5 6 7" for _ in range(30))  # longer than the part of a text that is read as an answer


@pytest.mark.parametrize(
    ("reference", "first"),
    [
        ("42", "42"),
        ("Tom has 3 apples.\n#### 1,200", "1,200"),
        (r"So it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (7, "7"),
        (["Paris", "Lutetia"], "Paris"),
        ({"answer": "x", "unit": "m"}, '{"answer": "x", "unit": "m"}'),
        (True, "True"),
    ],
)
def test_the_gold_text_of_a_reference(reference: Json, first: str) -> None:
    assert gold_texts(reference)[0] == first


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("42.0", "42", True),
        ("$1,200$", "1200", True),
        (r"\boxed{7}", "7", True),
        ("(b)", "B", True),
        ("yes", True, True),
        ("Lutetia", ["Paris", "Lutetia"], True),
        (r"\frac{1}{2}", "0.5", True),
        ("-42", "42", False),
        ("Paris!", "Paris, France", False),
        (LONG, LONG, True),
        (LONG.replace(" ", "").upper(), LONG, True),
        (LONG.replace("7", "8"), LONG, False),
    ],
)
def test_whether_an_answer_is_the_reference(text: str, reference: Json, expected: bool) -> None:
    assert is_same(text, accepted_texts(reference)) is expected


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        (f"<answer>{LONG}</answer>", LONG, True),
        (f"<answer>{LONG} 8</answer>", LONG, False),
        ("12 or rather 42.", "42", True),
        ("not 42 but 142", "42", False),
        ("Not A", "A", True),
        ("ABCD", "D", False),
        ("The answer is Paris</answer>", "Paris", True),
        ("Parisian", "Paris", False),
    ],
)
def test_whether_a_text_ends_with_the_gold_answer(text: str, gold: str, expected: bool) -> None:
    assert states_last(text, [gold]) is expected


def test_a_huge_exponent_is_not_computed() -> None:
    assert number_of("1e999999999") is None


@pytest.mark.parametrize(
    "gold", [gold for kind in ("numbers", "decimals", "words", "latex") for gold in REFERENCES[kind]]
)
def test_a_mutation_is_never_the_gold_answer(gold: str) -> None:
    assert [text for _, text in mutations(gold) if text == gold] == []
    assert len(list(mutations(gold))) >= 1


def target(gold: str, form: Form, golds: list[str]) -> Target:
    check = Check(name=CHECK, verifier="x", reference=gold)
    row = Row(prompt=Prompt(prompt_id="0", text="What is it?", checks=(check,), source="audit"))
    return Target(row=row, gold=gold, form=form, wrongs=wrong_answers(gold, (gold,), golds), golds=golds)


@pytest.mark.parametrize("form", [BARE, BOX, TAG, MARKS])
@pytest.mark.parametrize("kind", ["numbers", "letters", "words"])
def test_no_attack_states_the_gold_answer_last(kind: str, form: Form) -> None:
    readers = {
        BOX: r"\\boxed\{([^{}]*)\}",
        TAG: r"<answer>([^<]*)</answer>",
        MARKS: r"#### ?(.*)",
        BARE: r"-?\d+(?:\.\d+)?" if kind == "numbers" else r"(?s).+",
    }
    golds = [str(gold) for gold in REFERENCES[kind]]
    for gold in golds[:2]:
        for attack in attacks_on(target(gold, form, golds)):
            stated = re.findall(readers[form], attack.text)
            assert not stated or stated[-1].strip() != gold or attack.kind is Kind.LOOK_ALIKE, attack


def test_every_kind_of_attack_is_in_the_panel() -> None:
    kinds = {attack.kind for attack in attacks_on(target("42", BOX, ["42", "7", "15"]))}
    assert kinds == set(Kind) - {Kind.CODE}


def test_the_form_of_a_completion_has_every_place_of_the_gold_answer() -> None:
    found = form_of("6 * 7 = 42, so <b>42</b>, not 142.", ["42"])
    assert found is not None
    assert found[0].fill("9") == "6 * 7 = 9, so <b>9</b>, not 142."
    assert form_of("no answer", ["42"]) is None


@pytest.mark.parametrize(
    ("mean", "full_rate", "chance", "expected"),
    [
        (0.1, 0.0, 0.0, False),
        (0.11, 0.0, 0.0, True),
        (0.0, 0.02, 0.0, False),
        (0.01, 0.03, 0.0, True),
        (0.25, 0.25, 0.25, False),
        (0.36, 0.25, 0.25, True),
    ],
)
def test_the_bounds_of_an_exploit(mean: float, full_rate: float, chance: float, expected: bool) -> None:
    outcome = Outcome(kind="k", name="n", num_rows=50, mean=mean, full_rate=full_rate, chance=chance)
    assert outcome.is_exploit is expected


@pytest.mark.parametrize(
    ("is_graded", "uses_gold", "passes", "expected"),
    [
        (False, True, False, True),
        (True, True, False, False),  # near the right answer
        (True, False, False, True),  # half the score for nothing
        (True, True, True, True),
    ],
)
def test_graded_scores_of_answers_made_from_the_right_one_are_no_exploit(
    is_graded: bool, uses_gold: bool, passes: bool, expected: bool
) -> None:
    prompt = Prompt(prompt_id="p", text="What is it?", checks=(Check(name=CHECK, verifier="x"),), source="s")
    status = Status.PASS if passes else Status.FAIL
    verdict = Verdict(status=status, score=1.0 if passes else 0.5, reason="", verifier="x", seconds=0.0)
    asked = Asked(item=Item(prompt=prompt, text="4"), verdict=verdict)
    attack = Attack(kind=Kind.MUTATED, name="n", text="4", uses_gold=uses_gold)
    evidence = Evidence(golds=(), chance=0.0, num_attacked=1, form="", attacked=[(attack, asked)])
    [outcome] = outcomes_of(evidence, 0.0, is_graded=is_graded)
    assert outcome.is_exploit is expected


@pytest.mark.parametrize(("partial_credit", "expected"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.0)])
def test_what_a_verifier_pays_by_design_is_no_exploit(partial_credit: float, expected: float) -> None:
    prompt = Prompt(prompt_id="p", text="What is it?", checks=(Check(name=CHECK, verifier="x"),), source="s")
    verdict = Verdict(status=Status.PASS, score=1.0, reason="", verifier="x", seconds=0.0)
    paid = Asked(item=Item(prompt=prompt, text="<think>1</think>"), verdict=verdict)
    attack = Attack(kind=Kind.MUTATED, name="n", text="", uses_gold=True)
    evidence = Evidence(golds=(), chance=0.0, num_attacked=1, form="", attacked=[(attack, paid)])
    [outcome] = outcomes_of(evidence, partial_credit)
    assert outcome.full_rate == expected
    assert outcome.mean == 1.0 - partial_credit


def test_rows_are_chosen_evenly() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(100, 4) == [0, 25, 50, 75]
