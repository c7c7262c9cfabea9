"""Agreement of verdicts with labels: counts, kappa, calibration, and the settings that fit best."""

import json
import math
import random
from pathlib import Path

import pytest

from rlvr.commands.verify_file import verify_file
from rlvr.report.agreement import (
    Agreement,
    Judged,
    agreement,
    agreement_rows,
    best_pass_score,
    calibration_error,
    fitted_sigmoid,
)

CHECK = """
from rlvr.plugin import verifier

@verifier(version="1", pass_score=0.5)
def share(text: str, prompt) -> float:
    assert dict(prompt.tags) == {"topic": "sums"}  # the label is hidden from the verifier
    return float(text)
"""


def judged(label: bool, score: float, *, at: float = 0.5, logit: float | None = None) -> Judged:
    return Judged(label=label, passed=score >= at, score=score, logit=logit)


def test_counts_and_rates() -> None:
    found = agreement([judged(True, 0.9), judged(True, 0.1), judged(True, 0.8), judged(False, 0.7), judged(False, 0.2)])
    assert found == Agreement(passes=2, false_passes=1, fails=1, false_fails=1)
    assert found.rate == pytest.approx(0.6)
    assert found.false_pass_rate == pytest.approx(0.5)
    assert found.false_fail_rate == pytest.approx(1 / 3)
    assert math.isnan(agreement([judged(True, 1.0)]).false_pass_rate)
    assert all(map(math.isnan, agreement([judged(True, 1.0)] * 3).kappa()))


def test_the_standard_error_of_kappa_is_that_of_repeated_samples() -> None:
    chance = random.Random(3)
    shares = [0.4, 0.1, 0.35, 0.15]
    kappas, errors = [], []
    for _ in range(2000):
        cells = [0, 0, 0, 0]
        for cell in chance.choices(range(4), shares, k=200):
            cells[cell] += 1
        kappa, error = Agreement(passes=cells[0], false_passes=cells[1], fails=cells[2], false_fails=cells[3]).kappa()
        kappas.append(kappa)
        errors.append(error)
    mean = sum(kappas) / len(kappas)
    spread = math.sqrt(sum((kappa - mean) ** 2 for kappa in kappas) / len(kappas))
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.05)


def test_a_calibrated_score_has_no_calibration_error() -> None:
    rows = [judged(number < 3, 0.75) for number in range(4)] + [judged(False, 0.0), judged(True, 1.0)]
    assert calibration_error(rows) == pytest.approx(0.0)
    assert calibration_error([judged(False, 1.0), judged(False, 0.0)]) == pytest.approx(0.5)


def test_the_best_pass_score_separates_the_labels_best() -> None:
    rows = [judged(label, score) for label, score in [(False, 0.1), (False, 0.6), (True, 0.7), (True, 0.9)]]
    cut, kappa = best_pass_score(rows)
    assert (cut, kappa) == (pytest.approx(0.65), 1.0)


def test_the_fitted_sigmoid_recovers_temperature_and_offset() -> None:
    chance = random.Random(5)
    rows = []
    for _ in range(4000):
        logit = chance.gauss(3.0, 4.0)
        label = chance.random() < 1 / (1 + math.exp(-(logit - 2.0) / 2.5))
        rows.append(judged(label, 0.5, logit=logit))
    fitted = fitted_sigmoid(rows)
    assert fitted is not None
    assert fitted == (pytest.approx(2.5, rel=0.1), pytest.approx(2.0, abs=0.2))
    separable = [judged(logit > 0, 0.5, logit=float(logit)) for logit in (-2, -1, 1, 2)]
    temperature, offset = fitted_sigmoid(separable) or (0.0, 0.0)
    assert temperature > 0.05
    assert offset == pytest.approx(0.0, abs=1e-6)
    assert fitted_sigmoid([judged(logit < 0, 0.5, logit=float(logit)) for logit in (-2, -1, 1, 2)]) is None
    assert fitted_sigmoid([judged(True, 0.5), judged(False, 0.4)]) is None


def test_verify_compares_verdicts_with_a_column_of_labels(tmp_path: Path) -> None:
    (tmp_path / "share.py").write_text(CHECK)
    given = [("0.9", "pass"), ("0.2", "fail"), ("0.8", False), ("0.4", True), ("no number", 1), ("0.1", "perhaps")]
    rows = [{"completion": text, "reference": None, "right": label, "topic": "sums"} for text, label in given]
    source = tmp_path / "labels.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = verify_file(
        f"{tmp_path / 'share.py'}:share", source, tmp_path / "out.jsonl", {}, 1, 20.0, label_column="right"
    )
    assert agreement(report.judged) == Agreement(passes=1, false_passes=1, fails=1, false_fails=1)
    assert (report.num_unjudged, report.num_malformed) == (1, 1)
    table = {name: (value, why) for name, value, why in report.rows}
    assert table["labelled rows"] == ("4", "1 more got no verdict and do not count")
    assert table["agreement"] == ("0.500", "95 % interval 0.150 to 0.850")
    assert table["Cohen's kappa"][0] == "0.000"
    assert "the label 'perhaps' is none of pass, fail" in " ".join(report.first_errors)
    assert agreement_rows([], num_unjudged=2) == [("labelled rows", "0", "2 more got no verdict")]
