"""The page of a run, from hand-made files."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.errors import ConfigError
from rlvr.report.charts import Series, line_chart
from rlvr.report.page import CHARTS, write_report


def row(step: int, completion: str, status: str, prompt_id: str = "p") -> dict[str, object]:
    return {
        "step": step, "group_id": "g", "prompt_id": prompt_id, "prompt_text": "2 + 2 = ?", "completion": completion,
        "reward": 1.0, "advantage": 0.5, "status": status, "reason": "'4' equals '4'", "finish_reason": "stop",
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    names = {name: 0.5 for _, group in CHARTS for name in group}
    evaluation = {"eval/s/pass@1": 0.4, "eval/s/pass@1_ci_low": 0.3, "eval/s/pass@1_ci_high": 0.5}
    rows = [
        {"step": 0, "time_s": 1.0, **evaluation},
        {"step": 1, "time_s": 2.0, **names, "policy/entropy": None},
        {"step": 2, "time_s": 3.0, **names, **evaluation},
    ]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows) + '{"step": 3, "to'
    )
    events = [
        {"time": "2026-01-01T00:00:00Z", "kind": "start", "recipe": "demo", "seed": 3},
        {"time": "2026-01-01T00:00:01Z", "kind": "verifier_error", "reason": "<b>down</b>"},
        {"time": "2026-01-01T00:00:02Z", "kind": "stopped", "message": "stopped after step 2"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (tmp_path / "recipe.yaml").write_text("name: demo # <default>\n")
    folder = tmp_path / "rollouts"
    folder.mkdir()
    for name, rows_ in {
        "step_000001.parquet": [row(1, "<script>alert(1)</script> 4", "pass")],
        "step_000000.eval-s.parquet": [row(0, "five", "fail")],
        "step_000002.eval-s.parquet": [row(2, "four", "pass")],
    }.items():
        pq.write_table(pa.Table.from_pylist(rows_), folder / name)
    return tmp_path


def test_page_shows_every_chart_the_alarms_and_before_and_after(run: Path):
    page = write_report(run).read_text()
    for title, _ in CHARTS:
        assert title in page
    assert "eval/s/pass@1" in page
    assert "0.400 before, 0.400 after" in page
    assert "stopped after step 2" in page
    assert re.search(r"five<td class=fail>fail<td class=text>four<td class=pass>pass", page)


def test_text_of_the_policy_is_escaped_and_nothing_is_loaded_from_elsewhere(run: Path):
    page = write_report(run).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<b>down" not in page
    assert "http" not in page


def test_a_value_that_is_not_finite_leaves_a_gap():
    chart = line_chart(
        "t", [Series(label="a", steps=[1, 2, 3, 4, 5], values=[1.0, 2.0, None, 4.0, 5.0])]
    )
    assert chart.count("<polyline") == 2
    assert "no values" in line_chart("t", [Series(label="a", steps=[1], values=[None])])


def test_a_run_with_nothing_but_metrics_has_a_page_and_another_folder_is_refused(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time_s": 1.0, "reward/mean": 0.5}\n')
    page = write_report(tmp_path).read_text()
    assert "no evaluation in this run" in page
    with pytest.raises(ConfigError, match=r"is not a run directory: it has no metrics\.jsonl"):
        write_report(tmp_path / "elsewhere")
