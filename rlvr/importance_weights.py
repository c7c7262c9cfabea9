"""The choices of an importance weight, shared by the recipe and `rlvr.algorithms.corrections`. No torch is imported."""

from enum import StrEnum


class WeightLevel(StrEnum):
    """The unit of the importance weight exp(proximal - behavior)."""

    NONE = "none"
    TOKEN = "token"
    SEQUENCE = "sequence"  # the product over the sequence's tokens


class WeightBound(StrEnum):
    """What happens outside [weight_min, weight_max]."""

    TRUNCATE = "truncate"  # TIS: the weight is clamped
    MASK = "mask"  # MIS, IcePop: the token (or sequence) leaves the loss
