"""The algorithm section: advantage, loss, aggregation, KL, corrections, dynamic sampling, governor.

Unions are discriminated by `kind`; `rlvr.algorithms.build` is the one place that branches on it. A preset
(`rlvr.config.presets`) is expanded into these keys before validation.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rlvr.config.sections.section import (
    Changeable,
    Fraction,
    NonNegative,
    PluginSection,
    Positive,
    PositiveInt,
    Section,
    kind_or_mapping,
)
from rlvr.importance_weights import WeightBound, WeightLevel


class Advantage(Section):
    """The properties that every advantage declares."""

    @property
    def min_judged(self) -> int:
        """The minimum number of judged rollouts in a group."""
        return 2

    @property
    def is_per_group(self) -> bool:
        """Whether a group's advantages depend on that group alone."""
        return True


class GrpoAdvantage(Advantage):
    """Reward minus the group's mean, over its standard deviation (Bessel) plus eps."""

    kind: Literal["grpo"] = "grpo"
    eps: Positive = 1e-4


class DrGrpoAdvantage(Advantage):
    """Reward minus the group's mean."""

    kind: Literal["dr_grpo"] = "dr_grpo"


class RlooAdvantage(Advantage):
    """Reward minus the mean of the others in its group."""

    kind: Literal["rloo"] = "rloo"


class Baseline(StrEnum):
    """What is subtracted before the whole batch is normalised."""

    NONE = "none"  # REINFORCE++
    GROUP = "group"  # REINFORCE++ with baseline, ScaleRL


class Weighting(StrEnum):
    """What counts once in the batch's mean and standard deviation."""

    TOKEN = "token"
    SEQUENCE = "sequence"


class BatchNormAdvantage(Advantage):
    """Reward (minus a baseline), normalised over all rollouts of the step."""

    kind: Literal["batch_norm"] = "batch_norm"
    baseline: Baseline = Baseline.GROUP
    weighting: Weighting = Weighting.SEQUENCE
    eps: Positive = 1e-8

    @property
    def min_judged(self) -> int:
        """2 if the group's mean is the baseline, else 1."""
        return 2 if self.baseline is Baseline.GROUP else 1

    @property
    def is_per_group(self) -> bool:
        """False: rewards are normalised over the batch."""
        return False


class MaxRlAdvantage(Advantage):
    """Reward minus the group's mean, over that mean."""

    kind: Literal["maxrl"] = "maxrl"
    eps: Positive = 1e-6


class GdpoAdvantage(Advantage):
    """Each check's reward normalised in its group, summed by weight, normalised over the batch."""

    kind: Literal["gdpo"] = "gdpo"
    eps: Positive = 1e-4

    @property
    def is_per_group(self) -> bool:
        """False: rewards are normalised over the batch."""
        return False


class PassAtKAdvantage(Advantage):
    """The advantage of pass@k: a group scores as the best of k of its rollouts."""

    kind: Literal["pass_at_k"] = "pass_at_k"
    k: Annotated[int, Field(ge=2)] = 4
    threshold: Fraction = 1.0

    @property
    def min_judged(self) -> int:
        """k + 1, so that a group with one pass has a baseline."""
        return self.k + 1


class PluginAdvantage(PluginSection, Advantage):
    """An advantage of another package.

    name: an entry point of `rlvr.advantages`, `package.module:function` or `path/file.py:function`.
    settings: of that function, its keyword-only parameters.
    needs_judged: minimum judged rollouts in a group. whole_batch: whether a group's advantages depend on other groups.
    """

    GROUP: ClassVar[str] = "rlvr.advantages"
    needs_judged: PositiveInt = 2
    whole_batch: bool = True

    @property
    def min_judged(self) -> int:
        """The declared minimum, `needs_judged`."""
        return self.needs_judged

    @property
    def is_per_group(self) -> bool:
        """The declared opposite of `whole_batch`."""
        return not self.whole_batch


AdvantageConfig = Annotated[
    GrpoAdvantage
    | DrGrpoAdvantage
    | RlooAdvantage
    | BatchNormAdvantage
    | MaxRlAdvantage
    | GdpoAdvantage
    | PassAtKAdvantage
    | PluginAdvantage,
    Field(discriminator="kind"),
    kind_or_mapping("grpo"),
]

ClipLow = Annotated[float, Field(gt=0.0, lt=1.0)]


class ClippedLoss(Section):
    """The clipped surrogate of PPO with two bounds; dual_clip bounds the loss where A < 0 (0 = off)."""

    kind: Literal["clipped"] = "clipped"
    clip_low: ClipLow = 0.2
    clip_high: Positive = 0.2
    dual_clip: NonNegative = 0.0

    @model_validator(mode="after")
    def _clips(self) -> "ClippedLoss":
        if self.clip_high < self.clip_low:
            raise ValueError(
                f"clip_high={self.clip_high} is below clip_low={self.clip_low}; DAPO needs clip_high >= clip_low"
            )
        if 0.0 < self.dual_clip <= 1.0 + self.clip_high:
            raise ValueError(f"dual_clip={self.dual_clip} is not above 1 + clip_high; 3 is usual, 0 turns it off")
        return self


class GspoLoss(Section):
    """One ratio per sequence: the geometric mean of its tokens' ratios, clipped."""

    kind: Literal["gspo"] = "gspo"
    clip_low: ClipLow = 3e-4
    clip_high: Positive = 4e-4

    @model_validator(mode="after")
    def _clips(self) -> "GspoLoss":
        if self.clip_high < self.clip_low:
            raise ValueError(
                f"clip_high={self.clip_high} is below clip_low={self.clip_low}; GSPO clips at 4e-4 above and 3e-4 below"
            )
        return self


class CispoLoss(Section):
    """REINFORCE weighted by the detached ratio, bounded to [ratio_min, ratio_max] (absolute, not 1 +- eps)."""

    kind: Literal["cispo"] = "cispo"
    ratio_min: Fraction = 0.0
    ratio_max: Annotated[float, Field(ge=1.0)] = 5.0


class SapoLoss(Section):
    """A soft gate on the ratio in place of a clip."""

    kind: Literal["sapo"] = "sapo"
    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05


class DppoLoss(Section):
    """The unclipped ratio; a token leaves the loss when its probability moved too far."""

    kind: Literal["dppo"] = "dppo"
    max_decrease: Fraction = 0.2
    max_increase: Fraction = 0.2
    log_ratio_coef: NonNegative = 1e-3


class PolicyGradientLoss(Section):
    """Plain REINFORCE: -advantage * log-prob."""

    kind: Literal["policy_gradient"] = "policy_gradient"


class PluginLoss(PluginSection):
    """A token loss of another package.

    name: an entry point of `rlvr.losses`, `package.module:function` or `path/file.py:function`.
    settings: of that function, its keyword-only parameters.
    """

    GROUP: ClassVar[str] = "rlvr.losses"


LossConfig = Annotated[
    ClippedLoss | GspoLoss | CispoLoss | SapoLoss | DppoLoss | PolicyGradientLoss | PluginLoss,
    Field(discriminator="kind"),
    kind_or_mapping("clipped"),
]


class Aggregation(StrEnum):
    """How token losses are averaged."""

    TOKEN_MEAN = "token_mean"  # over all loss tokens of the minibatch
    SEQUENCE_MEAN = "sequence_mean"  # mean over each completion's tokens, then over completions
    CONSTANT_LENGTH = "constant_length"  # sum over tokens / max_completion_tokens, over completions
    PROMPT_MEAN = "prompt_mean"  # mean over all tokens of a prompt's completions, then over prompts


class KlEstimator(StrEnum):
    """Schulman's estimators of KL(policy || reference)."""

    K1 = "k1"
    K2 = "k2"
    K3 = "k3"


class KlPlacement(StrEnum):
    """Where the KL to the reference goes."""

    LOSS = "loss"
    REWARD = "reward"


class RatioBase(StrEnum):
    """Whose log-probs are the denominator of the ratio."""

    AUTO = "auto"  # behavior when the engine is the learner and nothing is stale, else proximal
    BEHAVIOR = "behavior"  # the engine's, as sampled
    PROXIMAL = "proximal"  # the learner's own, before the step (decoupled PPO)


class CorrectionConfig(Section):
    """The correction for an engine whose log-probs differ from the learner's; masks never change a denominator.

    weight_min, weight_max: bounds of the importance weight.
    geometric_min, geometric_max: a sequence whose geometric-mean ratio is outside is masked (geometric_max 0 = off).
    off_policy_threshold: nats; a sequence with A < 0 and mean(behavior - policy) above it is masked (0 = off).
    """

    ratio_base: RatioBase = RatioBase.AUTO
    weight: WeightLevel = WeightLevel.NONE
    bound: WeightBound = WeightBound.TRUNCATE
    weight_min: NonNegative = 0.0
    weight_max: Annotated[float, Field(ge=1.0)] = 2.0
    geometric_min: Fraction = 0.0
    geometric_max: NonNegative = 0.0
    off_policy_threshold: NonNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> "CorrectionConfig":
        if self.weight_min > 1.0:
            raise ValueError(f"weight_min={self.weight_min} is above 1, the weight of equal policies")
        if 0.0 < self.geometric_max < 1.0:
            raise ValueError(
                f"geometric_max={self.geometric_max} is below 1, the ratio of equal policies; 0 turns it off"
            )
        if self.geometric_min > 0.0 and self.geometric_max == 0.0:
            raise ValueError("geometric_min needs geometric_max, which is 0 (off)")
        if self.ratio_base is RatioBase.BEHAVIOR and self.weight is not WeightLevel.NONE:
            raise ValueError(
                f"weight={self.weight.value} with ratio_base=behavior corrects twice: that ratio already contains the "
                "mismatch; use ratio_base=proximal"
            )
        return self

    @property
    def is_active(self) -> bool:
        """Whether anything is weighted or masked."""
        return self.weight is not WeightLevel.NONE or self.geometric_max > 0.0 or self.off_policy_threshold > 0.0


class ZeroVariance(StrEnum):
    """What happens to a group whose advantages are all 0."""

    KEEP = "keep"  # its tokens count in the denominators
    DROP = "drop"  # it leaves the batch and the denominators


class DynamicSampling(Section):
    """Groups without a signal are dropped and replaced, at most max_refill_factor * prompts_per_step per step."""

    enabled: bool = False
    max_refill_factor: NonNegative = 2.0


class GovernorMode(StrEnum):
    """What the governor does when mismatch metrics leave their start-up band."""

    OFF = "off"
    WARN = "warn"
    ACT = "act"  # stricter correction, then less staleness, then stop after a checkpoint


class GovernorConfig(Section):
    """Watches mismatch/* against the band of the first startup_steps (mean + width standard deviations)."""

    mode: GovernorMode = GovernorMode.WARN
    startup_steps: Annotated[int, Field(ge=3)] = 8
    width: Positive = 4.0
    patience_steps: PositiveInt = 3


class AlgorithmConfig(Section):
    """The mathematics of the update.

    preset: the preset from which `Recipe` takes keys that are not set; here it only records where values came from.
    """

    preset: str = "none"
    advantage: AdvantageConfig = GrpoAdvantage()
    loss: LossConfig = ClippedLoss()
    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    kl_coef: NonNegative = 0.0
    kl_estimator: KlEstimator = KlEstimator.K3
    kl_placement: KlPlacement = KlPlacement.LOSS
    entropy_coef: NonNegative = 0.0
    zero_variance: ZeroVariance = ZeroVariance.KEEP
    dynamic_sampling: DynamicSampling = DynamicSampling()
    correction: CorrectionConfig = CorrectionConfig()
    governor: Changeable[GovernorConfig] = GovernorConfig()
