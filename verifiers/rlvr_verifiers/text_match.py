"""`text_match`: whether the text after the thinking, or a part of it, equals the reference."""

import re
from enum import StrEnum
from typing import ClassVar, cast

from pydantic import BaseModel, Field, model_validator

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.choices import ChoiceReader
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig

_SHOWN_CHARS = 60


class Mode(StrEnum):
    """The part of the completion that is compared."""

    EXACT = "exact"  # all of it
    REGEX = "regex"  # the group of the last match of `pattern`
    CHOICE = "choice"  # the letter of the last statement that names one


class TextMatchConfig(ThinkingConfig):
    """Settings of `text_match`.

    ignore_case, ignore_full_stop: applied before the comparison; white space at both ends never counts.
    pattern: for mode regex; it has exactly one group, the answer.
    choices: for mode choice; one letter each.
    """

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
    """Compares text with the reference: exactly, by a regular expression, or by the letter of a choice."""

    name: ClassVar[str] = "text_match"
    version: ClassVar[str] = "2"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = TextMatchConfig

    def __init__(self, config: TextMatchConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        self._pattern = re.compile(config.pattern)
        self._choice = ChoiceReader(config.choices, ignore_case=config.ignore_case)

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError unless the reference is text, a whole number, or a list of those."""
        for accepted in _accepted(reference):
            if self.config.mode is Mode.CHOICE and not self._choice.is_choice(accepted):
                raise ValueError(f"{accepted!r} is not one of the choices {self.config.choices!r}")

    def prejudge(self, reference: Json, completion: Completion) -> Verdict | None:
        """The verdict in mode exact; None otherwise, because a pattern may take long and belongs in a worker."""
        if self.config.mode is not Mode.EXACT:
            return None
        return self._exact(reference, completion)

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the extracted text equals an accepted reference; UNPARSED if there is no such text."""
        reference = prompt.reference
        if self.config.mode is Mode.EXACT:
            return self._exact(reference, completion)
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        if self.config.mode is Mode.REGEX:
            return self._regex(reference, text)
        letters = self._choice.read(text)
        if len(letters) != 1:
            found = " and ".join(sorted(letters))
            reason = f"the completion ends with several choices: {found}" if letters else "no choice"
            return verdict(self, Status.UNPARSED, reason, extracted=found or None)
        return self._compare(letters.pop(), reference)

    def _exact(self, reference: Json, completion: Completion) -> Verdict:
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        return self._compare(text, reference)

    def _regex(self, reference: Json, text: str) -> Verdict:
        answer: str | None = None
        for match in self._pattern.finditer(text):
            answer = match.group(1) if match.group(1) is not None else answer
        if answer is None:
            reason = f"nothing in the completion matches {self.config.pattern!r}"
            return verdict(self, Status.UNPARSED, reason)
        return self._compare(answer, reference)

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


def _accepted(reference: Json) -> list[str]:
    """The accepted texts. Raises ValueError on any other kind of reference."""
    items = cast("list[Json]", reference) if isinstance(reference, list) else [reference]
    if not items or any(isinstance(item, bool) or not isinstance(item, (str, int)) for item in items):
        raise ValueError(f"{reference!r} is not a text, a whole number or a list of those")
    return [str(item) for item in items]


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…")
