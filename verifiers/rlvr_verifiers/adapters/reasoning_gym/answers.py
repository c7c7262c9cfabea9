"""The part of a completion that is scored as its answer, and right answers."""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from rlvr_verifiers.adapters.reasoning_gym.package_side import decode

_OPEN, _CLOSE = "<answer>", "</answer>"
# Where tasks that accept any solution, and so have no `answer`, keep an example.
_EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")


class AnswerForm(StrEnum):
    """How a completion states its answer.

    TAGGED: in the last pair of answer tags; the rule of reasoning-gym's own `extract_answer`.
    LAST_LINE: on the last line that is not blank.
    WHOLE: the whole completion is the answer.
    """

    TAGGED = "tagged"
    LAST_LINE = "last_line"
    WHOLE = "whole"


def answer_in(text: str, form: AnswerForm) -> str | None:
    """The answer without white space around it; None if the text states none in this form.

    >>> answer_in("<answer>1</answer> or <answer> 2 </answer>", AnswerForm.TAGGED)
    '2'
    >>> answer_in("So it is\\n 12 \\n", AnswerForm.LAST_LINE)
    '12'
    """
    if form is AnswerForm.TAGGED:
        return _tagged(text)
    if form is AnswerForm.LAST_LINE:
        return text.strip().rpartition("\n")[2].strip() or None
    return text.strip() or None


def fill(answer: str, form: AnswerForm) -> str:
    """A completion that states an answer in this form."""
    return f"{_OPEN}{answer}{_CLOSE}" if form is AnswerForm.TAGGED else answer


def right_answer(entry: Mapping[str, Any]) -> str | None:
    """The answer of an encoded entry, or else the example in its metadata; None if it has neither.

    >>> right_answer({"answer": None, "metadata": {"possible_answer": {"$pairs": [[0, 2], [1, 1]]}}})
    '{"0": 2, "1": 1}'
    """
    if entry["answer"] is not None:
        return str(entry["answer"])
    example = next((entry["metadata"][key] for key in _EXAMPLES if key in entry["metadata"]), None)
    return example if example is None or isinstance(example, str) else json.dumps(decode(example))


def _tagged(text: str) -> str | None:
    """What `re.findall("<answer>(.*?)</answer>", text, re.DOTALL)` finds last, in linear time."""
    answer: str | None = None
    end = 0
    while (start := text.find(_OPEN, end)) >= 0:
        stop = text.find(_CLOSE, start + len(_OPEN))
        if stop < 0:
            break
        answer = text[start + len(_OPEN) : stop].strip()
        end = stop + len(_CLOSE)
    return answer
