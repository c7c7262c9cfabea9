"""Metrics as (sum, count), so that micro-batches add up to what one pass would have given."""

from collections.abc import Mapping


class MetricSums:
    """Adds (sum, count) pairs by name; a count of 0 marks a maximum."""

    def __init__(self) -> None:
        self.loss_sum = 0.0
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Adds one micro-batch."""
        for name, (value, count) in metrics.items():
            if name.rpartition("/")[2].startswith("max_"):
                old = self._sums.get(name, (value, 0.0))[0]
                self._sums[name] = (max(old, value), 0.0)
            else:
                old_value, old_count = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (old_value + value, old_count + count)

    def means(self, *, loss_divisor: int) -> dict[str, float]:
        """Means by name; sums that stand for themselves and the effective sample size are resolved here."""
        sums = dict(self._sums)
        means = {"policy/loss": self.loss_sum / loss_divisor}
        weight, _ = sums.pop("mismatch/weight_sum", (0.0, 0.0))
        square, _ = sums.pop("mismatch/weight_square_sum", (0.0, 0.0))
        tokens = sums.get("learner/loss_tokens", (0.0, 0.0))[0]
        if square > 0 and tokens > 0:
            means["mismatch/ess"] = weight**2 / square / tokens
        for name, (value, count) in sums.items():
            if name in ("learner/loss_tokens", "policy/clamped_log_ratios") or count == 0:
                means[name] = value
            else:
                means[name] = value / count
        return means
