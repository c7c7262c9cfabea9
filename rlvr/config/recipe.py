"""The recipe as pydantic models: one key, one meaning, the unit in the name.

Defaults are the vetted setting; a recipe holds only what differs. Three numbers set the batch:
`rollout.prompts_per_step`, `rollout.group_size`, `learner.minibatches_per_step`; all else is derived
(`rlvr.config.derived`).
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlvr.records import Role

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A part of the recipe: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TinyModel(Section):
    """A small Llama with random weights and a character tokenizer, built in a second; for tests and laptops."""

    layers: PositiveInt = 2
    hidden_size: PositiveInt = 128
    heads: PositiveInt = 4
    intermediate_size: PositiveInt = 384
    max_positions: PositiveInt = 256
    characters: str = "0123456789+-*/=:() "

    @model_validator(mode="after")
    def _check(self) -> "TinyModel":
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by heads={self.heads}"
            )
        if len(set(self.characters)) != len(self.characters) or not self.characters:
            raise ValueError(f"characters={self.characters!r} must be distinct and not empty")
        return self


class ModelConfig(Section):
    """The policy: `path` (hub name, folder, file.gguf, or package:NAME/FILE) or `tiny`, exactly one."""

    path: str = ""
    tiny: TinyModel | None = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _one(self) -> "ModelConfig":
        if bool(self.path) == (self.tiny is not None):
            raise ValueError(
                "set exactly one of model.path (a hub name, a folder, a GGUF file or package:NAME/FILE) and model.tiny"
            )
        return self


class Template(StrEnum):
    """How a question becomes the policy's prompt."""

    CHAT = "chat"  # the tokenizer's chat template
    PLAIN = "plain"  # the question as it is
    R1_ZERO = "r1_zero"  # a conversation with <think> and <answer> tags, for base models


class CheckConfig(Section):
    """One verification: which verifier, its settings, and what its verdict does."""

    verifier: str
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    role: Role = Role.REWARD
    weight: NonNegative = 1.0


class DataSource(Section):
    """One source of prompts.

    source: a file (.jsonl, .json, .parquet, each also .gz), a folder of them, a hub name, or generator:NAME.
    name: names it in metrics (`eval/<name>/...`); default is made from source.
    split: which part of a hub data set, or of a generator: train, dev and test never share a problem.
    columns: which column holds what: prompt, reference, id (others are kept as tags).
    reference_pattern: a regular expression; its first group, searched in the reference column, is the reference.
    prompt_format: text around the question; {prompt} and any column may stand in it.
    assistant_prefix: text that begins the answer for the policy; columns may stand in it.
    settings: of a generator. limit: use only so many rows (0 = all).
    """

    source: str
    name: str = ""
    subset: str = ""
    split: str = "train"
    columns: dict[str, str] = Field(
        default_factory=lambda: {"prompt": "prompt", "reference": "reference"}
    )
    reference_pattern: str = ""
    template: Template = Template.CHAT
    system_prompt: str = ""
    prompt_format: str = "{prompt}"
    assistant_prefix: str = ""
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    verifier: str = ""
    verifier_settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    checks: dict[str, CheckConfig] = Field(default_factory=dict[str, CheckConfig])
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    limit: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_way(self) -> "DataSource":
        if bool(self.verifier) == bool(self.checks):
            raise ValueError(
                f"source {self.source!r} needs `verifier:` (one check) or `checks:` (several), exactly one"
            )
        if self.verifier_settings and not self.verifier:
            raise ValueError(
                f"source {self.source!r}: verifier_settings go with `verifier:`; in `checks:` use settings"
            )
        roles = {check.role for check in self.all_checks.values()}
        if Role.REWARD not in roles:
            raise ValueError(
                f"source {self.source!r} has no check with role reward: nothing would be rewarded"
            )
        return self

    @property
    def all_checks(self) -> dict[str, CheckConfig]:
        """The checks by name; `verifier:` is short for one named after the verifier."""
        if self.checks:
            return dict(self.checks)
        short = self.verifier.rpartition(":")[2]
        return {short: CheckConfig(verifier=self.verifier, settings=self.verifier_settings)}


class DataConfig(Section):
    """Where prompts come from. Train prompts longer than max_prompt_tokens are dropped and counted, never cut."""

    train: list[DataSource] = Field(min_length=1)
    eval: list[DataSource] = Field(default_factory=list[DataSource])
    max_prompt_tokens: PositiveInt = 1024
    shuffle: bool = True


class EngineKind(StrEnum):
    """Which rollout engine generates."""

    TRANSFORMERS = "transformers"
    TOY = "toy"


class EngineDtype(StrEnum):
    """The transformers engine's weights: the learner's own tensors, or a bfloat16 copy refreshed at each publish."""

    SHARED = "shared"
    BFLOAT16 = "bfloat16"


class RolloutConfig(Section):
    """How completions are generated. `max_batch_rows` bounds the rows decoded at once (memory, not mathematics)."""

    engine: EngineKind = EngineKind.TRANSFORMERS
    engine_dtype: EngineDtype = EngineDtype.SHARED
    prompts_per_step: PositiveInt = 8
    group_size: PositiveInt = 8
    max_completion_tokens: PositiveInt = 256
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    stop_strings: list[str] = Field(default_factory=list[str])
    max_batch_rows: PositiveInt = 256


class Truncated(StrEnum):
    """What a completion earns that hit the length limit: nothing, or what its verifier says."""

    ZERO = "zero"
    JUDGE = "judge"


class RewardConfig(Section):
    """From verdicts to a reward. max_error_rate: the run stops when verifier errors stay above it for 3 steps."""

    unparsed_score: Fraction = 0.0
    truncated: Truncated = Truncated.ZERO
    verifier_workers: PositiveInt = 2
    verifier_deadline_s: Annotated[float, Field(gt=0.0)] = 5.0
    max_error_rate: Fraction = 0.2


class AdvantageKind(StrEnum):
    """How rewards become advantages."""

    GRPO = "grpo"  # minus the group's mean, over its standard deviation


class Aggregation(StrEnum):
    """How token losses become one number."""

    TOKEN_MEAN = "token_mean"  # over all loss tokens of the minibatch
    SEQUENCE_MEAN = "sequence_mean"  # mean over each completion's tokens, then over completions
    CONSTANT_LENGTH = (
        "constant_length"  # sum over tokens / max_completion_tokens, mean over completions
    )


class KlEstimator(StrEnum):
    """Schulman's estimators of KL(policy || reference)."""

    K1 = "k1"
    K2 = "k2"
    K3 = "k3"


class AlgorithmConfig(Section):
    """The mathematics of the update."""

    advantage: AdvantageKind = AdvantageKind.GRPO
    advantage_eps: Annotated[float, Field(gt=0.0)] = 1e-4
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    clip_high: Annotated[float, Field(gt=0.0)] = 0.2
    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    kl_coef: NonNegative = 0.0
    kl_estimator: KlEstimator = KlEstimator.K3

    @model_validator(mode="after")
    def _clips(self) -> "AlgorithmConfig":
        if self.clip_high < self.clip_low:
            raise ValueError(
                f"clip_high={self.clip_high} is below clip_low={self.clip_low}; DAPO needs clip_high >= clip_low"
            )
        return self


class LearnerDtype(StrEnum):
    """Arithmetic of the forward and backward pass; master weights and optimiser state are float32."""

    FLOAT32 = "float32"
    BFLOAT16_AUTOCAST = "bfloat16_autocast"


class LearnerConfig(Section):
    """The optimiser step. micro_batch_tokens bounds memory and never changes the gradient."""

    device: str = "auto"
    dtype: LearnerDtype = LearnerDtype.BFLOAT16_AUTOCAST
    lr: Annotated[float, Field(gt=0.0)] = 1e-6
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.0
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    minibatches_per_step: PositiveInt = 1
    micro_batch_tokens: PositiveInt = 8192
    share_prompt_prefix: bool = True
    gradient_checkpointing: bool = False
    max_nonfinite_steps: Annotated[int, Field(ge=0)] = 3
    num_threads: Annotated[int, Field(ge=0)] = 0


class ColdStartConfig(Section):
    """A supervised stage before RL: imitate the demonstrations of a generator. steps 0 = none."""

    steps: Annotated[int, Field(ge=0)] = 0
    batch_size: PositiveInt = 128
    lr: Annotated[float, Field(gt=0.0)] = 1e-3
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 50


class TrackerKind(StrEnum):
    """Where metrics go beside metrics.jsonl."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"


class RunConfig(Section):
    """How long, how often, and what is kept. An interval of 0 means never; the last step always evaluates and saves."""

    steps: PositiveInt = 100
    eval_every_steps: Annotated[int, Field(ge=0)] = 0
    eval_prompts: PositiveInt = 200
    eval_prompts_between: Annotated[int, Field(ge=0)] = 0
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 0
    keep_checkpoints: PositiveInt = 2
    sample_every_steps: Annotated[int, Field(ge=0)] = 10
    trackers: list[TrackerKind] = Field(default_factory=lambda: [TrackerKind.TENSORBOARD])


class ClusterConfig(Section):
    """Where the parts run."""

    backend: Literal["local"] = "local"


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    cold_start: ColdStartConfig = ColdStartConfig()
    run: RunConfig = RunConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _cross(self) -> "Recipe":
        problems: list[str] = []
        if self.rollout.group_size < 2:
            problems.append(
                f"rollout.group_size={self.rollout.group_size}: the {self.algorithm.advantage} advantage compares the "
                "rollouts of a group and needs at least 2; 8 is usual"
            )
        if self.rollout.prompts_per_step % self.learner.minibatches_per_step:
            problems.append(
                f"learner.minibatches_per_step={self.learner.minibatches_per_step} does not divide "
                f"rollout.prompts_per_step={self.rollout.prompts_per_step}; groups are never split over minibatches"
            )
        names = [source_name(source) for source in self.data.eval]
        if len(set(names)) != len(names):
            problems.append(f"data.eval: two sources share a name: {names}; set data.eval.N.name")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def source_name(source: DataSource) -> str:
    """The name of a source in metrics and prompt ids: `name`, or the last part of `source` without endings."""
    if source.name:
        return source.name
    last = source.source.rstrip("/").rpartition("/")[2].removeprefix("generator:")
    return last.partition(".")[0] or "data"
