"""The settings of `llm_judge`, and which of them exclude each other."""

import re
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.records import Json
from rlvr_verifiers.llm_judge.questions import PAIRWISE, QUESTION, RUBRIC


class Mode(StrEnum):
    """POINTWISE judges the completion alone; PAIRWISE compares it with another answer, in both orders."""

    POINTWISE = "pointwise"
    PAIRWISE = "pairwise"


class Disagreement(StrEnum):
    """The outcome when the judge prefers another answer after the two were swapped: a TIE (score 0.5), or UNPARSED."""

    TIE = "tie"
    UNPARSED = "unparsed"


class Criterion(BaseModel):
    """One line of a rubric."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^\w[\w.-]*$", description="the name in the verdict's details")
    text: str = Field(min_length=1, description="what the answer must fulfil, as shown to the judge")
    weight: float = Field(1.0, gt=0.0, allow_inf_nan=False, description="its share of the score, relative to others")


class LlmJudgeConfig(BaseModel):
    """Settings of `llm_judge`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="the address of the server, with `/v1`")
    model: str = Field("", description="the name of the model on the server; may be empty if there is only one")
    key_env: str = Field(
        "", description="the environment variable with the API key, on every node with verifier workers"
    )
    mode: Mode = Field(Mode.POINTWISE, description="`pointwise`, or `pairwise` against another answer")
    question: str = Field(
        "",
        description="the prompt for the judge; empty: the built-in one. With `{completion}`, or with `{answer_a}` and "
        "`{answer_b}` if pairwise; also `{prompt}`, `{reference}`, `{mark}`, `{criteria}`, `{principles}`, `{scale}`",
    )
    criteria: tuple[Criterion, ...] = Field((), description="a rubric; the score is the weighted share that is met")
    principles_file: str = Field(
        "", description="a text file with one principle on each line, which the judge is given; `#` starts a comment"
    )
    baseline: str = Field("", description="pairwise: the answer to compare with, for every row")
    baseline_column: str = Field("", description="pairwise: the column with the answer to compare with")
    disagreement: Disagreement = Field(
        Disagreement.TIE, description="pairwise: the outcome when the two orders disagree, `tie` or `unparsed`"
    )
    after: str = Field("", description="only the text after its last occurrence is shown, for example `</think>`")
    max_chars: int = Field(16_000, ge=1, description="how many characters at the end of the completion are shown")
    points: int = Field(0, ge=0, le=100, description="0 asks for right or wrong; n asks for 0 to n points")
    pass_score: float = Field(
        1.0, gt=0.0, le=1.0, description="a score of at least this is a PASS; `rlvr verify --label-column` suggests one"
    )
    votes: int = Field(
        1, ge=1, description="how often the judge is asked; the majority counts, or the mean of points and comparisons"
    )
    temperature: float = Field(0.0, ge=0.0, description="the judge's sampling temperature")
    max_tokens: int = Field(1024, ge=1, description="the longest answer of the judge; a longer one is an ERROR")
    extra: dict[str, Json] = Field(
        default_factory=dict[str, Json], description="further fields of each request; null removes a field"
    )
    max_open: int = Field(32, ge=1, description="completions that are judged at once")
    cache_size: int = Field(
        10_000, ge=0, description="answers of the judge that are kept; an equal request is not sent again. 0: none"
    )
    max_calls: int = Field(0, ge=0, description="budget: requests to the judge; 0: no limit")
    max_total_tokens: int = Field(0, ge=0, description="budget: tokens of questions and answers; 0: no limit")
    max_cost: float = Field(0.0, ge=0.0, description="budget: cost by the two prices below; 0: no limit")
    prompt_price: float = Field(0.0, ge=0.0, description="cost of a million tokens of questions")
    completion_price: float = Field(0.0, ge=0.0, description="cost of a million tokens of answers")

    @property
    def template(self) -> str:
        """The prompt for the judge, with placeholders."""
        built_in = PAIRWISE if self.mode is Mode.PAIRWISE else RUBRIC if self.criteria else QUESTION
        return self.question or built_in

    @property
    def shows_reference(self) -> bool:
        """Whether the row's reference must be text, because the judge sees it."""
        is_opponent = self.mode is Mode.PAIRWISE and not (self.baseline or self.baseline_column)
        return is_opponent or "{reference}" in self.template

    @model_validator(mode="after")
    def _check(self) -> "LlmJudgeConfig":
        is_pairwise = self.mode is Mode.PAIRWISE
        for place in ("answer_a", "answer_b") if is_pairwise else ("completion",):
            if f"{{{place}}}" not in self.template:
                raise ValueError(f"question has no {{{place}}}: the judge would not see what it grades")
        for place, is_given in (("criteria", self.criteria), ("principles", self.principles_file)):
            if is_given and f"{{{place}}}" not in self.template:
                raise ValueError(f"question has no {{{place}}}: the judge would not see them")
        if self.votes > 1 and self.temperature == 0.0:
            raise ValueError(f"votes={self.votes} at temperature 0 would all be the same; set temperature: 0.7")
        if not self.points and self.votes % 2 == 0:
            raise ValueError(f"votes={self.votes} can be a tie; take an odd number")
        if (self.baseline or self.baseline_column) and not is_pairwise:
            raise ValueError("baseline and baseline_column are compared with; they need mode: pairwise")
        if self.baseline and self.baseline_column:
            raise ValueError("give baseline or baseline_column, not both")
        if sum((is_pairwise, bool(self.criteria), self.points > 0)) > 1:
            raise ValueError("mode: pairwise, criteria and points ask for different verdicts; take one of them")
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) < len(names):
            raise ValueError(f"criteria have equal names: {', '.join(names)}")
        if self.max_cost and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price and completion_price, the cost of a million tokens")
        return self


def read_principles(text: str) -> tuple[str, ...]:
    """The principles of a file, one for each line that is neither blank nor a comment.

    >>> read_principles("# honesty\\n- Say what is uncertain.\\n\\n2. Do not flatter.\\n")
    ('Say what is uncertain.', 'Do not flatter.')

    Raises: ValueError if there is none.
    """
    lines = [line.strip() for line in text.splitlines()]
    kept = [re.sub(r"^(?:[-*]|\d+[.)])\s+", "", line) for line in lines if line and not line.startswith("#")]
    if not kept:
        raise ValueError("it has no principle; write one on each line")
    return tuple(kept)
