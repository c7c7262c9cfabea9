"""`text_match`: the completion, or a part of it, equals the reference as text."""

import re
from enum import StrEnum
from typing import ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict

_SHOWN_CHARS = 60
_ARTICLE = re.compile(r"\s+(?!(?:is|and|or)\b)[a-z]")  # after "A" of "A dog": no choice


class Mode(StrEnum):
    """What of the completion is compared."""

    EXACT = "exact"  # all of it
    REGEX = "regex"  # the group of the last match of `pattern`
    CHOICE = "choice"  # the last letter that stands alone


class TextMatchConfig(BaseModel):
    """Settings of `text_match`.

    ignore_case, ignore_full_stop: before comparing; white space at both ends never counts.
    pattern: for mode regex; exactly one group, the answer.
    choices: for mode choice; one letter each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = Mode.EXACT
    ignore_case: bool = False
    ignore_full_stop: bool = False
    pattern: str = ""
    choices: str = Field(default="ABCD", pattern=r"^[A-Za-z]+$")

    @model_validator(mode="after")
    def _check_pattern(self) -> "TextMatchConfig":
        if bool(self.pattern) != (self.mode is Mode.REGEX):
            raise ValueError(f"pattern={self.pattern!r} goes with mode: regex, and only with it")
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"pattern={self.pattern!r} does not compile: {error}") from error
        if self.pattern and groups != 1:
            raise ValueError(f"pattern={self.pattern!r} has {groups} groups; the answer is the one")
        return self


class TextMatchVerifier:
    """Compares text with the reference: exactly, by a regular expression, or by a choice's
    letter.
    """

    name: ClassVar[str] = "text_match"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = TextMatchConfig

    def __init__(self, config: TextMatchConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._pattern = re.compile(config.pattern)
        self._choice = _ChoiceReader(config.choices, ignore_case=config.ignore_case)

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError unless the reference is text, a whole number, or a list of those."""
        for accepted in _accepted(reference):
            if self.config.mode is Mode.CHOICE and not self._choice.is_choice(accepted):
                raise ValueError(f"{accepted!r} is not one of the choices {self.config.choices!r}")

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """Settles mode exact, which is one comparison; a pattern may take long and goes to a
        worker.
        """
        if self.config.mode is not Mode.EXACT:
            return None
        return self._compare(completion.text, reference)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS when the extracted text equals an accepted reference; UNPARSED when there is
        none.
        """
        reference = prompt.reference
        if self.config.mode is Mode.EXACT:
            return self._compare(completion.text, reference)
        if self.config.mode is Mode.REGEX:
            answer: str | None = None
            for match in self._pattern.finditer(completion.text):
                answer = match.group(1) if match.group(1) is not None else answer
            if answer is None:
                reason = f"nothing in the completion matches {self.config.pattern!r}"
                return verdict(self, Status.UNPARSED, reason)
            return self._compare(answer, reference)
        letters = self._choice.read(completion.text)
        if len(letters) != 1:
            found = " and ".join(sorted(letters))
            reason = (
                f"the completion ends with several choices: {found}" if letters else "no choice"
            )
            return verdict(self, Status.UNPARSED, reason, extracted=found or None)
        return self._compare(letters.pop(), reference)

    def _compare(self, answer: str, reference: Json) -> Verdict:
        accepted = _accepted(reference)
        is_equal = self._normal(answer) in {self._normal(text) for text in accepted}
        relation = "equals" if is_equal else "is not"
        reason = f"{_shown(answer.strip())} {relation} {' or '.join(map(_shown, accepted))}"
        status = Status.PASS if is_equal else Status.FAIL
        return verdict(self, status, reason, extracted=answer.strip())

    def _normal(self, text: str) -> str:
        text = text.strip()
        if self.config.ignore_full_stop:
            text = text.removesuffix(".").rstrip()
        is_caseless = self.config.ignore_case or self.config.mode is Mode.CHOICE
        return text.casefold() if is_caseless else text


class _ChoiceReader:
    """Reads a choice's letter; a stronger form (a box, "the answer is") beats a weaker one."""

    def __init__(self, choices: str, *, ignore_case: bool) -> None:
        self.choices = choices.upper()
        letter = f"[{choices}{choices.swapcase() if ignore_case else ''}]"
        alone = rf"(?<![A-Za-z0-9'\\])\(?({letter})\)?(?![A-Za-z0-9'])"
        self._letter = re.compile(alone)
        # `answer` itself may be written in any case, the letter only with ignore_case
        words = r"(?i:answer|choice|option)\W{0,4}(?i:is|:)?[\s:*$(\[]{0,6}"
        answer_is = rf"{words}{letter}(?![A-Za-z0-9'])"
        self._forms = (
            re.compile(r"\\boxed\s*\{(?:[^{}]|\{[^{}]*\})*\}"),
            re.compile(answer_is),
            re.compile(rf"(?<![A-Za-z0-9])(?:\({letter}\)|{letter}[.):](?=\s|$))"),
            re.compile(rf"(?m)^[\s*$]*{letter}[\s*$.]*$"),
        )

    def is_choice(self, text: str) -> bool:
        """Whether the text is one of the letters."""
        return len(text.strip()) == 1 and text.strip().upper() in self.choices

    def read(self, text: str) -> set[str]:
        """The letters of the last statement that names any, in upper case."""
        text = text.strip()
        for form in self._forms:
            last = None
            for match in form.finditer(text):
                last = match
            if last is not None:
                return self._letters(text[last.start() : _statement_end(text, last.end())])
        last_line = _unwrap(text[text.rfind("\n") + 1 :])
        return {
            match.group(1).upper()
            for match in self._letter.finditer(last_line)
            if not _ARTICLE.match(last_line, match.end())
        }

    def _letters(self, statement: str) -> set[str]:
        return {match.group(1).upper() for match in self._letter.finditer(_unwrap(statement))}


def _unwrap(statement: str) -> str:
    """Without LaTeX commands, whose braces would hide a letter."""
    return re.sub(r"\\[A-Za-z]+\s*\{?", " ", statement)


def _statement_end(text: str, start: int) -> int:
    """Where the sentence that goes on at `start` ends."""
    end = re.compile(r"[.!?;](?=\s|$)|\n").search(text, start)
    return end.start() if end else len(text)


def _accepted(reference: Json) -> list[str]:
    """The accepted texts. Raises ValueError on any other kind of reference."""
    items = cast("list[Json]", reference) if isinstance(reference, list) else [reference]
    if not items or any(
        isinstance(item, bool) or not isinstance(item, (str, int)) for item in items
    ):
        raise ValueError(f"{reference!r} is not a text, a whole number or a list of those")
    return [str(item) for item in items]


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
