"""Templates: plain substitution, and references that never reach the policy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlvr.config.load import list_recipes, load_recipe
from rlvr.config.recipe import DataConfig, DataSource
from rlvr.data.load import prompts_that_differ
from rlvr.data.placeholders import substitute
from rlvr.data.rows import FiniteRows, GeneratedRows, Row
from rlvr.data.sources import open_source
from rlvr.data.templates import build_prompt, check_chosen_verifiers, check_formats
from rlvr.errors import ConfigError, DataError
from rlvr.records import Message, Role


def row(question: Any = "2 + 2?", **tags: Any) -> Row:
    return Row(row_id="7", question=question, reference="4", key="7", tags=tags)


def config(**more: Any) -> DataSource:
    return DataSource(**{"source": "data/sums.jsonl", "verifier": "text_match", **more})


def test_chat_is_the_default_and_the_system_prompt_comes_first() -> None:
    prompt = build_prompt(config(system_prompt="Be brief."), row(level=3))
    assert prompt.messages == (Message(role="system", content="Be brief."), Message(role="user", content="2 + 2?"))
    assert (prompt.prompt_id, prompt.source, prompt.text) == ("sums/7", "sums", "")
    assert prompt.tags == {"level": 3}


def test_the_plain_template_is_the_question_unchanged() -> None:
    prompt = build_prompt(config(template="plain"), row("52413:"))
    assert (prompt.text, prompt.assistant_prefix, prompt.messages) == ("52413:", "", ())


def test_r1_zero_ends_where_the_policy_begins_to_think() -> None:
    prompt = build_prompt(config(template="r1_zero", assistant_prefix=" Let"), row())
    assert prompt.text.startswith("A conversation between User and Assistant. The user asks")
    assert (prompt.text + prompt.assistant_prefix).endswith("User: 2 + 2?\nAssistant: <think> Let")
    assert "<answer> answer here </answer>" in prompt.text


def test_formats_take_the_prompt_and_columns() -> None:
    source = config(prompt_format="({level}) {prompt} in \\boxed{}", assistant_prefix="{level}:")
    prompt = build_prompt(source, row(level=3))
    assert prompt.messages[0].content == "(3) 2 + 2? in \\boxed{}"
    assert prompt.assistant_prefix == "3:"


def test_braces_in_data_are_never_read_as_names() -> None:
    prompt = build_prompt(config(prompt_format="{prompt}!"), row("{level} {0} {x.__class__}", level=3))
    assert prompt.messages[0].content == "{level} {0} {x.__class__}!"


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text()))
def test_any_question_goes_through_unchanged(question: str, others: dict[str, str]) -> None:
    assert substitute("<{prompt}>", {**others, "prompt": question}) == f"<{question}>"


def test_the_reference_is_on_every_check_and_nowhere_in_the_prompt() -> None:
    checks = {"main": {"verifier": "math"}, "watch": {"verifier": "text_match", "role": "shadow"}}
    prompt = build_prompt(config(verifier="", checks=checks, prompt_format="{prompt} {reference}"), row("q"))
    assert [(c.name, c.verifier, c.role, c.reference) for c in prompt.checks] == [
        ("main", "math", Role.REWARD, "4"),
        ("watch", "text_match", Role.SHADOW, "4"),
    ]
    assert prompt.messages[0].content == "q {reference}"


def test_messages_keep_their_history_and_the_format_wraps_the_last() -> None:
    history = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    prompt = build_prompt(config(prompt_format="{prompt}!", system_prompt="t"), row(history))
    assert prompt.messages == (Message(role="system", content="t"), Message(role="user", content="q!"))


def checked(source: DataSource, *rows: Row, columns: tuple[str, ...] = ()) -> None:
    names = {name for one in rows for name in one.tags}
    check_formats(source, FiniteRows(rows=rows, columns=frozenset({*names, *columns})))


def test_a_format_that_names_no_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no column.*level, prompt"):
        checked(config(prompt_format="Solve it in \\boxed{}."), row(level=1))


def test_a_system_prompt_and_template_arguments_need_a_chat() -> None:
    with pytest.raises(ConfigError, match="system_prompt needs template 'chat'"):
        checked(config(template="plain", system_prompt="x"), row())
    with pytest.raises(ConfigError, match="chat_template_kwargs needs template 'chat'"):
        checked(config(template="plain", chat_template_kwargs={"enable_thinking": False}), row())


@pytest.mark.parametrize("key", ["prompt_format", "system_prompt", "assistant_prefix"])
@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{hnit}", r"\{hnit\}, which is no column of any row; did you mean \{hint\}"),
        ("{难}", r"\{难\}, which is no column of any row\. Names there are: hint, prompt, source id, 难度"),
        ("{sourceid}", r"did you mean \{source id\}"),
        ("{ hint }", r"did you mean \{hint\}"),
        ("{nothing-like-it}", r"To show \{nothing-like-it\} itself, write \{\{nothing-like-it\}\}"),
        ("{prompt}{hnit}", r"did you mean \{hint\}"),
        ("x_{hnt}", r"did you mean \{hint\}"),
        ("{reference}", "which is the reference: the policy must not see it"),
        ("{answer}", "which is the reference: the policy must not see it"),
        ("{question}", r"which is the question itself; write \{prompt\} for it"),
    ],
)
def test_a_placeholder_that_nothing_fills_is_refused(key: str, written: str, said: str) -> None:
    formats = {"prompt_format": "{prompt}", key: written + (" {prompt}" if "t_f" in key else "")}
    source = config(columns={"prompt": "question", "reference": "answer"}, **formats)
    tags: dict[str, Any] = {"hint": "h", "难度": "易", "source id": 1}
    with pytest.raises(ConfigError, match=rf"{key} names .*{said}"):
        checked(source, row(**tags))


def test_any_column_name_is_filled() -> None:
    tags: dict[str, Any] = {"难度": "易", "source-id": "a1", "source id": 7, "a.b": 0.5, "Größe": True}
    source = config(prompt_format="{prompt} {难度} {source-id} {source id} {a.b} {Größe}")
    checked(source, row(**tags))
    assert build_prompt(source, row(**tags)).messages[0].content == "2 + 2? 易 a1 7 0.5 True"


@pytest.mark.parametrize(
    "kept",
    [
        r"\boxed{answer} \frac{a}{b} \frac{\sqrt{a}}{b} \text{if } \begin{align*} \sqrt[n]{x}",
        r"x_{n}^{max} $\{x, y\}$ {} { } {1} {1,2}",
        'JSON: {"answer": 4, "steps": {"a": [1]}} {answer: 4} {...}',
        "```c\nint main() { return 0; }\n``` {\n}",
    ],
)
def test_braces_of_latex_json_and_programs_stay(kept: str) -> None:
    source = config(prompt_format="{prompt} " + kept)
    checked(source, row(level=1))
    assert build_prompt(source, row(level=1)).messages[0].content == "2 + 2? " + kept


def test_doubled_braces_are_literal_and_tripled_ones_hold_the_value() -> None:
    source = config(prompt_format="{prompt} {{prompt}} {{x}} {{{level}}} {{1}}")
    checked(source, row(level=3))
    assert build_prompt(source, row(level=3)).messages[0].content == "2 + 2? {prompt} {x} {3} {{1}}"


def test_rows_where_a_named_column_is_null_are_named() -> None:
    rows = [
        Row(row_id=str(i), question="q", reference="4", key=str(i), tags=tags, where=f"d.jsonl:{i}")
        for i, tags in enumerate([{"hint": "h"}, {}, {"hint": None}, {"hint": float("nan")}, {"hint": ""}])
    ]
    with pytest.raises(DataError, match="null or missing in 3 of 5 rows") as caught:
        checked(config(prompt_format="{prompt} {hint}"), *rows)
    places = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert places == ["d.jsonl:1", "d.jsonl:2", "d.jsonl:3"]
    checked(config(prompt_format="{prompt} {hint}"), rows[0], rows[4])


def test_a_column_of_lists_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r'name it in `columns`, such as \{"numbers": "numbers"\}'):
        checked(config(prompt_format="{prompt} {numbers}"), row(), columns=("numbers",))
    tags: dict[str, Any] = {"numbers": [1, "二"]}
    source = config(prompt_format="{prompt} {numbers}")
    assert build_prompt(source, row(**tags)).messages[0].content == '2 + 2? [1, "二"]'


def test_a_generator_s_fields_may_be_named_and_nothing_else() -> None:
    source = DataSource(source="generator:sums", verifier="text_match", prompt_format="{a}+{b}=")
    rows = open_source(source, seed=0)
    assert isinstance(rows, GeneratedRows)
    check_formats(source, rows)
    with pytest.raises(ConfigError, match=r"\{c\}, which is no column"):
        check_formats(source.model_copy(update={"prompt_format": "{a}+{c}="}), rows)


def test_columns_are_filled_into_the_system_prompt_too() -> None:
    prompt = build_prompt(config(system_prompt="Level {level}, {{x}}."), row(level=3))
    assert prompt.messages[0].content == "Level 3, {x}."


def test_template_arguments_travel_with_the_prompt() -> None:
    source = config(chat_template_kwargs={"enable_thinking": False})
    assert build_prompt(source, row()).chat_template_kwargs == {"enable_thinking": False}
    with pytest.raises(ValidationError, match="add_generation_prompt cannot be set"):
        config(chat_template_kwargs={"add_generation_prompt": False})


def test_messages_need_a_chat() -> None:
    with pytest.raises(DataError, match=r"row '7'.*needs template 'chat'"):
        build_prompt(config(template="plain"), row([{"role": "user", "content": "q"}]))


def data(train: list[dict[str, Any]], held_out: dict[str, Any]) -> DataConfig:
    base = {"source": "data/sums.jsonl", "verifier": "text_match"}
    return DataConfig.model_validate(
        {"train": [base | more for more in train], "eval": [base | {"name": "held"} | held_out]}
    )


ASKS = {"prompt_format": "{prompt}\nUse \\boxed{}."}


def test_an_evaluation_that_omits_a_key_of_training_causes_a_warning() -> None:
    (warning,) = prompts_that_differ(data([ASKS], {}))
    for part in (
        "data.eval.0 (held) has no prompt_format",
        r'data.train.0 has "{prompt}\nUse \\boxed{}."',
        'prompt_format: "{prompt}" if this is intended',
    ):
        assert part in warning
    both = prompts_that_differ(data([{"template": "r1_zero", "assistant_prefix": " <x>"}], {}))
    assert ["template" in both[0], "assistant_prefix" in both[1]] == [True, True]
    (system,) = prompts_that_differ(data([{"system_prompt": "Be brief."}], {}))
    assert "system_prompt" in system


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ([ASKS], ASKS),
        ([ASKS], {"prompt_format": "{prompt}"}),  # written out, so it is meant
        ([ASKS, {}], {}),  # one of the training sources asks alike
        ([{}], {}),
        ([{}], ASKS),
    ],
)
def test_evaluations_that_ask_alike_or_differ_on_purpose_cause_no_warning(
    train: list[dict[str, Any]], held_out: dict[str, Any]
) -> None:
    assert prompts_that_differ(data(train, held_out)) == []


def test_no_packaged_recipe_evaluates_another_prompt_than_it_trains() -> None:
    for info in list_recipes():
        assert prompts_that_differ(load_recipe(info.name).recipe.data) == [], info.name


def test_a_verifier_that_changes_its_prompt_changes_no_other() -> None:
    shared = Row(row_id="7", question="?", reference={"a": [1]}, key="7", tags={"cases": [1], "level": 3})
    first = build_prompt(config(), shared)
    first.reference["a"].append(2)  # type: ignore[index, union-attr, call-overload] # JSON
    first.tags["cases"].append(2)  # type: ignore[union-attr] # JSON
    second = build_prompt(config(), shared)
    assert (second.reference, second.tags) == ({"a": [1]}, {"cases": [1], "level": 3})


CHOSEN = {
    "verifier": "",
    "verifier_column": "kind",
    "checks": {
        "number": {"verifier": "math", "when": "sum"},
        "word": {"verifier": "text_match", "weight": 0.5, "when": "word"},
        "tags": {"verifier": "text_match", "role": "gate", "when": "word"},
        "language": {"verifier": "text_match", "weight": 0.1},
        "watch": {"verifier": "math", "role": "shadow"},
    },
}


def test_a_column_chooses_the_checks_of_each_row_and_those_without_a_value_apply_to_all() -> None:
    source = config(**CHOSEN)
    names = [[check.name for check in build_prompt(source, row(kind=kind)).checks] for kind in ("sum", "word")]
    assert names == [["number", "language", "watch"], ["word", "tags", "language", "watch"]]
    assert build_prompt(source, row(kind="word")).checks[0].weight == 0.5


@pytest.mark.parametrize("tags", [{}, {"kind": "number"}, {"kind": ""}, {"kind": 1}])
def test_a_row_whose_column_chooses_no_check_is_listed_with_its_place(tags: dict[str, Any]) -> None:
    source = config(**CHOSEN)
    good = Row(row_id="1", question="?", reference="4", key="1", tags={"kind": "sum"}, where="sums.jsonl:1")
    bad = Row(row_id="2", question="?", reference="4", key="2", tags=tags, where="sums.jsonl:2")
    check_chosen_verifiers(source, FiniteRows(rows=[good]))
    what = r"sums.jsonl:2: column 'kind' \(verifier_column\) holds .*; there are sum, word$"
    with pytest.raises(DataError, match=what):
        check_chosen_verifiers(source, FiniteRows(rows=[good, bad]))
    with pytest.raises(DataError, match=what):
        build_prompt(source, bad)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"verifier": "math", "verifier_column": "kind"}, "go together.*`when` is not set"),
        ({"checks": {"a": {"verifier": "math", "when": "x"}}}, "go together.*`when` is x"),
        (
            {
                "verifier_column": "kind",
                "checks": {
                    "a": {"verifier": "math", "when": "x"},
                    "b": {"verifier": "math", "when": "y", "role": "gate"},
                },
            },
            "rows whose 'kind' is 'y' have no check with role reward",
        ),
    ],
)
def test_choices_that_cannot_give_a_reward_are_refused(more: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        DataSource(**{"source": "a.jsonl", **more})
