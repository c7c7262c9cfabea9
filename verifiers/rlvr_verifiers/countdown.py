"""`countdown`: whether an arithmetic expression over given numbers equals a target, in exact arithmetic."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pydantic import BaseModel, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers.countdown_expression import BreaksARule, NotAnExpression, evaluate, shown
from rlvr_verifiers.mathcheck.text.boxes import last_boxes
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_MAX_NUMBERS = 100


class CountdownConfig(ThinkingConfig):
    """Settings of `countdown`.

    use_all: every given number must be used exactly once; otherwise each at most as often as given.
    allow_last_line: without a tag or a box, the last non-empty line is the answer.
    """

    use_all: bool = True
    allow_last_line: bool = False
    allow_unary_minus: bool = False
    max_chars: int = Field(default=500, ge=1, le=10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    numbers: tuple[int, ...]
    target: int


class CountdownVerifier:
    """Verifies `<answer>(1 + 2) * 3</answer>`, else the last box, against {"numbers": [1, 2, 3], "target": 9}."""

    name: ClassVar[str] = "countdown"
    version: ClassVar[str] = "2"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = CountdownConfig

    def __init__(self, config: CountdownConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError unless the reference has whole `numbers` and a whole `target`."""
        _read_task(reference)

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict on any item: `max_chars` bounds the work."""
        return self._verify_task(_read_task(reference), completion)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the expression follows the rules and its value is the target."""
        return self._verify_task(_read_task(prompt.reference), completion)

    def _verify_task(self, task: _Task, completion: Completion) -> Verdict:
        answer, problem = self._extract(completion)
        if answer is None:
            return verdict(self, Status.UNPARSED, problem)
        if len(answer) > self.config.max_chars:
            reason = f"the answer has {len(answer)} characters; {self.config.max_chars} are allowed"
            return verdict(self, Status.UNPARSED, reason, extracted=answer[:100])
        try:
            value = evaluate(answer, allow_unary_minus=self.config.allow_unary_minus)
        except NotAnExpression as error:
            return verdict(self, Status.UNPARSED, str(error), extracted=answer)
        except BreaksARule as error:
            return verdict(self, Status.FAIL, str(error), extracted=answer)
        problem = self._number_problem(task, value.used)
        if not problem and value.number != task.target:
            problem = f"the expression is {shown(value.number)}, and the target is {task.target}"
        if problem:
            return verdict(self, Status.FAIL, problem, extracted=answer)
        return verdict(self, Status.PASS, f"the expression is {shown(value.number)}", extracted=answer)

    def _extract(self, completion: Completion) -> tuple[str | None, str]:
        """The text of the answer, or None and the reason."""
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return None, NEVER_CLOSED
        start = text.rfind("<answer>")
        if start >= 0:
            end = text.find("</answer>", start)
            if end < 0:
                return None, "the last <answer> was never closed"
            inner = text[start + len("<answer>") : end].strip()
            boxed = last_boxes(inner).boxes
            return (boxed[-1].content if boxed else inner), ""
        found = last_boxes(text)
        if found.is_open:
            return None, "the last \\boxed{ was never closed"
        if found.boxes:
            return found.boxes[-1].content, ""
        lines = text.strip().splitlines()
        if self.config.allow_last_line and lines and completion.finish_reason is FinishReason.STOP:
            return lines[-1].strip(), ""
        return None, "there is no <answer>...</answer> and no \\boxed{...}"

    def _number_problem(self, task: _Task, used: tuple[int, ...]) -> str:
        given, spent = Counter(task.numbers), Counter(used)
        extra, unused = spent - given, given - spent
        if extra:
            return f"used more often than given: {_listed(extra)}"
        if unused and self.config.use_all:
            return f"not used: {_listed(unused)}"
        return ""


def _read_task(reference: Json) -> _Task:
    """The task. Raises ValueError if the reference is invalid."""
    if not isinstance(reference, dict):
        raise ValueError(f'{reference!r} is not of the form {{"numbers": [..], "target": n}}')
    fields = cast("dict[str, Any]", reference)
    numbers, target = fields.get("numbers"), fields.get("target")
    if not isinstance(numbers, (list, tuple)) or not numbers:
        raise ValueError(f"numbers={numbers!r} is not a list of whole numbers")
    items = cast("list[Any]", numbers)
    if len(items) > _MAX_NUMBERS or not all(_is_whole(item) and item >= 0 for item in items):
        raise ValueError(f"numbers={items!r} must be at most {_MAX_NUMBERS} whole numbers from 0 up")
    if not _is_whole(target):
        raise ValueError(f"target={target!r} is not a whole number")
    return _Task(numbers=tuple(items), target=cast(int, target))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(numbers: Counter[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers.elements()))
