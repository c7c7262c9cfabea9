"""`reward_model`: a sequence-classification model scores a completion, without a reference.

For qualities that no program can check. A reward model can be gamed: a policy that is optimised against it finds texts
that it likes and people do not, so prefer it as a `shadow` check, or with a small weight next to a verifier of the
answer. What is prevented: that a completion ends its own turn with control tokens, is cut without notice, or gets
another score because of the completions that were scored with it.
"""

from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.errors import ConfigError
from rlvr.plugin import VerifierContext, verdict
from rlvr.protocols import Execution
from rlvr.records import Completion, Json, Prompt, Status, Verdict
from rlvr_verifiers.reward_model.process import Loaded, ScoredPair, SharedProcesses
from rlvr_verifiers.reward_model.scores import ScoreKind, output_index, score_of

_DEADLINES = 4  # an answer of the process may take as long as this many items
_SHOWN_CHARS = 300
_PROCESSES = SharedProcesses()


class Dtype(StrEnum):
    """The floating-point type of the model's weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class TooLong(StrEnum):
    """The outcome for a completion that is longer than the model can take: a zero, or no verdict."""

    FAIL = "fail"
    ERROR = "error"


class RewardModelConfig(BaseModel):
    """Settings of `reward_model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="a folder with the model and its tokenizer, or its name on the hub")
    revision: str = Field("", description="a branch, tag or commit on the hub; empty: the newest")
    dtype: Dtype = Field(Dtype.FLOAT32, description="type of the weights: `float32`, `bfloat16` or `float16`")
    device: str = Field(
        "cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda` or `cuda:N`, a GPU with free memory"
    )
    label: str = Field("", description="the output that counts, by name or number; empty if there is only one")
    scores: ScoreKind = Field(
        ScoreKind.SIGMOID, description="the score: `sigmoid` of the output, or its `softmax` share among all outputs"
    )
    temperature: float = Field(
        1.0, gt=0.0, allow_inf_nan=False, description="outputs are divided by it; above 1 for a model that is too sure"
    )
    offset: float = Field(
        0.0, allow_inf_nan=False, description="subtracted from the output first: the output whose sigmoid shall be 0.5"
    )
    pass_score: float = Field(0.5, gt=0.0, le=1.0, description="a score of at least this is a PASS")
    max_input_tokens: int = Field(
        0, ge=0, description="longest input, prompt and completion together; 0: what the model can take"
    )
    too_long: TooLong = Field(
        TooLong.FAIL,
        description="a longer completion is a `fail` with score 0, or an `error`; a longer prompt is always an error",
    )
    text_template: str = Field(
        "", description="for a model without chat template: a text with `{prompt}` and `{completion}`"
    )
    after: str = Field("", description="only the text after its last occurrence is scored, for example `</think>`")
    batch_size: int = Field(
        1, ge=1, description="completions computed together, always padded to this number; 1 on a CPU, more on a GPU"
    )
    threads: int = Field(4, ge=1, description="CPU threads of the model; another number may change the last digits")
    load_deadline_s: float = Field(600.0, gt=0.0, description="seconds that loading the model may take")

    @model_validator(mode="after")
    def _check(self) -> "RewardModelConfig":
        if self.text_template and "{completion}" not in self.text_template:
            raise ValueError("text_template has no {completion}: the model would not see what it scores")
        return self


class RewardModelVerifier:
    """A reward model's opinion of the completion, as a score in [0, 1]; it compares nothing with the reference."""

    name: ClassVar[str] = "reward_model"
    version: ClassVar[str] = "1"
    execution: ClassVar[Execution] = Execution.ASYNC
    partial_credit: ClassVar[float] = 1.0  # no score of a reward model says that an answer is right
    Config: ClassVar[type[BaseModel]] = RewardModelConfig

    def __init__(self, config: RewardModelConfig, context: VerifierContext) -> None:
        self.config = config
        if config.path.startswith((".", "/", "~")) and not Path(config.path).is_dir():
            raise ConfigError(f"reward model {config.path!r} is not a folder on this machine")
        self.max_open = 4 * config.batch_size
        self._is_closed = False
        self._process = _PROCESSES.take(
            {
                "path": config.path,
                "revision": config.revision,
                "dtype": config.dtype.value,
                "device": config.device,
                "max_input_tokens": config.max_input_tokens,
                "text_template": config.text_template,
                "batch_size": config.batch_size,
                "threads": config.threads,
            },
            load_deadline_s=config.load_deadline_s,
            score_deadline_s=_DEADLINES * context.deadline_s,
        )

    async def ready(self) -> Loaded:
        """Waits until the model is loaded. Raises ConfigError if it cannot be used, VerifierError if it was lost."""
        loaded = await self._process.ready()
        self._index(loaded)
        return loaded

    def close(self) -> None:
        """Ends the model's process, unless another check uses it."""
        if not self._is_closed:
            self._is_closed = True
            _PROCESSES.give_back(self._process)

    async def verify(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The score of the completion. Raises VerifierError or ConfigError, which give an ERROR, if there is none."""
        shown = completion.text
        if self.config.after:
            _, found, shown = shown.rpartition(self.config.after)
            if not found:
                return verdict(self, Status.UNPARSED, f"{self.config.after!r} does not occur")
        shown = shown.strip()
        if not any(character.isalnum() for character in shown):
            return verdict(self, Status.UNPARSED, "there is no letter and no digit to score")
        loaded = await self.ready()
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        scored = await self._process.score(messages or [{"role": "user", "content": prompt.text}], shown)
        if scored.problem:
            return self._not_scored(scored, loaded)
        index = self._index(loaded)
        score = score_of(
            scored.logits,
            index,
            kind=self.config.scores,
            temperature=self.config.temperature,
            offset=self.config.offset,
        )
        details: dict[str, Json] = {"logit": scored.logits[index], "num_tokens": scored.num_tokens}
        status = Status.PASS if score >= self.config.pass_score else Status.FAIL
        reason = f"the reward model gives {score:.4f} (PASS from {self.config.pass_score:g})"
        return verdict(self, status, reason, score=score, extracted=shown[-_SHOWN_CHARS:], details=details)

    def _index(self, loaded: Loaded) -> int:
        try:
            return output_index(self.config.label, loaded.labels)
        except ValueError as error:
            raise ConfigError(f"reward model {self.config.path!r}: {error}") from error

    def _not_scored(self, scored: ScoredPair, loaded: Loaded) -> Verdict:
        """The outcome for a pair that the model did not see; never the score of a part of it."""
        details: dict[str, Json] = {"problem": scored.problem, "num_tokens": scored.num_tokens}
        if scored.problem == "control_token":
            reason = "the completion spells a control token of the reward model, so it was not scored"
            return verdict(self, Status.FAIL, reason, details=details)
        limit = loaded.max_input_tokens
        reason = f"prompt and completion have {scored.num_tokens:,} tokens; the reward model takes {limit:,}"
        if self.config.too_long is TooLong.FAIL and scored.problem == "too_long":
            return verdict(self, Status.FAIL, reason, details=details)
        if scored.problem == "prompt_too_long":
            reason = f"the prompt alone is too long: {reason}"
        return verdict(self, Status.ERROR, reason, details=details)
