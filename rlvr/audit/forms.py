"""The usual forms in which a completion states its answer, the form of a given completion, and changes of format."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlvr.audit.answers import number_of

_LONG_NUMBER = 1000  # from which thousands are separated
_THINKING = "<think>\nLet me think about this step by step.\n</think>\n"


@dataclass(frozen=True, slots=True)
class Form:
    r"""A form: the texts before, between and after the places of the answer.

    >>> Form("box", ("So \\boxed{", "}.")).fill("7")
    'So \\boxed{7}.'
    """

    name: str
    parts: tuple[str, ...]

    @property
    def before(self) -> str:
        """The text before the last place of the answer."""
        return self.parts[-2]

    @property
    def after(self) -> str:
        """The text after the last place."""
        return self.parts[-1]

    @property
    def has_end(self) -> bool:
        """Whether a mark ends the answer; without one, a reader may take only the first word or line after `before`."""
        return not self.before or any(not (mark.isspace() or mark == ".") for mark in self.after)

    def fill(self, answer: str) -> str:
        """A completion that states the answer in this form."""
        return answer.join(self.parts)


BARE = Form("the answer alone", ("", ""))
BOX = Form("\\boxed{}", ("The answer is \\boxed{", "}."))
TAG = Form("<answer>", ("<answer>", "</answer>"))
THINKING_AND_TAG = Form("<think> and <answer>", (f"{_THINKING}<answer>", "</answer>"))
MARKS = Form("####", ("Let me think step by step.\n#### ", ""))
SENTENCE = Form("The answer is", ("The answer is ", ""))
# The usual forms; gold answers are tried in this order.
FORMS: tuple[Form, ...] = (
    BARE,
    BOX,
    MARKS,
    TAG,
    THINKING_AND_TAG,
    SENTENCE,
    Form("The answer is, full stop", ("The answer is ", ".")),
    Form("The final answer is", ("The final answer is: $", "$.")),
    Form("Final answer:", ("Final answer: ", "")),
    Form("Answer:", ("Answer: ", "")),
    Form("bold answer", ("**Answer:** ", "")),
    Form("ANSWER:", ("ANSWER: ", "")),
    Form("<think>, then the answer", (_THINKING, "")),
    Form("<think>, then \\boxed{}", (f"{_THINKING}The answer is \\boxed{{", "}.")),
    Form("letter in brackets", ("The answer is (", ").")),
    Form("brackets", ("(", ")")),
    Form("formula", ("$", "$")),
    Form("display formula", ("\\[", "\\]")),
    Form("JSON text", ('"', '"')),
    Form("JSON object", ('{"answer": "', '"}')),
    Form("JSON object, bare value", ('{"answer": ', "}")),
    Form("JSON in a block", ('```json\n{"answer": "', '"}\n```')),
    Form("block", ("```\n", "\n```")),
    Form("JSON block", ("```json\n", "\n```")),
    Form("Python block", ("```python\n", "\n```")),
    Form("double brackets", ("[[", "]]")),
    Form("double angles", ("<<", ">>")),
    Form("<solution>", ("<solution>", "</solution>")),
    Form("<output>", ("<output>", "</output>")),
    Form("<final_answer>", ("<final_answer>", "</final_answer>")),
    Form("[ANSWER]", ("[ANSWER]", "[/ANSWER]")),
    Form("Solution:", ("Solution: ", "")),
    Form("Result:", ("Result: ", "")),
    Form("equals", ("x = ", "")),
    Form("answer=", ("answer=", "")),
    Form("last line", ("Let me think step by step.\n", "")),
)


def form_of(completion: str, golds: Sequence[str]) -> tuple[Form, str] | None:
    """(the form of a completion, the gold text in it); None if it holds none.

    Every place of the gold text is a place of the form, so that no attack in this form states the gold answer.
    """
    for gold in golds:
        parts = re.split(rf"(?<![\w.]){re.escape(gold)}(?!\w|[.,]\d)", completion)
        if len(parts) > 1:
            return Form("that of the completion", tuple(parts)), gold
    return None


def format_changes(gold: str, form: Form) -> Iterator[tuple[str, str]]:
    """(what was changed, the completion) for a right completion; each must keep its verdict."""
    right = form.fill(gold)
    yield "a line end after it", f"{right}\n"
    yield "spaces around it", f"  {right}  "
    yield "blank lines before it", f"\n\n{right}"
    yield "Windows line ends", f"{right}\r\n".replace("\r\n", "\n").replace("\n", "\r\n")
    yield "spaces around the answer", form.fill(f" {gold} ")
    yield "a full stop after the answer", form.fill(f"{gold}.")
    yield "bold answer", form.fill(f"**{gold}**")
    yield "the answer as a formula", form.fill(f"${gold}$")
    yield "a sentence before it", f"Let me think step by step.\n{right}"
    yield "a sentence after it", f"{right}\nI hope this helps."
    yield "thinking before it", f"<think>\nLet me see.\n</think>\n{right}"
    yield "a no-break space", form.fill(f"\u00a0{gold}")
    number = number_of(gold)
    if number is None:
        if gold.lower() != gold:
            yield "lower case", form.fill(gold.lower())
        if gold.upper() != gold:
            yield "upper case", form.fill(gold.upper())
        if " " in gold:
            yield "two spaces between words", form.fill(gold.replace(" ", "  "))
        yield "\\text{}", form.fill(f"\\text{{{gold}}}")
        return
    if number.denominator == 1 and gold.lstrip("-").isdigit():
        yield "a decimal zero", form.fill(f"{gold}.0")
        if abs(number) >= _LONG_NUMBER:
            yield "thousands separators", form.fill(f"{int(number):,}")
    if gold.startswith("-"):
        yield "the Unicode minus sign", form.fill(f"\u2212{gold[1:]}")
    elif gold[0].isdigit():
        yield "a plus sign", form.fill(f"+{gold}")
