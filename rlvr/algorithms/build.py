"""The one place that branches on the algorithm's types: from the recipe to pure functions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rlvr.algorithms.advantages import GRPO_MIN_JUDGED, grpo_advantages
from rlvr.algorithms.aggregation import Aggregator, ConstantLength, SequenceMean, TokenMean
from rlvr.algorithms.kl import KlFunction, k1, k2, k3
from rlvr.algorithms.losses import PolicyLoss
from rlvr.batch import Batch, LossOutput
from rlvr.config.recipe import AdvantageKind, Aggregation, AlgorithmConfig, KlEstimator

AdvantageFunction = Callable[[Sequence[float | None]], list[float | None]]


@runtime_checkable
class LossFunction(Protocol):
    """Log-probs and a batch in, a numerator out."""

    aggregator: Aggregator

    def __call__(self, logprobs: Float[Tensor, "batch seq"], *, batch: Batch) -> LossOutput: ...


def build_advantage(config: AlgorithmConfig) -> tuple[AdvantageFunction, int]:
    """The advantage function and how many judged rollouts a group needs for it."""
    by_kind: dict[AdvantageKind, tuple[AdvantageFunction, int]] = {
        AdvantageKind.GRPO: (partial(grpo_advantages, eps=config.advantage_eps), GRPO_MIN_JUDGED),
    }
    return by_kind[config.advantage]


def build_aggregator(kind: Aggregation, *, max_completion_tokens: int) -> Aggregator:
    """The aggregation, knowing the length limit that `constant_length` divides by."""
    by_kind: dict[Aggregation, Callable[[], Aggregator]] = {
        Aggregation.TOKEN_MEAN: TokenMean,
        Aggregation.SEQUENCE_MEAN: SequenceMean,
        Aggregation.CONSTANT_LENGTH: lambda: ConstantLength(max_completion_tokens),
    }
    return by_kind[kind]()


def build_loss(config: AlgorithmConfig, *, max_completion_tokens: int) -> PolicyLoss:
    """The policy loss of a recipe."""
    by_estimator: dict[KlEstimator, KlFunction] = {
        KlEstimator.K1: k1,
        KlEstimator.K2: k2,
        KlEstimator.K3: k3,
    }
    return PolicyLoss(
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        aggregator=build_aggregator(
            config.aggregation, max_completion_tokens=max_completion_tokens
        ),
        kl_coef=config.kl_coef,
        kl=by_estimator[config.kl_estimator],
    )
