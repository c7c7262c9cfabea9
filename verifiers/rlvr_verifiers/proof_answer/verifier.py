"""`proof`: whether a derivation in propositional logic derives the theorem of the reference."""

import json
from typing import ClassVar

from pydantic import BaseModel, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.blocks import Source, block_text
from rlvr_verifiers.proof_answer.checker import Invalid, check_derivation
from rlvr_verifiers.proof_answer.derivation import read_lines
from rlvr_verifiers.proof_answer.formulas import Unreadable
from rlvr_verifiers.proof_answer.theorem import Logic, Theorem, check_provable, read_theorem
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_MAX_CACHED = 1_000
_SHOWN_CHARS = 500
_OPENING, _CLOSING = "<answer>", "</answer>"


class ProofConfig(ThinkingConfig):
    """What `proof` accepts as a derivation."""

    logic: Logic = Field(
        default=Logic.CLASSICAL, description="`classical` or `intuitionistic`, unless a reference says"
    )
    source: Source = Field(
        default=Source.AUTO, description="`block`: the last `proof` block; `whole`: the whole text; `auto`: any"
    )
    derived_rules: bool = Field(
        default=True, description="allow modus tollens, disjunctive and hypothetical syllogism, and A to ¬¬A"
    )
    max_lines: int = Field(default=200, ge=1, le=10_000, description="lines of a derivation")
    max_depth: int = Field(default=20, ge=0, le=100, description="subproofs within each other")
    max_chars: int = Field(default=20_000, ge=1, description="characters of a derivation")


class ProofVerifier:
    """Checks each step of a derivation; the theorem always comes from the reference."""

    name: ClassVar[str] = "proof"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = ProofConfig

    def __init__(self, config: ProofConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for a text that is no theorem, and for a theorem that has no derivation."""
        check_provable(read_theorem(reference), self.config.logic)

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict on any item: steps are checked, and nothing is searched."""
        return self._verify(reference, completion)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if every step is right and the last line is the conclusion, with no assumption open."""
        return self._verify(prompt.reference, completion)

    def _verify(self, reference: Json, completion: Completion) -> Verdict:
        theorem = self._theorem(reference)
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        found = block_text(_answer_in(text), "proof", source=self.config.source)
        if found is None:
            return verdict(self, Status.UNPARSED, "there is no closed `proof` block")
        if len(found) > self.config.max_chars:
            return verdict(self, Status.UNPARSED, f"the derivation has more than {self.config.max_chars} characters")
        shown = found[:_SHOWN_CHARS]
        try:
            lines = read_lines(found, max_lines=self.config.max_lines)
        except Unreadable as error:
            return verdict(self, Status.UNPARSED, str(error), extracted=shown)
        try:
            check_derivation(
                lines,
                theorem,
                logic=self.config.logic,
                max_depth=self.config.max_depth,
                derived_rules=self.config.derived_rules,
            )
        except Invalid as error:
            return verdict(self, Status.FAIL, str(error), extracted=shown)
        return verdict(self, Status.PASS, f"{len(lines)} lines derive {theorem}", extracted=shown)

    def _theorem(self, reference: Json) -> Theorem:
        key = json.dumps(reference, sort_keys=True)
        cache = self.context.cache
        if key not in cache:
            if len(cache) >= _MAX_CACHED:
                cache.clear()
            cache[key] = read_theorem(reference)
        return cache[key]


def _answer_in(text: str) -> str:
    """The content of the last `<answer>`; the whole text if there is none; "" if it was never closed."""
    start = text.rfind(_OPENING)
    if start < 0:
        return text
    end = text.find(_CLOSING, start)
    return text[start + len(_OPENING) : end] if end >= 0 else ""
