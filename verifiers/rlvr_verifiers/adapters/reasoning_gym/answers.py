"""The part of a completion that is scored as its answer."""

from enum import StrEnum

_OPEN, _CLOSE = "<answer>", "</answer>"


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
