"""`countdown`: an arithmetic expression over given numbers reaches a target, in exact arithmetic.

expression = term (("+" | "-") term)*      term = factor (("*" | "/") factor)*
factor = number | "(" expression ")"       and "-" factor where the settings allow it
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers.mathcheck.boxes import last_boxes
from rlvr_verifiers.mathcheck.extraction import after_thinking

_MAX_DEPTH = 40
_MAX_NUMBERS = 100
_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")
_SPELLINGS = {
    "\\times": "*", "\\cdot": "*", "\\div": "/", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/",
    "−": "-", "–": "-", "\\left": "", "\\right": "", "$": "", "\\,": "", "\\;": "", "\\ ": " ",
    "\\(": "", "\\)": "",
}  # fmt: skip


class CountdownConfig(BaseModel):
    """Settings of `countdown`.

    use_all: each given number exactly once; else each at most as often as given.
    allow_last_line: without a tag or a box, the last line that is not empty is the answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_all: bool = True
    allow_last_line: bool = False
    allow_unary_minus: bool = False
    max_chars: int = Field(default=500, ge=1, le=10_000)


class _NotAnExpression(Exception):  # noqa: N818 - a finding about the answer
    """The text is not in the grammar; it cannot be read."""


class _BreaksARule(Exception):  # noqa: N818 - a finding about the answer
    """The text can be read, and does what is not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    numbers: tuple[int, ...]
    target: int


class CountdownVerifier:
    """Judges `<answer>(1 + 2) * 3</answer>`, else the last box, against {"numbers": [1, 2, 3],
    "target": 9}.
    """

    name: ClassVar[str] = "countdown"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = CountdownConfig

    def __init__(self, config: CountdownConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError unless the reference has whole `numbers` and a whole `target`."""
        _read_task(reference)

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """Settles every item: all work is bounded by `max_chars`."""
        return self._judge(_read_task(reference), completion)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS when the expression keeps the rules and its value is the target."""
        return self._judge(_read_task(prompt.reference), completion)

    def _judge(self, task: _Task, completion: Completion) -> Verdict:
        answer, problem = self._extract(completion)
        if answer is None:
            return verdict(self, Status.UNPARSED, problem)
        if len(answer) > self.config.max_chars:
            reason = f"the answer has {len(answer)} characters; {self.config.max_chars} are allowed"
            return verdict(self, Status.UNPARSED, reason, extracted=answer[:100])
        try:
            value, used = self._evaluate(answer)
        except _NotAnExpression as error:
            return verdict(self, Status.UNPARSED, str(error), extracted=answer)
        except _BreaksARule as error:
            return verdict(self, Status.FAIL, str(error), extracted=answer)
        problem = self._number_problem(task, used)
        if not problem and value != task.target:
            problem = f"the expression is {value}, and the target is {task.target}"
        if problem:
            return verdict(self, Status.FAIL, problem, extracted=answer)
        return verdict(self, Status.PASS, f"the expression is {value}", extracted=answer)

    def _extract(self, completion: Completion) -> tuple[str | None, str]:
        """The answer's text, or None and why there is none."""
        text = after_thinking(completion.text)
        if text is None:
            return None, "the thinking was never closed"
        start = text.rfind("<answer>")
        if start >= 0:
            end = text.find("</answer>", start)
            if end < 0:
                return None, "the last <answer> was never closed"
            return text[start + len("<answer>") : end].strip(), ""
        found = last_boxes(text)
        if found.is_open:
            return None, "the last \\boxed{ was never closed"
        if found.boxes:
            return found.boxes[-1].content, ""
        lines = text.strip().splitlines()
        if self.config.allow_last_line and lines and completion.finish_reason is FinishReason.STOP:
            return lines[-1].strip(), ""
        return None, "there is no <answer>...</answer> and no \\boxed{...}"

    def _evaluate(self, answer: str) -> tuple[Fraction, list[int]]:
        """The value of the first side and the numbers in it; other sides of "=" must have the same
        value.
        """
        for spelling, plain in _SPELLINGS.items():
            answer = answer.replace(spelling, plain)
        first, *others = answer.split("=")
        used: list[int] = []
        value = _Parser(first, used, allow_unary_minus=self.config.allow_unary_minus).value()
        for other in others:
            stated = _Parser(other, [], allow_unary_minus=True).value()
            if stated != value:
                raise _BreaksARule(f"{first.strip()} is {value} and not {other.strip()}")
        return value, used

    def _number_problem(self, task: _Task, used: list[int]) -> str:
        given, spent = Counter(task.numbers), Counter(used)
        extra, unused = spent - given, given - spent
        if extra:
            return f"used more often than given: {_listed(extra)}"
        if unused and self.config.use_all:
            return f"not used: {_listed(unused)}"
        return ""


class _Parser:
    """Recursive descent with exact values. Collects the numbers that it reads in `used`."""

    def __init__(self, text: str, used: list[int], *, allow_unary_minus: bool) -> None:
        self.used = used
        self.allow_unary_minus = allow_unary_minus
        self.tokens: list[str] = []
        self.position = 0
        end = 0
        text = text.strip()
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise _NotAnExpression(
                    f"{text[end:].strip()[:20]!r} does not belong in an expression"
                )
            self.tokens.append(match.group(1) or match.group(2))
            end = match.end()

    def value(self) -> Fraction:
        """The value of the whole text."""
        value = self._sum(0)
        if self.position < len(self.tokens):
            raise _NotAnExpression(f"an operator is missing before {self._peek()!r}")
        return value

    def _peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self.position += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        if depth > _MAX_DEPTH:
            raise _NotAnExpression(f"parentheses are nested deeper than {_MAX_DEPTH}")
        value = self._product(depth)
        while self._peek() in ("+", "-"):
            sign = 1 if self._next() == "+" else -1
            value += sign * self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self._peek() in ("*", "/"):
            if self._next() == "*":
                value *= self._factor(depth)
                continue
            divisor = self._factor(depth)
            if divisor == 0:
                raise _BreaksARule("the expression divides by zero")
            value /= divisor
        return value

    def _factor(self, depth: int) -> Fraction:
        token = self._next()
        if token.isdigit():
            number = int(token)
            self.used.append(number)
            return Fraction(number)
        if token == "(":
            value = self._sum(depth + 1)
            if self._next() != ")":
                raise _NotAnExpression("a parenthesis is never closed")
            return value
        if token == "-":
            if not self.allow_unary_minus:
                raise _BreaksARule(
                    "a minus sign stands in front of a number; only subtraction is allowed"
                )
            if depth > _MAX_DEPTH:
                raise _NotAnExpression(f"signs are nested deeper than {_MAX_DEPTH}")
            return -self._factor(depth + 1)
        raise _NotAnExpression(
            f"a number is missing before {token!r}" if token else "a number is missing at the end"
        )


def _read_task(reference: Json) -> _Task:
    """The task. Raises ValueError that says what is wrong with the reference."""
    if not isinstance(reference, dict):
        raise ValueError(f'{reference!r} is not of the form {{"numbers": [..], "target": n}}')
    fields = cast("dict[str, Any]", reference)
    numbers, target = fields.get("numbers"), fields.get("target")
    if not isinstance(numbers, (list, tuple)) or not numbers:
        raise ValueError(f"numbers={numbers!r} is not a list of whole numbers")
    items = cast("list[Any]", numbers)
    if len(items) > _MAX_NUMBERS or not all(_is_whole(item) and item >= 0 for item in items):
        raise ValueError(
            f"numbers={items!r} must be at most {_MAX_NUMBERS} whole numbers from 0 up"
        )
    if not _is_whole(target):
        raise ValueError(f"target={target!r} is not a whole number")
    return _Task(numbers=tuple(items), target=cast(int, target))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(numbers: Counter[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers.elements()))
