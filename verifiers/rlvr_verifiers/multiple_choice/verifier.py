"""`choice`: whether a completion chooses the right option of a multiple-choice question."""

from functools import lru_cache
from typing import ClassVar

from pydantic import BaseModel, Field

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, FinishReason, Json, Prompt, Status, Verdict
from rlvr_verifiers.choices import Form
from rlvr_verifiers.multiple_choice.options import Options, gold_label, options_of, reference_answer, reference_options
from rlvr_verifiers.multiple_choice.reading import AnswerReader
from rlvr_verifiers.thinking import NEVER_CLOSED, ThinkingConfig


class ChoiceConfig(ThinkingConfig):
    """Where `choice` finds the options, and what counts as an answer."""

    column: str = Field(
        "", description="the column with the options; empty: `options`, `choices`, or the prompt's list"
    )
    answer_key: str = Field(
        "", description="where the reference is a whole row, the key of its answer; empty: `answer`, `answerKey`, ..."
    )
    first_index: int = Field(
        0, ge=0, le=1, description="the index of the first option, for references that are numbers"
    )
    letters: str = Field(
        "ABCD", pattern=r"^[A-Z]{2,26}$", description="the letters of the options where a row shows no options"
    )
    ignore_case: bool = Field(False, description="a lower-case letter is an answer too")
    hash_marks: bool = Field(True, description="without a box, read `#### B`")
    final_answer: bool = Field(True, description="without a box, read `Answer: B` and `<answer>B</answer>`")
    the_answer_is: bool = Field(True, description="without a box, read `the answer is B`, `I choose B`, `B is correct`")
    whole_text: bool = Field(
        True, description="without a box, read a text or a last line that is only a letter or the text of an option"
    )

    @property
    def forms(self) -> frozenset[Form]:
        """The forms of an answer that count."""
        switches: dict[Form, bool] = {
            Form.BOX: True,
            Form.HASH_MARKS: self.hash_marks,
            Form.TAG: self.final_answer,
            Form.LABEL: self.final_answer,
            Form.SENTENCE: self.the_answer_is,
            Form.LAST_LINE: self.whole_text,
        }
        return frozenset(form for form, is_on in switches.items() if is_on)


class ChoiceVerifier:
    """Compares the last stated option, by letter or by text, with the right one."""

    name: ClassVar[str] = "choice"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    Config: ClassVar[type[BaseModel]] = ChoiceConfig

    def __init__(self, config: ChoiceConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._thinking = config.thinking
        forms = config.forms

        @lru_cache(maxsize=256)
        def reader(options: Options) -> AnswerReader:
            return AnswerReader(options, ignore_case=config.ignore_case, forms=forms)

        self._reader = reader

    def parse_reference(self, reference: Json) -> None:
        """Raises ValueError for an answer that no completion can match.

        A whole row is checked against its options; an answer alone only for its type, because its options are in the
        prompt or in another column.
        """
        options = reference_options(reference, self.config.column)
        answer = reference_answer(reference, self.config.answer_key)
        if options is not None:
            gold_label(answer, options, first_index=self.config.first_index)
        elif isinstance(answer, bool) or not isinstance(answer, (str, int)) or not str(answer).strip():
            raise ValueError(f"{answer!r:.200} is not a letter, an index or the text of an option")

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if the completion states the right option and no other; UNPARSED if it states none.

        Raises: ValueError if the reference is none of the options that the prompt or the column gives.
        """
        config = self.config
        options = reference_options(prompt.reference, config.column) or options_of(prompt, config.column)
        answer = reference_answer(prompt.reference, config.answer_key)
        gold = gold_label(answer, options or Options(config.letters, ()), first_index=config.first_index)
        text = self._thinking.answer_of(completion.text)
        if text is None:
            return verdict(self, Status.UNPARSED, NEVER_CLOSED)
        is_cut = completion.finish_reason is not FinishReason.STOP
        reading = self._reader(options or Options(config.letters, ())).read(text, is_cut=is_cut)
        if reading.form is None:
            return verdict(self, Status.UNPARSED, "the completion states no option as its answer")
        details: dict[str, Json] = {"origin": str(reading.form)}
        named = " and ".join(sorted(reading.keys))
        if len(reading.keys) != 1:
            reason = f"the completion names {named} as its answer" if named else "the completion leaves its answer open"
            return verdict(self, Status.FAIL, reason, extracted=reading.shown, details=details)
        is_right = reading.keys == {gold}
        reason = f"the completion chooses {named}" + ("" if is_right else f", and the answer is {gold}")
        return verdict(self, Status.PASS if is_right else Status.FAIL, reason, extracted=named, details=details)
