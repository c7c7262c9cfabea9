"""`format`: whether a completion has the required tags and language and does not repeat itself."""

import math
from enum import StrEnum
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.text_format.language import SCRIPTS, script_share
from rlvr_verifiers.text_format.repetition import repeated_share
from rlvr_verifiers.text_format.tags import TagRules, tag_problem, without_tags

_MAX_CHARS = 2_000_000
_PARTS = ("tags", "language", "repetition")


class Score(StrEnum):
    """How the parts make a score."""

    ALL = "all"  # 1 if every part passes, else 0
    MEAN = "mean"  # the mean of the parts' scores, by `weights`


class FormatConfig(BaseModel):
    """The parts of `format`; a part without a setting is not checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tags: tuple[str, ...] = Field(
        ("think", "answer"),
        max_length=20,
        description="names of tags, each exactly once and in this order; [] for none",
    )
    allow_outside: bool = Field(False, description="text outside the tags is allowed")
    allow_empty: bool = Field(False, description="a tagged section may be empty")
    starts_inside: bool = Field(
        False, description="the prompt ends with the first opening tag, so the completion need not have it"
    )
    script: str = Field("", description="the script of the letters, such as `latin`, `cyrillic`, `han`; empty: any")
    min_script_share: float = Field(0.9, gt=0.0, le=1.0, description="the least share of letters in `script`")
    max_repeated_share: float = Field(
        1.0, ge=0.0, le=1.0, description="the greatest share of n-grams that repeat earlier ones; 1: any"
    )
    ngram: int = Field(4, ge=1, le=50, description="words of an n-gram")
    score: Score = Field(Score.ALL, description="`all`: 1 if every part passes; `mean`: the mean of the parts")
    weights: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="weights of `tags`, `language` and `repetition` for `mean` (1 each)",
    )

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for name in tags:
            if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
                raise ValueError(f"tag {name!r} must be a name without brackets, of letters, digits, _ and -")
        if len(set(tags)) < len(tags):
            raise ValueError(f"tags={list(tags)!r}: each tag is required exactly once")
        return tags

    @field_validator("script")
    @classmethod
    def _check_script(cls, script: str) -> str:
        if script and script not in SCRIPTS:
            raise ValueError(f"script={script!r} is none of {', '.join(SCRIPTS)}")
        return script

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if name not in _PARTS:
                raise ValueError(f"weights has {name!r}; the parts are {', '.join(_PARTS)}")
            if not math.isfinite(weight) or weight < 0.0:
                raise ValueError(f"the weight {weight} of {name} is not a number from 0 up")
        return weights

    @model_validator(mode="after")
    def _check_parts(self) -> "FormatConfig":
        if not self.parts:
            raise ValueError("nothing is checked; set tags, script or max_repeated_share")
        if self.weights and self.score is Score.ALL:
            raise ValueError("weights go with score: mean")
        if self.score is Score.MEAN and not any(self.weights.get(name, 1.0) for name in self.parts):
            raise ValueError("the weights of all checked parts are 0")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are checked."""
        is_on = {"tags": bool(self.tags), "language": bool(self.script), "repetition": self.max_repeated_share < 1.0}
        return tuple(name for name in _PARTS if is_on[name])


class FormatVerifier:
    """Checks tags, language and repetition of the whole completion, thinking included; it needs no reference.

    Every well-formed text passes, right or wrong, so an audit takes the whole score as partial credit.
    """

    name: ClassVar[str] = "format"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.PROCESS
    partial_credit: ClassVar[float] = 1.0
    Config: ClassVar[type[BaseModel]] = FormatConfig

    def __init__(self, config: FormatConfig, context: VerifierContext) -> None:
        self.config = config
        self.context = context
        self._rules = TagRules(
            allow_outside=config.allow_outside, allow_empty=config.allow_empty, starts_inside=config.starts_inside
        )

    def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """PASS if every part passes; with `score: mean` a FAIL earns the weighted mean of the parts' scores.

        `details` has the score of each part (`tags`, `language`, `repetition`: 0 or 1) and the measured shares.
        """
        text = completion.text
        if not text.strip() or len(text) > _MAX_CHARS:
            reason = f"the completion has more than {_MAX_CHARS:,} characters" if text.strip() else "empty completion"
            return verdict(self, Status.FAIL, reason, details=dict.fromkeys(self.config.parts, 0.0))
        details: dict[str, Json] = {}
        problems: list[str] = []
        checks = {"tags": self._tags, "language": self._language, "repetition": self._repetition}
        for name in self.config.parts:
            problem = checks[name](text, details)
            details[name] = 0.0 if problem else 1.0
            problems += [problem] if problem else []
        if not problems:
            return verdict(self, Status.PASS, "the format is as required", details=details)
        return verdict(self, Status.FAIL, "; ".join(problems), score=self._score(details), details=details)

    def _score(self, details: dict[str, Json]) -> float:
        if self.config.score is Score.ALL:
            return 0.0
        weights = {name: self.config.weights.get(name, 1.0) for name in self.config.parts}
        return sum(weight * details[name] for name, weight in weights.items()) / sum(weights.values())

    def _tags(self, text: str, details: dict[str, Json]) -> str:
        return tag_problem(text, self.config.tags, self._rules)

    def _language(self, text: str, details: dict[str, Json]) -> str:
        share = script_share(without_tags(text, self.config.tags), self.config.script)
        details["script_share"] = share
        if share is None:
            return ""
        is_enough = share >= self.config.min_script_share
        return "" if is_enough else f"{share:.0%} of the letters are {self.config.script}"

    def _repetition(self, text: str, details: dict[str, Json]) -> str:
        share = repeated_share(without_tags(text, self.config.tags), self.config.ngram)
        details["repeated_share"] = share
        is_low = share <= self.config.max_repeated_share
        return "" if is_low else f"{share:.0%} of the {self.config.ngram}-grams repeat earlier ones"
