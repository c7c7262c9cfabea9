"""`math`: the final answer of a solution against a gold answer, exactly; numbers without computer
algebra.

What numbers, letters, words, tuples, lists and intervals settle is settled in the parent. The rest
goes to math-verify in a worker that is killed at its deadline. A rounded decimal does not equal an
exact gold.
"""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers import math_algebra
from rlvr_verifiers.math_compare import Algebra, equal, gold_problem, is_list, needs_algebra
from rlvr_verifiers.math_extract import Extraction, Found, extract

_SHOWN_CHARS = 80


class MathConfig(BaseModel):
    """`math` has no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MathVerifier:
    """Compares the last `\\boxed{}` (else `#### x`, `Final answer: x`, `the answer is x`) with the
    gold answer.
    """

    name: ClassVar[str] = "math"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = MathConfig

    def __init__(self, config: MathConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context

    def warm_up(self) -> None:
        """Imports computer algebra; called in a worker before its first item."""
        math_algebra.warm_up()

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError on a gold answer that no completion could be compared with."""
        for gold in _golds(reference):
            problem = gold_problem(gold) or math_algebra.size_problem(gold)
            if not problem and needs_algebra(gold):
                sides = gold.split("=") if gold.count("=") == 1 else [gold]
                if not all(math_algebra.can_parse(side) for side in sides):
                    problem = "it cannot be read as mathematics"
            if problem:
                raise ValueError(f"gold answer {gold!r}: {problem}")

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """Settles what needs no computer algebra; None for the rest."""
        return self._judge(_golds(reference), completion, algebra=None)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS when the final answer equals an accepted gold answer; UNPARSED when there is no
        final answer.
        """
        golds = _golds(prompt.reference)
        judged = self._judge(golds, completion, algebra=math_algebra.same_expression)
        assert judged is not None  # with algebra every comparison is decided
        return judged

    def _judge(
        self, golds: list[str], completion: Completion, *, algebra: Algebra | None
    ) -> Verdict | None:
        is_cut = completion.finish_reason is not FinishReason.STOP
        found = extract(completion.text, is_cut=is_cut)
        if found.found is not Found.ANSWER:
            details = {"extraction": str(found.found)}
            return verdict(self, Status.UNPARSED, found.reason, details=details)
        answer, problem = found.answer, _ambiguity(found)
        if problem and found.alternatives and any(is_list(gold) for gold in golds):
            answer, problem = ", ".join(found.alternatives), ""
        problem = problem or math_algebra.size_problem(answer)
        if problem:
            return self._fail(answer, f"{_shown(answer)} is no final answer: {problem}", "string")
        method, is_open = "string", False
        for gold in golds:
            result, method = equal(gold, answer, algebra)
            if result:
                reason = f"{_shown(answer)} equals {_shown(gold)}"
                details = {"method": method}
                return verdict(self, Status.PASS, reason, extracted=answer, details=details)
            is_open |= result is None
        if is_open:
            return None
        expected = " or ".join(_shown(gold) for gold in golds[:3])
        return self._fail(answer, f"{_shown(answer)} is not {expected}", method)

    def _fail(self, answer: str, reason: str, method: str) -> Verdict:
        return verdict(
            self, Status.FAIL, reason, extracted=answer[:2000], details={"method": method}
        )


def _ambiguity(found: Extraction) -> str:
    """Why the extraction offers more than one answer; "" when all it offers are equal."""
    for other in found.alternatives:
        if not equal(found.answer, other, None)[0]:
            return f"the completion also offers {_shown(other)}"
    if found.rival and equal(found.answer, found.rival, None) == (False, "number"):
        return f"after its box the completion states {_shown(found.rival)}"
    return ""


def _golds(reference: Json) -> list[str]:
    """The accepted gold answers. Raises ValueError on any other kind of reference."""
    items: list[Json] = reference if isinstance(reference, list) else [reference]
    is_usable = all(
        isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in items
    )
    if not items or not is_usable:
        raise ValueError(f"{reference!r} is not an answer or a list of accepted answers")
    return [str(item) for item in items]


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
