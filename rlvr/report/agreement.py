"""How far a verifier's verdicts agree with labels, and which settings of its score would agree best."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Z = 1.959964  # of a 95 % interval
NUM_BINS = 10
_ROUNDS = 50  # of Newton's method


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One labelled row: the label, whether the verdict was PASS, the score, and the model's output if it has one."""

    label: bool
    passed: bool
    score: float
    logit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Counts of verdicts against labels."""

    passes: int
    false_passes: int
    fails: int
    false_fails: int

    @property
    def num_rows(self) -> int:
        return self.passes + self.false_passes + self.fails + self.false_fails

    @property
    def rate(self) -> float:
        """The share of rows on which verdict and label agree."""
        return (self.passes + self.fails) / self.num_rows

    @property
    def false_pass_rate(self) -> float:
        """The share of the rows labelled fail that pass; nan without such rows."""
        return _share(self.false_passes, self.false_passes + self.fails)

    @property
    def false_fail_rate(self) -> float:
        """The share of the rows labelled pass that do not pass; nan without such rows."""
        return _share(self.false_fails, self.false_fails + self.passes)

    def kappa(self) -> tuple[float, float]:
        """(Cohen's kappa, its standard error); nan if all verdicts and labels are the same.

        kappa = (po - pe) / (1 - pe) with the observed agreement po and that of independent verdicts pe. The standard
        error is that of Fleiss, Cohen and Everitt (1969), eq. 9, for any kappa.

        >>> kappa, error = Agreement(passes=20, false_passes=10, fails=15, false_fails=5).kappa()
        >>> round(kappa, 4), round(error, 4)
        (0.4, 0.127)
        """
        n = self.num_rows
        cells = ((self.passes / n, self.false_fails / n), (self.false_passes / n, self.fails / n))  # label, verdict
        of_label = [sum(row) for row in cells]
        of_verdict = [cells[0][i] + cells[1][i] for i in (0, 1)]
        expected = sum(of_label[i] * of_verdict[i] for i in (0, 1))
        if expected >= 1.0:
            return math.nan, math.nan
        kappa = (cells[0][0] + cells[1][1] - expected) / (1.0 - expected)
        first = sum(cells[i][i] * (1.0 - (of_label[i] + of_verdict[i]) * (1.0 - kappa)) ** 2 for i in (0, 1))
        second = sum(cells[i][1 - i] * (of_verdict[i] + of_label[1 - i]) ** 2 for i in (0, 1))
        variance = first + (1.0 - kappa) ** 2 * second - (kappa - expected * (1.0 - kappa)) ** 2
        return kappa, math.sqrt(max(0.0, variance) / n) / (1.0 - expected)


def agreement(rows: Sequence[Judged]) -> Agreement:
    """The counts of at least one row."""
    return Agreement(
        passes=sum(row.label and row.passed for row in rows),
        false_passes=sum(not row.label and row.passed for row in rows),
        fails=sum(not row.label and not row.passed for row in rows),
        false_fails=sum(row.label and not row.passed for row in rows),
    )


def calibration_error(rows: Sequence[Judged]) -> float:
    """The expected calibration error of the score as a probability of the label pass, in `NUM_BINS` equal bins.

    sum over bins of n_b / n * |mean score - share labelled pass| (Guo et al., arXiv:1706.04599, eq. 3).

    >>> rows = [Judged(label=label, passed=True, score=0.75) for label in (True, True, False, False)]
    >>> calibration_error(rows)
    0.25
    """
    bins: list[list[Judged]] = [[] for _ in range(NUM_BINS)]
    for row in rows:
        bins[min(NUM_BINS - 1, int(row.score * NUM_BINS))].append(row)
    gaps = [abs(math.fsum(row.score for row in kept) - sum(row.label for row in kept)) for kept in bins]
    return math.fsum(gaps) / len(rows)


def best_pass_score(rows: Sequence[Judged]) -> tuple[float, float]:
    """(the pass score with the largest kappa on these rows, that kappa); among equals the middle of two scores.

    >>> rows = [Judged(label=score > 0.5, passed=False, score=score) for score in (0.1, 0.3, 0.7, 0.9)]
    >>> best_pass_score(rows)
    (0.5, 1.0)
    """
    good = sorted(row.score for row in rows if row.label)
    bad = sorted(row.score for row in rows if not row.label)
    scores = sorted({*good, *bad})
    found = (math.nan, -math.inf)
    for below, score in zip([0.0, *scores], scores, strict=False):
        cut = (below + score) / 2.0
        false_fails, fails = bisect.bisect_left(good, cut), bisect.bisect_left(bad, cut)
        moved = Agreement(
            passes=len(good) - false_fails, false_passes=len(bad) - fails, fails=fails, false_fails=false_fails
        )
        kappa = moved.kappa()[0]
        if cut > 0.0 and kappa > found[1]:
            found = (cut, kappa)
    return found


def fitted_sigmoid(rows: Sequence[Judged]) -> tuple[float, float] | None:
    """(temperature, offset) with which sigmoid((output - offset) / temperature) fits the labels best.

    Platt's method: logistic regression on the output, with his smoothed targets (n+ + 1) / (n+ + 2) and 1 / (n- + 2).
    None if a row has no output, all labels are the same, or a larger output does not make the label likelier.
    """
    outputs = [row.logit for row in rows if row.logit is not None]
    positive = sum(row.label for row in rows)
    if len(outputs) < len(rows) or positive in (0, len(rows)) or len(set(outputs)) < 2:
        return None
    mean = math.fsum(outputs) / len(outputs)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in outputs) / len(outputs))
    targets = [(positive + 1) / (positive + 2) if row.label else 1 / (len(rows) - positive + 2) for row in rows]
    scaled = [(value - mean) / spread for value in outputs]
    slope, constant = 0.0, 0.0
    for _ in range(_ROUNDS):  # Newton's method on a convex loss; half steps while the loss would grow
        found = [_sigmoid(slope * x + constant) for x in scaled]
        weights = [max(p * (1.0 - p), 1e-12) for p in found]
        ds = math.fsum((p - t) * x for p, t, x in zip(found, targets, scaled, strict=True))
        dc = math.fsum(p - t for p, t in zip(found, targets, strict=True))
        hss = math.fsum(w * x * x for w, x in zip(weights, scaled, strict=True)) + 1e-9
        hsc = math.fsum(w * x for w, x in zip(weights, scaled, strict=True))
        hcc = math.fsum(weights) + 1e-9
        determinant = hss * hcc - hsc * hsc
        step_s, step_c = (hcc * ds - hsc * dc) / determinant, (hss * dc - hsc * ds) / determinant
        size, before = 1.0, _loss(scaled, targets, slope, constant)
        while size > 1e-6 and _loss(scaled, targets, slope - size * step_s, constant - size * step_c) > before:
            size /= 2.0
        slope, constant = slope - size * step_s, constant - size * step_c
    if slope <= 1e-6:
        return None
    temperature = spread / slope
    return temperature, mean - constant * temperature


def agreement_rows(rows: Sequence[Judged], *, num_unjudged: int) -> list[tuple[str, str, str]]:
    """(name, value, explanation) for a table. num_unjudged: labelled rows without a verdict (ERROR)."""
    if not rows:
        return [("labelled rows", "0", f"{num_unjudged} more got no verdict")]
    found = agreement(rows)
    kappa, error = found.kappa()
    low, high = _wilson(found.passes + found.fails, found.num_rows)
    table = [
        ("labelled rows", str(found.num_rows), f"{num_unjudged} more got no verdict and do not count"),
        ("agreement", f"{found.rate:.3f}", f"95 % interval {low:.3f} to {high:.3f}"),
        ("false-pass rate", _shown(found.false_pass_rate), f"{found.false_passes} rows labelled fail pass"),
        ("false-fail rate", _shown(found.false_fail_rate), f"{found.false_fails} rows labelled pass do not pass"),
        (
            "Cohen's kappa",
            _shown(kappa),
            f"95 % interval {_shown(kappa - Z * error)} to {_shown(min(1.0, kappa + Z * error))}",
        ),
        ("calibration error", f"{calibration_error(rows):.3f}", f"of the score as a probability, {NUM_BINS} bins"),
    ]
    cut, best = best_pass_score(rows)
    if math.isfinite(best):
        table.append(("best pass_score", f"{cut:.3g}", f"kappa {best:.3f} on these rows; test it on others"))
    fitted = fitted_sigmoid(rows)
    if fitted is not None:
        explained = "with them the score is the probability of the label, as far as these rows say"
        table.append(("best temperature, offset", f"{fitted[0]:.4g}, {fitted[1]:.4g}", explained))
    return table


def read_label(value: Any) -> bool:
    """A label as a bool: true, false, 1, 0, "pass", "fail", in any case. Raises ValueError for anything else.

    >>> read_label("PASS"), read_label(0)
    (True, False)
    """
    known = {"pass": True, "true": True, "1": True, "fail": False, "false": False, "0": False}
    text = str(value).strip().lower()
    if isinstance(value, bool | int | str) and text in known:
        return known[text]
    raise ValueError(f"the label {value!r} is none of pass, fail, true, false, 1, 0")


def _wilson(successes: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share."""
    share, square = successes / total, Z * Z / total
    middle = share + square / 2.0
    half = Z * math.sqrt(share * (1.0 - share) / total + square / (4.0 * total))
    return max(0.0, (middle - half) / (1.0 + square)), min(1.0, (middle + half) / (1.0 + square))


def _loss(scaled: Sequence[float], targets: Sequence[float], slope: float, constant: float) -> float:
    values = [slope * x + constant for x in scaled]
    return math.fsum(max(v, 0.0) - t * v + math.log1p(math.exp(-abs(v))) for v, t in zip(values, targets, strict=True))


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0.0 else math.exp(value) / (1.0 + math.exp(value))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _shown(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
