"""Templates: plain substitution, and references that never reach the policy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config.load import list_recipes, load_recipe
from rlvr.config.recipe import DataConfig, DataSource
from rlvr.data.load import prompts_that_differ
from rlvr.data.sources import Row
from rlvr.data.templates import build_prompt, substitute
from rlvr.errors import ConfigError, DataError
from rlvr.records import Message, Role


def row(question: Any = "2 + 2?", **tags: Any) -> Row:
    return Row(row_id="7", question=question, reference="4", key="7", tags=tags)


def config(**more: Any) -> DataSource:
    return DataSource(**{"source": "data/sums.jsonl", "verifier": "text_match", **more})


def test_chat_is_the_default_and_the_system_prompt_comes_first() -> None:
    prompt = build_prompt(config(system_prompt="Be brief."), row(level=3))
    assert prompt.messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="2 + 2?"),
    )
    assert (prompt.prompt_id, prompt.source, prompt.text) == ("sums/7", "sums", "")
    assert prompt.tags == {"level": 3}


def test_plain_is_the_question_as_it_is() -> None:
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
    prompt = build_prompt(
        config(prompt_format="{prompt}!"), row("{level} {0} {x.__class__}", level=3)
    )
    assert prompt.messages[0].content == "{level} {0} {x.__class__}!"


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text()))
def test_any_question_goes_through_unchanged(question: str, others: dict[str, str]) -> None:
    assert substitute("<{prompt}>", {**others, "prompt": question}) == f"<{question}>"


def test_the_reference_is_on_every_check_and_nowhere_in_the_prompt() -> None:
    checks = {"main": {"verifier": "math"}, "watch": {"verifier": "text_match", "role": "shadow"}}
    prompt = build_prompt(
        config(verifier="", checks=checks, prompt_format="{prompt} {reference}"), row("q")
    )
    assert [(c.name, c.verifier, c.role, c.reference) for c in prompt.checks] == [
        ("main", "math", Role.REWARD, "4"),
        ("watch", "text_match", Role.SHADOW, "4"),
    ]
    assert prompt.messages[0].content == "q {reference}"


def test_messages_keep_their_history_and_the_format_wraps_the_last() -> None:
    history = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    prompt = build_prompt(config(prompt_format="{prompt}!", system_prompt="t"), row(history))
    assert prompt.messages == (
        Message(role="system", content="t"),
        Message(role="user", content="q!"),
    )


def test_a_format_that_names_no_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no column.*level, prompt"):
        build_prompt(config(prompt_format="{promt}"), row(level=1))


def test_a_system_prompt_needs_a_chat() -> None:
    with pytest.raises(ConfigError, match="system_prompt needs template 'chat'"):
        build_prompt(config(template="plain", system_prompt="x"), row())


def test_messages_need_a_chat() -> None:
    with pytest.raises(DataError, match=r"row '7'.*needs template 'chat'"):
        build_prompt(config(template="plain"), row([{"role": "user", "content": "q"}]))


def data(train: list[dict[str, Any]], held_out: dict[str, Any]) -> DataConfig:
    base = {"source": "data/sums.jsonl", "verifier": "text_match"}
    return DataConfig.model_validate(
        {"train": [base | more for more in train], "eval": [base | {"name": "held"} | held_out]}
    )


ASKS = {"prompt_format": "{prompt}\nUse \\boxed{}."}


def test_an_evaluation_that_leaves_out_what_training_sets_is_told_of() -> None:
    (warning,) = prompts_that_differ(data([ASKS], {}))
    for part in (
        "data.eval.0 (held) has no prompt_format",
        r'data.train.0 has "{prompt}\nUse \\boxed{}."',
        'prompt_format: "{prompt}" if that is meant',
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
def test_evaluations_that_ask_alike_or_on_purpose_are_not_told_of(
    train: list[dict[str, Any]], held_out: dict[str, Any]
) -> None:
    assert prompts_that_differ(data(train, held_out)) == []


def test_no_packaged_recipe_evaluates_another_prompt_than_it_trains() -> None:
    for info in list_recipes():
        assert prompts_that_differ(load_recipe(info.name).recipe.data) == [], info.name
