"""The recipe as pydantic models: one key, one meaning, the unit in the name.

Defaults are the tested settings; a recipe holds only what differs. Three numbers set the batch:
`rollout.prompts_per_step`, `rollout.group_size`, `learner.minibatches_per_step`; all else is derived
(`rlvr.config.derived`).
"""

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, model_validator

from rlvr.config.messages.contradictions import contradictions
from rlvr.config.presets import with_preset
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.config.sections.cluster import Backend, ClusterConfig, Placement
from rlvr.config.sections.data import (
    CheckConfig,
    DataConfig,
    DataSource,
    DifficultyConfig,
    Layout,
    Template,
    source_name,
)
from rlvr.config.sections.engines import EngineKind, EngineTraits, PluginEngine
from rlvr.config.sections.learner import LearnerConfig
from rlvr.config.sections.model import LoraConfig, ModelConfig, TinyModel
from rlvr.config.sections.proof import ProofConfig
from rlvr.config.sections.rollout import EngineDtype, RewardConfig, RolloutConfig, Truncated
from rlvr.config.sections.section import Changeable, NonNegativeInt, Positive, PositiveInt, Section
from rlvr.telemetry.redaction import got

__all__ = [
    "Backend", "CheckConfig", "ClusterConfig", "ColdStartConfig", "DataConfig", "DataSource", "DifficultyConfig",
    "EngineDtype", "EngineKind", "EngineTraits", "Layout", "LoraConfig", "ModelConfig", "Placement", "PluginEngine",
    "ProofConfig", "Recipe", "RewardConfig", "RolloutConfig", "RunConfig", "SandboxConfig", "Template", "TinyModel",
    "TrackerKind", "Truncated", "source_name",
]  # fmt: skip


class SandboxConfig(Section):
    """Where model-written programs run; used only if a verifier needs it.

    backend: auto (the strongest that works here; without one the run does not start), a registered sandbox, or
        package.module:attribute.
    settings: of that backend; `rlvr sandboxes show NAME` lists them.
    """

    backend: str = Field(default="auto", min_length=1)
    settings: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])


class ColdStartConfig(Section):
    """A supervised stage before RL on the demonstrations of a generator. steps 0 = none."""

    steps: NonNegativeInt = 0
    batch_size: PositiveInt = 128
    lr: Positive = 1e-3
    lr_warmup_steps: NonNegativeInt = 50


class TrackerKind(StrEnum):
    """Where metrics go in addition to metrics.jsonl."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"


class RunConfig(Section):
    """Length, intervals and limits of the run. An interval of 0 means never; the last step always evaluates and saves.

    alarm_after_steps: consecutive steps in which nothing is learned, every reward is 0 or most completions are cut off
        before the run raises an alarm (0 = no alarms).
    max_hours: after this time the run finishes its step, saves and ends with exit code 130, and can be resumed; the
        hours of a resumed run start at 0. null: no limit.
    grace_s: seconds that the run has after SIGTERM to finish its step and save, or after a second Ctrl-C to end.
    """

    steps: PositiveInt = 100
    eval_every_steps: NonNegativeInt = 0
    eval_prompts: PositiveInt = 200
    eval_prompts_between: NonNegativeInt = 0
    checkpoint_every_steps: NonNegativeInt = 0
    keep_checkpoints: PositiveInt = 2
    show_rollout_every_steps: NonNegativeInt = 10
    alarm_after_steps: NonNegativeInt = 5
    metrics_port: Annotated[
        int,
        Field(
            ge=0,
            le=65535,
            description="port on which every node serves the run's metrics to Prometheus, on its private address, or "
            "on loopback on one machine; 0 serves none",
        ),
    ] = 0
    trackers: list[TrackerKind] = Field(default_factory=lambda: [TrackerKind.TENSORBOARD])
    max_hours: Annotated[
        Positive | None,
        Field(description="hours after which the run saves and ends with exit code 130; null is no limit"),
    ] = None
    grace_s: Annotated[
        Positive,
        Field(
            description="seconds in which the run ends after SIGTERM or a second Ctrl-C, dropping its step if necessary"
        ),
    ] = 30.0


def _name_of_files(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise ValueError(f"must be letters, digits, '.', '_' and '-', beginning with a letter or digit{got(text)}")
    return text


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, Field(max_length=100), AfterValidator(_name_of_files)]
    description: Changeable[str] = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    sandbox: Changeable[SandboxConfig] = SandboxConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    cold_start: ColdStartConfig = ColdStartConfig()
    run: Changeable[RunConfig] = RunConfig()
    proof: ProofConfig = ProofConfig()
    cluster: Changeable[ClusterConfig] = ClusterConfig()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        return with_preset(values, model=cls)

    @model_validator(mode="after")
    def _cross(self) -> "Recipe":
        # A plugin engine is not imported here: `require_engine` asks again with what it declares.
        engine = self.rollout.engine
        traits = engine.traits if isinstance(engine, EngineKind) else EngineTraits()
        problems = self.contradictions(traits)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def contradictions(self, traits: EngineTraits) -> list[str]:
        """One message for each pair of keys that cannot both hold with an engine of these traits."""
        return contradictions(
            lora=self.model.lora,
            data=self.data,
            rollout=self.rollout,
            reward=self.reward,
            algorithm=self.algorithm,
            learner=self.learner,
            cluster=self.cluster,
            traits=traits,
        )

    @property
    def sends_adapters(self) -> bool:
        """Whether engines get the base weights once and then only the adapters."""
        lora = self.model.lora
        return lora.sends_alone and lora.rank > 0
