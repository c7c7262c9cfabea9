"""Judges whose every answer is known: one that follows a script, and one that compares by a rule."""

import re
import threading
from typing import Any

_QUOTED = r"^=== {label}([0-9a-f]{{16}}) ===\n(.*?)\n=== {label}\1 ===$"


def quoted(request: dict[str, Any], label: str = "") -> str:
    """The text between the marks of a question; the label is "A " or "B " in a comparison."""
    content = request["messages"][0]["content"]
    found = re.search(_QUOTED.format(label=label), content, re.MULTILINE | re.DOTALL)
    assert found is not None, content
    return found[2]


def rule_judge(request: dict[str, Any]) -> str:
    """Right if the last line of the answer is the reference, but for case, blanks and a full stop."""
    content = request["messages"][0]["content"]
    (reference,) = re.findall(r"Reference answer:\n(.*?)\n\nThe answer to grade", content, re.DOTALL)
    last = quoted(request).strip().splitlines()[-1]
    is_right = last.strip().rstrip(".").casefold() == reference.strip().casefold()
    return f"I compared the last lines.\nVERDICT: {'CORRECT' if is_right else 'WRONG'}"


class Script:
    """Answers each row's requests with its replies: one by one, or by the order of the answers in a comparison.

    The question of a row begins with "Row N:". A reply is a text, or {"status"} or {"body"} of an answer that is no
    completion.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        self._left = [list(row["replies"]) if isinstance(row["replies"], list) else [] for row in rows]
        self._lock = threading.Lock()

    def raw(self, request: dict[str, Any]) -> tuple[int, Any]:
        """Status and body of the answer."""
        reply = self._reply(request)
        if isinstance(reply, dict):
            return reply.get("status", 200), reply.get("body", {"error": {"message": "try again"}})
        choice = {"finish_reason": "stop", "message": {"content": reply}}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}

    def _reply(self, request: dict[str, Any]) -> Any:
        found = re.search(r"^Row (\d+):", request["messages"][0]["content"], re.MULTILINE)
        assert found is not None
        number = int(found[1])
        replies = self._rows[number]["replies"]
        if isinstance(replies, dict):
            is_first = quoted(request, "A ").strip() == self._rows[number]["completion"].strip()
            return replies["first" if is_first else "second"]
        with self._lock:
            left = self._left[number]
            return left.pop(0) if len(left) > 1 else left[0]
