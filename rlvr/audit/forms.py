"""The usual forms in which a completion states its answer, and the form of a given completion."""

from collections.abc import Sequence
from dataclasses import dataclass

_THINKING = "<think>\nLet me think about this step by step.\n</think>\n"


@dataclass(frozen=True, slots=True)
class Form:
    r"""A form: the text before and after the answer.

    >>> Form("box", "So \\boxed{", "}.").fill("7")
    'So \\boxed{7}.'
    """

    name: str
    before: str
    after: str = ""

    @property
    def has_end(self) -> bool:
        """Whether a mark ends the answer; without one, a reader may take only the first word or line after `before`."""
        return not self.before or any(not (mark.isspace() or mark == ".") for mark in self.after)

    def fill(self, answer: str) -> str:
        """A completion that states the answer in this form."""
        return f"{self.before}{answer}{self.after}"


BARE = Form("the answer alone", "")
BOX = Form("\\boxed{}", "The answer is \\boxed{", "}.")
TAG = Form("<answer>", "<answer>", "</answer>")
THINKING_AND_TAG = Form("<think> and <answer>", f"{_THINKING}<answer>", "</answer>")
MARKS = Form("####", "Let me think step by step.\n#### ")
SENTENCE = Form("The answer is", "The answer is ")
# The usual forms; gold answers are tried in this order.
FORMS: tuple[Form, ...] = (
    BARE,
    BOX,
    MARKS,
    TAG,
    THINKING_AND_TAG,
    SENTENCE,
    Form("The answer is, full stop", "The answer is ", "."),
    Form("The final answer is", "The final answer is: $", "$."),
    Form("Final answer:", "Final answer: "),
    Form("Answer:", "Answer: "),
    Form("bold answer", "**Answer:** "),
    Form("ANSWER:", "ANSWER: "),
    Form("<think>, then the answer", _THINKING),
    Form("<think>, then \\boxed{}", f"{_THINKING}The answer is \\boxed{{", "}."),
    Form("letter in brackets", "The answer is (", ")."),
    Form("brackets", "(", ")"),
    Form("formula", "$", "$"),
    Form("display formula", "\\[", "\\]"),
    Form("JSON text", '"', '"'),
    Form("JSON object", '{"answer": "', '"}'),
    Form("JSON object, bare value", '{"answer": ', "}"),
    Form("JSON in a block", '```json\n{"answer": "', '"}\n```'),
    Form("block", "```\n", "\n```"),
    Form("JSON block", "```json\n", "\n```"),
    Form("Python block", "```python\n", "\n```"),
    Form("double brackets", "[[", "]]"),
    Form("double angles", "<<", ">>"),
    Form("<solution>", "<solution>", "</solution>"),
    Form("<output>", "<output>", "</output>"),
    Form("<final_answer>", "<final_answer>", "</final_answer>"),
    Form("[ANSWER]", "[ANSWER]", "[/ANSWER]"),
    Form("Solution:", "Solution: "),
    Form("Result:", "Result: "),
    Form("equals", "x = "),
    Form("answer=", "answer="),
    Form("last line", "Let me think step by step.\n"),
)


def form_of(completion: str, golds: Sequence[str]) -> tuple[Form, str] | None:
    """(the form of a completion, the gold text in it) by the last place of a gold text; None if it holds none."""
    for gold in golds:
        start = completion.rfind(gold)
        if start >= 0:
            return Form("that of the completion", completion[:start], completion[start + len(gold) :]), gold
    return None
