"""`logic`: whether an answer solves a knights-and-knaves puzzle or satisfies the constraints of a puzzle."""

import json
from typing import ClassVar

from pydantic import BaseModel, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers.puzzles.answers import Contradiction, RoleWords, Unreadable, answer_region, read_roles, read_values
from rlvr_verifiers.puzzles.expressions import Value
from rlvr_verifiers.puzzles.references import Puzzle, check_solvable, parse_puzzle
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_MAX_CACHED = 1_000
_SHOWN_CHARS = 500


class LogicConfig(ThinkingConfig):
    """What `logic` reads as an answer."""

    knight_words: tuple[str, ...] = Field(
        ("knight", "truth-teller", "truth teller"), min_length=1, description="words for a person who tells the truth"
    )
    knave_words: tuple[str, ...] = Field(("knave", "liar"), min_length=1, description="words for a person who lies")
    final_answer: bool = Field(True, description="without `<answer>` or a box, read what follows `Final answer:`")
    whole_text: bool = Field(True, description="without any of these, read the last fenced block or paragraph")


class LogicVerifier:
    """Checks an assignment of roles or values against the puzzle in the reference."""

    name: ClassVar[str] = "logic"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = LogicConfig

    def __init__(self, config: LogicConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        self._words = RoleWords(config.knight_words, config.knave_words)

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for a puzzle without a solution, or without a unique one where it must have one."""
        check_solvable(parse_puzzle(reference))

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict on any item: an answer is checked against the constraints, and nothing is solved."""
        return self._verify(reference, completion)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the answer gives everyone the right role, or values that satisfy every constraint."""
        return self._verify(prompt.reference, completion)

    def _verify(self, reference: Json, completion: Completion) -> Verdict:
        puzzle = self._puzzle(reference)
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        whole_text = self.config.whole_text and completion.finish_reason is FinishReason.STOP
        try:
            region = answer_region(text, labels=self.config.final_answer, whole_text=whole_text)
        except Unreadable as error:
            return verdict(self, Status.UNPARSED, str(error))
        shown = region[:_SHOWN_CHARS]
        values: dict[str, Value] = {}
        try:
            if puzzle.has_people:
                values.update(read_roles(region, list(puzzle.domains), self._words))
            else:
                values.update(read_values(region, puzzle.domains))
        except Unreadable as error:
            return verdict(self, Status.UNPARSED, str(error), extracted=shown)
        except Contradiction as error:
            return verdict(self, Status.FAIL, str(error), extracted=shown)
        broken = puzzle.broken(values)
        if broken:
            return verdict(self, Status.FAIL, f"the answer contradicts {broken}", extracted=shown)
        return verdict(self, Status.PASS, "the answer fits the puzzle", extracted=shown)

    def _puzzle(self, reference: Json) -> Puzzle:
        key = json.dumps(reference, sort_keys=True)
        cache = self.context.cache
        if key not in cache:
            if len(cache) >= _MAX_CACHED:
                cache.clear()
            cache[key] = parse_puzzle(reference)
        return cache[key]
