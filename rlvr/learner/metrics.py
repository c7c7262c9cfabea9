"""Metrics as (sum, count), so that micro-batches, calls and ranks add up to the values of a single pass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlvr.batch import StepReport
from rlvr.telemetry.process import METERS

COUNTS = ("learner/loss_tokens", "policy/clamped_log_ratios", "mismatch/missing_logprobs")
_LARGEST = ("policy/grad_norm", "learner/nonfinite_steps", "learner/peak_memory_gb")
_TOTALS = ("learner/loss_tokens", "learner/micro_batches")

Scalar = float | Tensor
Pair = tuple[Scalar, Scalar]


def note_update(num_steps: int, device: torch.device) -> None:
    """Shows an update, and the memory of tensors on a CUDA device, in this process's metrics."""
    rank = str(dist.get_rank()) if dist.is_available() and dist.is_initialized() else "0"
    METERS.set("learner_rank_step", num_steps, rank=rank)
    if device.type == "cuda":
        METERS.set("learner_rank_device_memory_bytes", torch.cuda.memory_allocated(device), rank=rank)
        METERS.set("learner_rank_device_memory_peak_bytes", torch.cuda.max_memory_allocated(device), rank=rank)


@dataclass(slots=True, kw_only=True)
class MetricSums:
    """Adds (sum, count) pairs by name; a count of 0 marks a maximum.

    Scalars on a device stay there until `resolve`: reading one would make the host wait for all passes before it.

    loss_sum: the numerator of the loss. flops: of the passes over real tokens. seconds: spent in passes and in the
    optimiser. micro_batches: sequential passes. peak_memory_gb: the largest of any process so far.
    """

    pairs: dict[str, Pair] = field(default_factory=dict[str, Pair])
    loss_sum: Scalar = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    micro_batches: int = 0
    peak_memory_gb: float = 0.0

    def add(self, metrics: Mapping[str, Pair]) -> None:
        """Adds one micro-batch.

        >>> sums = MetricSums()
        >>> sums.add({"policy/entropy": (3.0, 2.0), "mismatch/max_x": (0.1, 0.0)})
        >>> sums.add({"policy/entropy": (1.0, 2.0), "mismatch/max_x": (0.3, 0.0)})
        >>> sums.pairs
        {'policy/entropy': (4.0, 4.0), 'mismatch/max_x': (0.3, 0.0)}
        """
        for name, (value, count) in metrics.items():
            if name.rpartition("/")[2].startswith("max_"):
                old = self.pairs.get(name, (value, 0.0))[0]
                self.pairs[name] = (_largest(old, value), 0.0)
            else:
                old_value, old_count = self.pairs.get(name, (0.0, 0.0))
                self.pairs[name] = (old_value + value, old_count + count)

    def resolve(self) -> None:
        """Copies all scalars to the host in one transfer.

        >>> sums = MetricSums(loss_sum=torch.tensor(1.5))
        >>> sums.add({"policy/entropy": (torch.tensor(3.0), 2.0)})
        >>> sums.resolve()
        >>> sums.loss_sum, sums.pairs
        (1.5, {'policy/entropy': (3.0, 2.0)})
        """
        scalars = [self.loss_sum, *(scalar for pair in self.pairs.values() for scalar in pair)]
        places = [i for i, scalar in enumerate(scalars) if isinstance(scalar, Tensor)]
        if places:
            on_host = torch.stack([torch.as_tensor(scalars[i]).double() for i in places]).tolist()
            for i, value in zip(places, on_host, strict=True):
                scalars[i] = value
        self.loss_sum = scalars[0]
        self.pairs = {name: (scalars[2 * k + 1], scalars[2 * k + 2]) for k, name in enumerate(self.pairs)}

    def merge(self, other: "MetricSums") -> None:
        """Adds another rank's part of the same step; both made their passes in parallel."""
        self.add(other.pairs)
        self.loss_sum += other.loss_sum
        self.flops += other.flops
        self.seconds = max(self.seconds, other.seconds)
        self.micro_batches = max(self.micro_batches, other.micro_batches)
        self.peak_memory_gb = max(self.peak_memory_gb, other.peak_memory_gb)

    def means(self, *, loss_divisor: int) -> dict[str, float]:
        """Means by name, after `resolve`; plain sums and the effective sample size are computed here."""
        pairs = {name: (float(value), float(count)) for name, (value, count) in self.pairs.items()}
        means = {"policy/loss": float(self.loss_sum) / loss_divisor}
        weight, _ = pairs.pop("mismatch/weight_sum", (0.0, 0.0))
        square, _ = pairs.pop("mismatch/weight_square_sum", (0.0, 0.0))
        tokens = pairs.get("learner/loss_tokens", (0.0, 0.0))[0]
        if square > 0 and tokens > 0:
            means["mismatch/ess"] = weight**2 / square / tokens
        for name, (value, count) in pairs.items():
            means[name] = value if name in COUNTS or count == 0 else value / count
        return means


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One process's record of an optimiser step; all but `sums` and `fault` are the same on every rank.

    num_steps, num_nonfinite: after the step. fault: where the offending micro-batch was saved, "" if this process has
    none. peak_flops: FLOP/s of its device, 0 if unknown.
    """

    grad_norm: float
    lr: float
    num_steps: int
    num_nonfinite: int
    fault: str
    peak_flops: float
    sums: MetricSums

    @property
    def is_skipped(self) -> bool:
        """Whether the gradient was not finite, so that no step was taken."""
        return not math.isfinite(self.grad_norm)

    def report(self, *, divisor: int, num_processes: int = 1) -> StepReport:
        """The metrics of the step. mfu: useful FLOPs over the devices' peak FLOPs in the same time."""
        metrics = self.sums.means(loss_divisor=divisor)
        metrics |= {
            "policy/grad_norm": self.grad_norm,
            "learner/lr": self.lr,
            "learner/nonfinite_steps": float(self.num_nonfinite),
            "learner/micro_batches": float(self.sums.micro_batches),
            "learner/peak_memory_gb": self.sums.peak_memory_gb,
        }
        if self.peak_flops and self.sums.seconds:
            available = self.peak_flops * num_processes * self.sums.seconds
            metrics["learner/mfu"] = self.sums.flops / available
        return StepReport(metrics=metrics, skipped=self.is_skipped)

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            **{name: getattr(self, name) for name in self.__slots__ if name != "sums"},
            "sums": {name: getattr(self.sums, name) for name in self.sums.__slots__},
        }


def outcome_from_json(values: Mapping[str, Any]) -> Outcome:
    """The Outcome that `to_json` wrote."""
    sums = dict(values["sums"])
    pairs = {name: (float(value), float(count)) for name, (value, count) in sums["pairs"].items()}
    return Outcome(**{**values, "sums": MetricSums(**{**sums, "pairs": pairs})})


def merged_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of one step from what its ranks report."""
    first = outcomes[0]
    for other in outcomes[1:]:
        first.sums.merge(other.sums)
        first.fault = first.fault or other.fault
    return first


def merged_reports(reports: Sequence[StepReport]) -> StepReport:
    """Metrics of a training step from its minibatches: maxima of norms and memory, sums of counts, else means."""
    merged: dict[str, float] = {}
    for name in sorted({name for report in reports for name in report.metrics}):
        values = [report.metrics[name] for report in reports if name in report.metrics]
        if name in _LARGEST or name.rpartition("/")[2].startswith("max_"):
            merged[name] = max(values)
        else:
            merged[name] = sum(values) / (1 if name in _TOTALS else len(values))
    return StepReport(metrics=merged, skipped=all(report.skipped for report in reports))


def _largest(a: Scalar, b: Scalar) -> Scalar:
    """The larger one; nan where either is, so that a fault does not hide."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)
