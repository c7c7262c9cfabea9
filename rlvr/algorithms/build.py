"""The one place that branches on the algorithm's types: from the recipe to pure functions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, assert_never, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rlvr.algorithms.advantages import (
    GroupRewards,
    dr_grpo_advantages,
    grpo_advantages,
    maxrl_advantages,
    pass_at_k_advantages,
    rloo_advantages,
)
from rlvr.algorithms.aggregation import Aggregator, ConstantLength, PromptMean, SequenceMean, TokenMean
from rlvr.algorithms.batch_advantages import batch_norm_advantages, gdpo_advantages
from rlvr.algorithms.corrections import Correction
from rlvr.algorithms.kl import KlFunction, k1, k2, k3
from rlvr.algorithms.losses import PolicyLoss
from rlvr.algorithms.token_losses import TokenLossFunction, cispo, clipped, dppo, gspo, policy_gradient, sapo
from rlvr.batch import Batch, LossOutput
from rlvr.config.sections.algorithm import (
    AdvantageConfig,
    Aggregation,
    AlgorithmConfig,
    Baseline,
    BatchNormAdvantage,
    CispoLoss,
    ClippedLoss,
    CorrectionConfig,
    DppoLoss,
    DrGrpoAdvantage,
    GdpoAdvantage,
    GrpoAdvantage,
    GspoLoss,
    KlEstimator,
    KlPlacement,
    LossConfig,
    MaxRlAdvantage,
    PassAtKAdvantage,
    PluginAdvantage,
    PluginLoss,
    PolicyGradientLoss,
    RlooAdvantage,
    SapoLoss,
    Weighting,
)
from rlvr.registry import build_function

AdvantageFunction = Callable[[Sequence[GroupRewards]], list[list[float | None]]]


@runtime_checkable
class LossFunction(Protocol):
    """Log-probs and a batch in, a numerator out."""

    aggregator: Aggregator

    @property
    def uses_proximal(self) -> bool:
        """Whether the ratio's denominator is the learner's log-probs before the step."""
        ...

    @property
    def needs_entropy_gradient(self) -> bool:
        """Whether `entropy` must carry a gradient."""
        ...

    @property
    def is_zero_without_advantage(self) -> bool:
        """Whether the gradient of rows whose advantages are all 0 is exactly 0."""
        ...

    def __call__(
        self, logprobs: Float[Tensor, "batch seq"], *, entropy: Float[Tensor, "batch seq"], batch: Batch
    ) -> LossOutput: ...


def build_advantage(config: AdvantageConfig) -> AdvantageFunction:
    """From the groups of a step to one list of advantages per group, None where a rollout leaves the loss."""
    match config:
        case GrpoAdvantage():
            return _per_group(partial(grpo_advantages, eps=config.eps))
        case DrGrpoAdvantage():
            return _per_group(dr_grpo_advantages)
        case RlooAdvantage():
            return _per_group(rloo_advantages)
        case MaxRlAdvantage():
            return _per_group(partial(maxrl_advantages, eps=config.eps))
        case PassAtKAdvantage():
            return _per_group(partial(pass_at_k_advantages, k=config.k, threshold=config.threshold))
        case BatchNormAdvantage():
            return partial(
                batch_norm_advantages,
                has_group_baseline=config.baseline is Baseline.GROUP,
                is_token_weighted=config.weighting is Weighting.TOKEN,
                eps=config.eps,
            )
        case GdpoAdvantage():
            return partial(gdpo_advantages, eps=config.eps)
        case PluginAdvantage():
            return build_function(config.GROUP, config.name, config.settings)
        case _:
            assert_never(config)


def build_token_loss(config: LossConfig) -> TokenLossFunction:
    """The loss of one token, with its settings bound."""
    match config:
        case ClippedLoss():
            return partial(clipped, clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip)
        case GspoLoss():
            return partial(gspo, clip_low=config.clip_low, clip_high=config.clip_high)
        case CispoLoss():
            return partial(cispo, ratio_min=config.ratio_min, ratio_max=config.ratio_max)
        case SapoLoss():
            return partial(sapo, tau_positive=config.tau_positive, tau_negative=config.tau_negative)
        case DppoLoss():
            return partial(
                dppo,
                max_decrease=config.max_decrease,
                max_increase=config.max_increase,
                log_ratio_coef=config.log_ratio_coef,
            )
        case PolicyGradientLoss():
            return policy_gradient
        case PluginLoss():
            return build_function(config.GROUP, config.name, config.settings)
        case _:
            assert_never(config)


def is_scaled_by_advantage(config: LossConfig) -> bool:
    """Whether a token with advantage 0 has loss and gradient 0; DPPO's squared log-ratio pulls on every token.

    A plugin's loss declares it by an attribute `is_scaled_by_advantage`; the default is False.
    """
    match config:
        case ClippedLoss() | GspoLoss() | CispoLoss() | SapoLoss() | PolicyGradientLoss():
            return True
        case DppoLoss():
            return config.log_ratio_coef == 0.0
        case PluginLoss():
            loss: Any = build_function(config.GROUP, config.name, config.settings)
            return bool(getattr(loss.func, "is_scaled_by_advantage", False))
        case _:
            assert_never(config)


def build_correction(config: CorrectionConfig) -> Correction:
    """The correction at the start of a run."""
    return Correction(level=config.weight, **config.model_dump(exclude={"ratio_base", "weight"}))


def build_aggregator(kind: Aggregation, *, max_completion_tokens: int) -> Aggregator:
    """The aggregation; `constant_length` divides by the length limit."""
    by_kind: dict[Aggregation, Callable[[], Aggregator]] = {
        Aggregation.TOKEN_MEAN: TokenMean,
        Aggregation.SEQUENCE_MEAN: SequenceMean,
        Aggregation.CONSTANT_LENGTH: lambda: ConstantLength(max_completion_tokens),
        Aggregation.PROMPT_MEAN: PromptMean,
    }
    return by_kind[kind]()


def build_kl(estimator: KlEstimator) -> KlFunction:
    """The estimator of the KL to the reference."""
    by_estimator: dict[KlEstimator, KlFunction] = {KlEstimator.K1: k1, KlEstimator.K2: k2, KlEstimator.K3: k3}
    return by_estimator[estimator]


def build_loss(config: AlgorithmConfig, *, max_completion_tokens: int, uses_proximal: bool) -> PolicyLoss:
    """The policy loss of a recipe.

    Args:
        uses_proximal: whether `correction.ratio_base` resolves to proximal in this run.
    """
    is_kl_in_loss = config.kl_placement is KlPlacement.LOSS
    return PolicyLoss(
        token_loss=build_token_loss(config.loss),
        aggregator=build_aggregator(config.aggregation, max_completion_tokens=max_completion_tokens),
        correction=build_correction(config.correction),
        uses_proximal=uses_proximal,
        kl_coef=config.kl_coef if is_kl_in_loss else 0.0,
        kl=build_kl(config.kl_estimator),
        entropy_coef=config.entropy_coef,
        is_scaled_by_advantage=is_scaled_by_advantage(config.loss),
    )


def _per_group(function: Callable[[Sequence[float | None]], list[float | None]]) -> AdvantageFunction:
    return lambda groups: [function(group.rewards_G) for group in groups]
