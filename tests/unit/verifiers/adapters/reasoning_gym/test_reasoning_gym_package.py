"""The side of `reasoning_gym:` that imports the package: transport through JSON, draws, splits."""

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_verifiers.adapters.reasoning_gym.answers import AnswerForm, answer_in
from rlvr_verifiers.adapters.reasoning_gym.package_side import decode, draw, encode, split_of

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.fractions()
)
KEYS = (
    st.text() | st.integers() | st.sampled_from(["$tuple", "$pairs", "$fraction"]) | st.tuples(st.integers(), st.text())
)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner), max_leaves=20
)


@settings(max_examples=40)
@given(VALUES)
def test_values_come_back_from_json_with_their_types(value: Any):
    again = decode(json.loads(json.dumps(encode(value))))
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object(), b"bytes"])
def test_a_value_that_would_not_come_back_is_refused(value: object):
    with pytest.raises(TypeError, match="has no form in JSON"):
        encode({"metadata": [value]})


@given(st.lists(st.sampled_from(["<answer>", "</answer>", "<answer", "a", " 12 ", "\n", "<"])).map("".join))
def test_the_tagged_answer_is_what_the_packages_own_rule_finds(text: str):
    found = re.findall("<answer>\\s?(.*?)\\s?</answer>", text, re.DOTALL)
    assert answer_in(text, AnswerForm.TAGGED) == (found[-1].strip() if found else None)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (AnswerForm.LAST_LINE, "I add.\n 12 \n\n", "12"),
        (AnswerForm.LAST_LINE, " \n ", None),
        (AnswerForm.WHOLE, "\n1 2\n3 4\n", "1 2\n3 4"),
        (AnswerForm.WHOLE, "", None),
    ],
)
def test_other_forms_of_the_answer(form: AnswerForm, text: str, expected: str | None):
    assert answer_in(text, form) == expected


def drawn(gym: object, split: str, size: int, *, seed: int = 0, **tasks: dict[str, Any]) -> list[dict[str, Any]]:
    given = {name: {"weight": 1, "config": {}, **more} for name, more in tasks.items()}
    return list(draw(given, seed=seed, split=split, size=size))


def test_no_question_is_in_two_splits_and_none_occurs_twice(gym: object):
    config = {"config": {"high": 20}}
    by_split = {split: drawn(gym, split, 60, sums=config) for split in ("train", "dev", "test")}
    questions = {split: [row["entry"]["question"] for row in rows] for split, rows in by_split.items()}
    for split, found in questions.items():
        assert len(set(found)) == len(found) > 20
        assert {split_of("sums", question) for question in found} == {split}
    for one, other in itertools.combinations(questions.values(), 2):
        assert not set(one) & set(other)


def test_two_seeds_in_succession_do_not_draw_the_same_questions_in_another_place(gym: object):
    """The package draws entry i with seed + i, so its own seeds 0 and 1 share all questions but one."""
    first, second = ({r["entry"]["question"] for r in drawn(gym, "train", 200, seed=s, sums={})} for s in (0, 1))
    assert len(first & second) < 10


def test_draws_end_when_the_questions_repeat(gym: object):
    rows = drawn(gym, "train", 1000, sums={"config": {"high": 3}})
    assert 0 < len(rows) <= 16
    assert drawn(gym, "train", 1000, sums={"config": {"high": 3}}) == rows


def test_a_mixture_follows_the_weights_and_survives_a_task_that_is_used_up(gym: object):
    rows = drawn(gym, "train", 400, sums={"weight": 3}, grids={"weight": 1})
    share = sum(row["task"] == "sums" for row in rows) / len(rows)
    assert share == pytest.approx(0.75, abs=0.06)
    assert all(row["id"].startswith(row["task"]) for row in rows)
    rest = drawn(gym, "train", 100, sums={"config": {"high": 3}}, grids={})
    assert len(rest) == 100
    assert sum(row["task"] == "sums" for row in rest) <= 16


def test_draws_beyond_one_data_set_go_on(gym: object):
    rows = drawn(gym, "train", 900, sums={})
    assert len({row["id"] for row in rows}) == 900
    assert max(int(row["id"].rpartition("-")[2]) for row in rows) > 1000
