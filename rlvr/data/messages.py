"""Chat messages as data sets write them: role and content, ShareGPT's from and value, content in parts of text."""

from collections.abc import Mapping, Sequence
from typing import Any

_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
_TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation"})
_NO_TOOLS = "rlvr trains single turns without tools: remove such rows, or write the tool's output into the question"


def read_messages(value: Sequence[Any], column: str) -> list[dict[str, str]]:
    """The messages of one row as {"role", "content"}, of which the last is the user's.

    Args: column: the column of the messages, for error messages.

    Raises: ValueError with the remedy: not messages, tools, parts other than text, or no question at the end.
    """
    messages = [_message(item, column) for item in value]
    last = messages[-1]["role"]
    if last == "assistant":
        text = "value" if "value" in value[-1] else "content"
        raise ValueError(_ends_in_an_answer(messages, column, text))
    if last == "system":
        raise ValueError(f"column {column!r}: the messages end in a system turn; a user turn must follow")
    return messages


def _message(item: Any, column: str) -> dict[str, str]:
    if not isinstance(item, Mapping):
        raise ValueError(
            f"column {column!r} is a list, but not of messages with role and content: it holds a {type(item).__name__}"
        )
    role, content = item.get("role"), item.get("content")
    if role is None and "from" in item:
        said = str(item["from"])
        role, content = _SHAREGPT_ROLES.get(said.lower(), said), item.get("value")
    if not isinstance(role, str):
        held = ", ".join(map(str, item)) or "nothing"
        raise ValueError(
            f"column {column!r} is a list, but not of messages with role and content (or ShareGPT's from and value): "
            f"one has {held}"
        )
    if role in _TOOL_ROLES or item.get("tool_calls") or item.get("function_call"):
        what = f"has a turn of role {role!r}" if role in _TOOL_ROLES else "calls a tool"
        raise ValueError(f"column {column!r} {what}; {_NO_TOOLS}")
    return {"role": role, "content": _text(content, role, column)}


def _text(content: Any, role: str, column: str) -> str:
    """Content as text; parts of text are joined without anything between them, as chat templates join them."""
    if isinstance(content, str):
        return content
    parts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text" or not isinstance(text, str):
            found = f"a part of type {kind!r}" if kind != "text" else type(text).__name__
            raise ValueError(
                f"column {column!r}: the content of a {role} turn is {found}, and rlvr reads text only; remove such "
                "rows, or describe in text what they show"
            )
        parts.append(text)
    return "".join(parts)


def _ends_in_an_answer(messages: Sequence[Mapping[str, str]], column: str, text: str) -> str:
    """What to do with messages whose last turn is the assistant's. Args: text: the key of a turn's text."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    last = len(messages) - 1
    one = (
        f", for example columns={{prompt: {column}.{asked[0]}.{text}, reference: {column}.{last}.{text}}} names the "
        "question and the answer"
        if len(asked) == 1
        else ""
    )
    return (
        f"column {column!r}: the messages end in an assistant turn, which would be shown to the policy as the answer; "
        f"drop that turn from the data{one}. If it only begins the answer that the policy continues, drop it too "
        "and write its text as assistant_prefix (columns may appear in it)"
    )
