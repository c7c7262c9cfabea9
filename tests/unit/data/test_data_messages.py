"""Chat messages of data sets: the forms that are read, and what is said of the others."""

from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import DataError
from tests.unit.data.test_data_sources import rows_of, write_lines

MESSAGES = {
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}],
    "texts": [{"role": "user", "content": ["a ", "b"]}],
    "sharegpt": [{"from": "system", "value": "s"}, {"from": "human", "value": "a b"}],
}


@pytest.mark.parametrize("form", MESSAGES)
def test_messages_of_other_forms_are_read(tmp_path: Path, form: str) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": MESSAGES[form], "reference": 1}])
    question = rows_of(path).rows[0].question
    assert isinstance(question, list)
    assert question[-1] == {"role": "user", "content": "a b"}
    assert [m["role"] for m in question][:-1] == ["system"] * (len(question) - 1)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        (
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": "4"}],
            r"d\.jsonl:1: column 'prompt': the messages end in an assistant turn, .*drop that turn.*"
            r"columns=\{prompt: prompt\.0\.content, reference: prompt\.1\.content\}.*assistant_prefix",
        ),
        (
            [{"from": "human", "value": "q"}, {"from": "gpt", "value": "4"}],
            r"assistant turn, .*columns=\{prompt: prompt\.0\.value, reference: prompt\.1\.value\}",
        ),
        ([{"role": "system", "content": "s"}], "end in a system turn; a user turn must follow"),
        (
            [{"role": "user", "content": "q"}, {"role": "tool", "content": "4"}],
            "has a turn of role 'tool'; rlvr trains single turns without tools",
        ),
        (
            [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}],
            "calls a tool; rlvr trains single turns without tools",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}],
            "the content of a user turn is a part of type 'image', and rlvr reads text only",
        ),
        ([{"role": "user", "content": None}], "the content of a user turn is NoneType"),
        ([{"speaker": "user", "text": "q"}], "one has speaker, text"),
        (["q"], "it holds a str"),
    ],
)
def test_messages_that_cannot_be_a_question_are_refused(tmp_path: Path, turns: list[Any], said: str) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": turns, "reference": 1}])
    with pytest.raises(DataError, match=said):
        rows_of(path)


def test_a_turn_of_messages_can_be_named(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "4"}]
    path = write_lines(tmp_path / "d.jsonl", [{"messages": turns}])
    columns = {"prompt": "messages.0.content", "reference": "messages.1.content"}
    row = rows_of(path, columns=columns).rows[0]
    assert (row.question, row.reference) == ("q", "4")


def test_a_long_error_is_reported_once(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "4"}]
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": turns, "reference": 1}] * 3)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert str(caught.value).count("assistant turn") == 1
    assert str(caught.value).count(": the same") == 2
