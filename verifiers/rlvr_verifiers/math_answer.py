"""`math`: compares the final answer of a solution with a gold answer; the type of the gold answer decides how.

Almost every answer is decided in the parent process in microseconds, by text, exact arithmetic and structure. The rest
goes to a worker that is killed at its deadline. A rounded decimal does not equal an exact gold answer unless the recipe
allows it.
"""

import json
import zlib
from typing import ClassVar, cast

from pydantic import BaseModel, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers import math_cross_check
from rlvr_verifiers.mathcheck.compare.compare import CompareOptions, evaluate
from rlvr_verifiers.mathcheck.text.extraction import Extraction, ExtractionOptions, Found
from rlvr_verifiers.mathcheck.text.markers import Origin
from rlvr_verifiers.mathcheck.verification import AnswerVerifier, Outcome, Result, VerificationOptions
from rlvr_verifiers.thinking import ThinkingConfig

_MAX_EXTRACTED_CHARS = 2_000
_CROSS_CHECK_S = 0.25  # math-verify takes 3 ms for most answers and seconds for hostile ones
_STATUS = {Result.PASS: Status.PASS, Result.FAIL: Status.FAIL, Result.UNPARSED: Status.UNPARSED}


class MathConfig(ThinkingConfig):
    """How `math` finds an answer and compares it."""

    hash_marks: bool = Field(True, description="without a box, read `#### x`")
    final_answer: bool = Field(True, description="without a box, read `Final answer: x` and `<answer>x</answer>`")
    the_answer_is: bool = Field(True, description="without a box, read `The answer is x`")
    whole_text: bool = Field(
        True, description="without a box, read a text that is one value or a sentence around one formula"
    )
    decimal_digits: int = Field(
        0, ge=0, le=15, description="accept a decimal rounded to this many significant digits; 0: exact"
    )
    cross_check_rate: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="share of the answers that math-verify also checks, for a metric; changes no verdict",
    )

    @property
    def verification(self) -> VerificationOptions:
        """The settings as `VerificationOptions`."""
        switches = {
            Origin.HASH_MARKS: self.hash_marks,
            Origin.FINAL_ANSWER: self.final_answer,
            Origin.THE_ANSWER_IS: self.the_answer_is,
            Origin.WHOLE_TEXT: self.whole_text,
        }
        return VerificationOptions(
            extraction=ExtractionOptions(
                markers=frozenset(origin for origin, is_on in switches.items() if is_on), thinking=self.thinking
            ),
            comparison=CompareOptions(decimal_digits=self.decimal_digits),
        )


class MathVerifier:
    """Compares the last `\\boxed{}` (else `#### x`, `Final answer: x`, `the answer is x`) with the gold answer."""

    name: ClassVar[str] = "math"
    version: ClassVar[str] = "3"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = MathConfig

    def __init__(self, config: MathConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._verifier = AnswerVerifier(config.verification)
        self._is_worker = False

    def warm_up(self) -> None:
        """Imports what the most expensive comparisons need; called in a worker before its first item."""
        self._is_worker = True
        math_cross_check.warm_up()

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for a gold answer with which no completion can be compared."""
        for text in accepted(reference):
            gold = self._verifier.gold(text)
            if self._is_worker:
                evaluate(gold)

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict if it takes microseconds; None for other answers and for the cross-checked sample."""
        golds, found = self._read(reference, completion)
        outcome = self._verifier.verify(golds, found, bounded=True)
        if outcome is None or self._is_sampled(golds, found):
            return None
        return self._verdict(outcome)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the final answer equals an accepted gold answer; UNPARSED if there is no final answer."""
        golds, found = self._read(prompt.reference, completion)
        outcome = self._verifier.verify(golds, found, bounded=False)
        assert outcome is not None  # only a bounded comparison may be undecided
        if self._is_worker and self._is_sampled(golds, found):
            return self._verdict(outcome, cross_check=self._cross_check(golds, found, outcome))
        return self._verdict(outcome)

    def work_key(self, reference: Json, completion: Completion) -> str:
        """The accepted golds and the extracted answer; items with the same key share a verdict."""
        golds, found = self._read(reference, completion)
        return _key(golds, found)

    def _read(self, reference: Json, completion: Completion) -> tuple[tuple[str, ...], Extraction]:
        is_cut = completion.finish_reason is not FinishReason.STOP
        return accepted(reference), self._verifier.extract(completion.text, is_cut=is_cut)

    def _verdict(self, outcome: Outcome, *, cross_check: str = "") -> Verdict:
        details: dict[str, Json] = {"gold_type": outcome.gold_type}
        if outcome.origin is not None:
            details["origin"] = outcome.origin.value
        if outcome.method is not None:
            details["method"] = outcome.method.value
        if outcome.problem:
            details["problem"] = outcome.problem
        if cross_check:
            details["cross_check"] = cross_check
        extracted = outcome.extracted
        return verdict(
            self,
            _STATUS[outcome.result],
            outcome.reason,
            extracted=None if extracted is None else extracted[:_MAX_EXTRACTED_CHARS],
            details=details,
        )

    def _is_sampled(self, golds: tuple[str, ...], found: Extraction) -> bool:
        rate = self.config.cross_check_rate
        if rate <= 0.0 or found.found is not Found.ANSWER:
            return False
        text = "\0".join((found.answer, *golds)).encode("utf-8", "surrogatepass")
        return zlib.crc32(text) < rate * 2**32

    def _cross_check(self, golds: tuple[str, ...], found: Extraction, outcome: Outcome) -> str:
        limit_s = min(_CROSS_CHECK_S, self.context.deadline_s / 2)
        other = math_cross_check.verify(golds, found.answer, limit_s=limit_s)
        if other is None:
            return "no verdict"
        return "agrees" if other == (outcome.result is Result.PASS) else "disagrees"


def accepted(reference: Json) -> tuple[str, ...]:
    """The accepted gold answers. Raises ValueError on any other kind of reference."""
    if isinstance(reference, str):
        return (reference,)
    items: list[Json] = cast("list[Json]", reference) if isinstance(reference, list) else [reference]
    is_usable = all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in items)
    if not items or not is_usable:
        raise ValueError(f"{reference!r} is not an answer or a list of accepted answers")
    return tuple(str(item) for item in items)


def _key(golds: tuple[str, ...], found: Extraction) -> str:
    said = (found.found, found.reason, found.origin, found.answer, found.core, found.rival)
    return json.dumps([golds, said, found.parts, found.list_parts])
