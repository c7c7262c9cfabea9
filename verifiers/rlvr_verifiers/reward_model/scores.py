"""From the outputs of a classification head to a score in [0, 1]."""

import math
from collections.abc import Sequence
from enum import StrEnum


class ScoreKind(StrEnum):
    """SIGMOID of the chosen output alone, or its SOFTMAX probability among all outputs."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


def score_of(logits: Sequence[float], index: int, *, kind: ScoreKind, temperature: float, offset: float) -> float:
    """The score of one output: with z = (logit - offset) / temperature, sigmoid(z), or softmax over all z.

    The offset is subtracted from the chosen output alone.

    >>> round(score_of([1.5], 0, kind=ScoreKind.SIGMOID, temperature=2.0, offset=0.5), 4)
    0.6225
    >>> round(score_of([0.0, 1.0, 2.0], 1, kind=ScoreKind.SOFTMAX, temperature=1.0, offset=0.0), 4)
    0.2447

    Raises: ValueError if an output is not finite.
    """
    if not all(map(math.isfinite, logits)):
        raise ValueError(f"the model's outputs are not finite: {list(logits)}")
    scaled = [(logit - (offset if number == index else 0.0)) / temperature for number, logit in enumerate(logits)]
    if kind is ScoreKind.SIGMOID:
        return _sigmoid(scaled[index])
    most = max(scaled)
    return math.exp(scaled[index] - most) / math.fsum(math.exp(value - most) for value in scaled)


def output_index(label: str, labels: Sequence[str]) -> int:
    """The index of the output that counts: the only one, or the one with this name or number.

    >>> output_index("good", ["bad", "good"]), output_index("0", ["bad", "good"]), output_index("", ["LABEL_0"])
    (1, 0, 0)

    Raises: ValueError if the label is unknown, or is needed and missing.
    """
    if not label and len(labels) == 1:
        return 0
    if label in labels:
        return list(labels).index(label)
    if label.isdecimal() and int(label) < len(labels):
        return int(label)
    names = ", ".join(map(repr, labels))
    what = f"it has no output {label!r}" if label else f"it has {len(labels)} outputs and the setting `label` is empty"
    raise ValueError(f"{what}; its outputs are {names}")


def _sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    if value >= 0.0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)
