"""Verifies a completion against its accepted references: extraction, comparison, ambiguity.

A completion passes if its final answer equals one reference and nothing else in its final statement contradicts it.
Several boxes count as one answer only if the reference has as many parts.

>>> verify(["3/4"], r"So it is $\\boxed{0.75}$.").result
<Result.PASS: 'pass'>
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from rlvr_verifiers.mathcheck.compare.compare import EXACT, CompareOptions, Decision, Gold, Problem, compare, read_gold
from rlvr_verifiers.mathcheck.method import Method
from rlvr_verifiers.mathcheck.text.extraction import DEFAULT, Extraction, ExtractionOptions, Found, extract
from rlvr_verifiers.mathcheck.text.markers import Origin

MAX_ANSWER_CHARS = 10_000
_MAX_KEPT_CHARS = 200  # longer texts are not remembered
_NUM_KEPT = 16_384
_SHOWN_CHARS = 80
_LETTER = "letter"
_LETTERS = re.compile(r"(?:[\s(){}.,:$]|\\(?:text|textbf|mathrm|mathbf)\b|[A-Z](?![A-Za-z]))*")
_ORDERED = frozenset({"tuple"})
_WITH_PARTS = frozenset({"tuple", "set", "list"})


class Result(StrEnum):
    """The verdict on a completion."""

    PASS = "pass"
    FAIL = "fail"
    UNPARSED = "unparsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationOptions:
    """How answers are extracted and compared."""

    extraction: ExtractionOptions = DEFAULT
    comparison: CompareOptions = EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A verdict with its explanation.

    Attributes:
        reason: one human-readable sentence.
        extracted: the answer; None if none was found.
        origin: where the answer was found.
        method: how the comparison was decided; None if nothing was compared.
        problem: why no answer was found or could be compared: the value of a `Found` or a `Problem`; else "".
        gold_type: the type of the reference that decided.
    """

    result: Result
    reason: str
    extracted: str | None = None
    origin: Origin | None = None
    method: Method | None = None
    problem: str = ""
    gold_type: str = ""


class AnswerVerifier:
    """Verifies answers under fixed options.

    References and decisions are cached, so that equal answers are compared once. Threads may share an instance.
    """

    def __init__(self, options: VerificationOptions | None = None) -> None:
        self.options = options or VerificationOptions()
        self._gold = lru_cache(maxsize=_NUM_KEPT)(read_gold)
        self._remembered = lru_cache(maxsize=_NUM_KEPT)(self._compare)

    def gold(self, text: str) -> Gold:
        """The reference, parsed once. Raises ValueError if no answer could be compared with it."""
        return self._gold(text) if len(text) <= _MAX_KEPT_CHARS else read_gold(text)

    def extract(self, text: str, *, is_cut: bool) -> Extraction:
        """The final answer of a completion."""
        return extract(text, is_cut=is_cut, options=self.options.extraction)

    def verify(self, golds: Sequence[str], found: Extraction, *, bounded: bool) -> Outcome | None:
        """The outcome; None only with `bounded`, if the comparison needs a worker that can be killed.

        Args:
            golds: the accepted references, at least one.
            bounded: decide within about a millisecond or return None.

        Raises:
            ValueError: no answer could be compared with a reference.
        """
        parsed = [self.gold(text) for text in golds]
        if found.found is not Found.ANSWER:
            return Outcome(
                result=Result.UNPARSED,
                reason=found.reason,
                origin=found.origin,
                problem=found.found.value,
                gold_type=parsed[0].kind,
            )
        is_open = False
        first_failure: Outcome | None = None
        for gold in parsed:
            outcome = self._against(gold, found, bounded)
            if outcome is None:
                is_open = True
            elif outcome.result is Result.PASS:
                return outcome
            else:
                first_failure = first_failure or outcome
        return None if is_open else first_failure

    def _against(self, gold: Gold, found: Extraction, bounded: bool) -> Outcome | None:
        if len(found.answer) > MAX_ANSWER_CHARS:
            reason = f"{_shown(found.answer)} is longer than {MAX_ANSWER_CHARS} characters"
            return _outcome(
                gold, found, Decision(result=False, method=Method.STRING, reason=reason, problem=Problem.TOO_BIG)
            )
        if found.parts or found.list_parts:
            decision = self._with_parts(gold, found, bounded)
        else:
            decision = self._decide(gold, found.answer, bounded)
        if decision.result is False and found.core:
            core = self._decide(gold, found.core, bounded)
            decision = decision if core.result is False else core
        if found.rival and decision.result:
            decision = self._with_rival(gold, found.rival, decision, bounded)
        elif found.rival and gold.kind == _LETTER and decision.result is False:
            decision = self._letter_of(gold, found, decision, bounded)
        return None if decision.result is None else _outcome(gold, found, decision)

    def _with_parts(self, gold: Gold, found: Extraction, bounded: bool) -> Decision:
        """Several boxes: either the elements of the reference, or each of them equal to it."""
        if gold.kind in _WITH_PARTS:
            for parts in dict.fromkeys(filter(None, (found.parts, found.list_parts))):
                joined = ", ".join(parts)
                joined = f"({joined})" if gold.kind in _ORDERED else joined
                decision = self._decide(gold, joined, bounded)
                if decision.result is not False:
                    return decision
        decision = self._decide(gold, found.answer, bounded)
        if decision.result is False:
            return decision
        for part in found.parts[:-1]:
            other = self._decide(gold, part, bounded)
            if other.result is None:
                return other
            if other.result is False:
                return _ambiguous(f"the completion also offers {_shown(part)}")
        return decision

    def _with_rival(self, gold: Gold, rival: str, decision: Decision, bounded: bool) -> Decision:
        """The decision, or an ambiguity if the completion states a different final answer after its box."""
        other = self._decide(gold, rival, bounded)
        if other.result is None:
            return other
        if other.result or other.problem is not None or not _is_value(rival):
            return decision
        if gold.kind == _LETTER and _LETTERS.fullmatch(rival) is None:
            return decision  # the rival is the value of the chosen letter
        return _ambiguous(f"after its box the completion states {_shown(rival)}")

    def _letter_of(self, gold: Gold, found: Extraction, decision: Decision, bounded: bool) -> Decision:
        """Compares the letter that is stated after a box with the value of that choice."""
        if _LETTERS.fullmatch(found.answer) is not None:
            return decision
        return self._decide(gold, found.rival, bounded)

    def _decide(self, gold: Gold, answer: str, bounded: bool) -> Decision:
        if len(answer) > _MAX_KEPT_CHARS or len(gold.text) > _MAX_KEPT_CHARS:
            return self._compare(gold.text, answer, bounded)
        return self._remembered(gold.text, answer, bounded)

    def _compare(self, gold: str, answer: str, bounded: bool) -> Decision:
        options = self.options.comparison
        return compare(self.gold(gold), answer, bounded=bounded, options=options)


def verify(golds: Sequence[str], text: str, *, is_cut: bool = False) -> Outcome:
    """The outcome for one completion under the default options.

    Raises:
        ValueError: no answer could be compared with a reference.
    """
    verifier = AnswerVerifier()
    outcome = verifier.verify(golds, verifier.extract(text, is_cut=is_cut), bounded=False)
    assert outcome is not None  # only a bounded comparison may be undecided
    return outcome


def _outcome(gold: Gold, found: Extraction, decision: Decision) -> Outcome:
    if decision.result:
        reason = f"{_shown(found.answer)} equals {_shown(gold.text)}: {decision.reason}"
    else:
        reason = f"{_shown(found.answer)} is not {_shown(gold.text)}: {decision.reason}"
    result = Result.PASS if decision.result else Result.FAIL
    if found.origin is Origin.WHOLE_TEXT and decision.problem is Problem.UNREADABLE:
        result = Result.UNPARSED  # an unmarked text that is not a value contains no answer
    return Outcome(
        result=result,
        reason=reason,
        extracted=found.answer,
        origin=found.origin,
        method=decision.method,
        problem=decision.problem.value if decision.problem else "",
        gold_type=gold.kind,
    )


def _ambiguous(reason: str) -> Decision:
    return Decision(result=False, method=Method.STRUCTURE, reason=reason, problem=Problem.AMBIGUOUS)


def _is_value(rival: str) -> bool:
    """Whether a rival is an answer rather than a remark about one."""
    return len(rival) <= _SHOWN_CHARS and (len(rival) == 1 or "\\" in rival or any(map(str.isdigit, rival)))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
