"""The page of a run, from small run directories made by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.errors import CheckpointError, ConfigError, StorageError
from rlvr.report.charts import line_chart, stacked_chart
from rlvr.report.markup import duration, escaped, number
from rlvr.report.page import reported, write_report


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_rollouts(path: Path, **changes: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    row = {
        "prompt_id": "sum/1", "group_id": "00000001", "prompt_text": "2+2=", "sample_index": 0,
        "completion": "4", "finish_reason": "stop", "reward": 1.0, "status": "pass",
        "reason": "'4' equals '4'", "extracted": "4", "advantage": 0.6526,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row | changes]), path)


def step_row(step: int, **changes: float | None) -> dict[str, Any]:
    row = {
        "step": step, "time_s": 10.0 * step, "reward/mean": 0.25 * step, "policy/entropy": 0.5,
        "rollout/length_mean_tokens": 12.5, "rollout/truncated_rate": 0.0, "policy/grad_norm": 1.5,
        "mismatch/kl_k3": 1e-9, "reward/zero_variance_rate": 0.1, "time/step_s": 6.0,
        "time/generate_s": 3.0, "time/train_s": 2.0, "time/sync_s": 1.0,
    }  # fmt: skip
    return row | changes


def test_what_asynchrony_and_shaping_did_is_shown(run_dir: Path):
    changes = {"policy/staleness_mean": 2.0, "rollout/wasted_rate": 0.25, "time/wait_s": 0.5}
    write_lines(run_dir / "metrics.jsonl", [step_row(1, **changes), step_row(2, **changes)])
    alarm = {
        "time": "2026-01-02T03:04:06Z",
        "kind": "mismatch_alarm",
        "step": 2,
        "action": "less_staleness",
        "reason": "for 3 steps in a row: mismatch/ess is 0.7",
        "readings": [],
    }
    spent = {"time": "2026-01-02T03:04:07Z", "kind": "refill_spent", "step": 2, "groups": 12, "kept": 3}
    write_lines(run_dir / "events.jsonl", [alarm, spent])
    write_rollouts(run_dir / "rollouts" / "step_000002.parquet", overlong_penalty=0.5, kl_penalty=0.0)
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "policy/staleness_mean" in page
    assert "rollout/wasted_rate" in page
    assert 'class="key f4"></i>wait' in page
    assert "less_staleness: for 3 steps in a row" in page
    assert "3 of 12 groups carried a signal" in page
    assert "<span>-0.5 for length</span>" in page
    assert "for KL" not in page


def evaluation_row(value: float) -> dict[str, float]:
    name = "eval/sum/pass@1"
    return {name: value, f"{name}_ci_low": value - 0.1, f"{name}_ci_high": value + 0.1}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run of two steps with an evaluation before and after."""
    path = tmp_path / "run=1"
    path.mkdir()
    first = {"step": 0, "time_s": 1.0} | evaluation_row(0.25)
    write_lines(path / "metrics.jsonl", [first, step_row(1), step_row(2, **evaluation_row(0.75))])
    start = {"time": "2026-01-02T03:04:05Z", "kind": "start", "recipe": "sums", "seed": 7}
    done = {"time": "2026-01-02T03:05:05Z", "kind": "done", "step": 2, "seconds": 60.0}
    write_lines(path / "events.jsonl", [start, done])
    (path / "recipe.yaml").write_text("name: sums  # x.yaml:1\nrun:\n  steps: 2\n")
    write_rollouts(path / "rollouts" / "step_000001.parquet")
    write_rollouts(path / "rollouts" / "step_000002.parquet")
    wrong = {"completion": "5", "reward": 0.0, "status": "fail", "advantage": None}
    write_rollouts(path / "rollouts" / "step_000000.eval-sum.parquet", **wrong)
    write_rollouts(path / "rollouts" / "step_000002.eval-sum.parquet", advantage=None)
    return path


def page_of(run_dir: Path) -> str:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    assert not list(run_dir.glob("*.tmp"))
    return path.read_text(encoding="utf-8")


def test_page_says_what_ran_and_how_it_ended(run_dir: Path) -> None:
    page = page_of(run_dir)
    for text in (
        "<h1>sums</h1>", "started 2026-01-02T03:04:05Z", "Finished after 1 min 0 s.", "2 of 2",
        "0.25 → 0.75", "name: sums  # x.yaml:1", "reward 1", "advantage +0.653", "ended by stop",
        "&#x27;4&#x27; equals &#x27;4&#x27;", "fail → pass", "1 gained, 0 lost",
    ):  # fmt: skip
        assert text in page, text


def test_every_chart_has_a_title(run_dir: Path) -> None:
    page = page_of(run_dir)
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    titles = [re.match(r"<svg[^>]*><title>([^<]+)</title>", picture) for picture in pictures]
    assert [found and found[1] for found in titles] == [
        "eval/sum/pass@1",
        "reward/mean",
        "rollout/length_mean_tokens",
        "rollout/truncated_rate",
        "policy/entropy",
        "policy/grad_norm",
        "mismatch/kl_k3",
        "reward/zero_variance_rate",
        "time/step_s",
    ]


def test_what_a_policy_wrote_is_text_and_never_markup(run_dir: Path) -> None:
    hostile = '</pre><script>alert("x")</script>\u202e\x00'
    texts = ["completion", "reason", "prompt_text", "status", "finish_reason", "extracted", "group_id"]
    for name in ("step_000002", "step_000002.eval-sum"):
        write_rollouts(run_dir / "rollouts" / f"{name}.parquet", **dict.fromkeys(texts, hostile))
    (run_dir / "recipe.yaml").write_text("name: <script>\n")
    event = {"time": "<script>", "kind": "verifier_error", "reason": hostile, "check": "<script>"}
    with (run_dir / "events.jsonl").open("a") as file:
        file.write(json.dumps(event | {"step": 2}) + "\n")
        file.write(json.dumps({"kind": "stopped", "error": "<script>", "message": "\ud800"}) + "\n")
    page = page_of(run_dir)
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)" in page
    assert "⟨U+202E⟩⟨U+0000⟩" in page


def test_page_asks_for_nothing_from_elsewhere(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert not re.search(r"https?:|\b(src|href|srcset)=|url\(|@import|<link|<script|<iframe", page)
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page


def test_value_that_is_not_finite_leaves_a_gap() -> None:
    points = [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, 2.0), (6, float(3))]
    chart = line_chart("policy/grad_norm", points=points)
    lines = re.findall(r'<polyline[^>]*points="([^"]*)"', chart)
    assert [len(line.split()) for line in lines] == [2, 3]
    assert "nan" not in chart.lower()


def test_point_between_gaps_can_be_seen() -> None:
    chart = line_chart("x", points=[(1, None), (2, 2.0), (3, None)])
    assert chart.count("<circle") == 1
    assert "no finite value" in line_chart("x", points=[(1, None)])


def test_null_in_metrics_is_a_gap_on_the_page(run_dir: Path) -> None:
    rows = [step_row(1), step_row(2, **{"policy/grad_norm": None}), step_row(3)]
    write_lines(run_dir / "metrics.jsonl", rows)
    figure = next(f for f in page_of(run_dir).split("<figure>") if "<title>policy/grad_norm" in f)
    assert figure.count("<circle") == 2
    assert "<polyline" not in figure


def test_long_series_keeps_its_spike() -> None:
    points = [(step, 1000.0 if step == 777 else 1.0) for step in range(20_000)]
    chart = line_chart("policy/grad_norm", points=points)
    drawn = re.findall(r"([\d.]+),([\d.]+)", re.findall(r'points="([^"]*)"', chart)[0])
    assert len(drawn) <= 600
    assert min(float(y) for _, y in drawn) == 8.0  # the top edge of the picture


def test_heights_start_at_zero() -> None:
    chart = line_chart("reward/mean", points=[(0, 0.8), (1, 1.0)])
    ys = [float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", chart)]
    assert ys == pytest.approx([8 + 140 * 0.2, 8.0])  # the picture is 140 high between its edges


def test_stack_adds_up_and_a_step_without_a_part_is_a_gap() -> None:
    layers = [("generate", [(1, 3.0), (2, None), (3, 3.0)]), ("train", [(x, 1.0) for x in (1, 2, 3)])]
    chart = stacked_chart("time/step_s", layers=layers)
    assert chart.count("<polygon") == 4  # two layers on each side of the gap
    assert ">4<" in chart


def test_interrupted_run_says_so(run_dir: Path) -> None:
    rows = [
        {"time": "t0", "kind": "start", "recipe": "sums"},
        {"time": "t1", "kind": "stopped", "error": "Interrupted", "message": "saved step 1"},
    ]
    write_lines(run_dir / "events.jsonl", rows)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')  # torn by the interruption
    page = page_of(run_dir)
    assert "Interrupted at t1: Interrupted: saved step 1" in page
    assert "1 stopped." in page
    assert "2 of 2" in page


def test_killed_run_has_no_end(run_dir: Path) -> None:
    write_lines(run_dir / "events.jsonl", [{"kind": "done"}, {"kind": "resumed", "step": 1}])
    page = page_of(run_dir)
    assert "No end is recorded" in page
    assert "resumed 1 time" in page


@pytest.mark.parametrize("rows", [[], [step_row(1)]])
def test_run_of_at_most_one_step_without_anything_else_has_a_page(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_lines(tmp_path / "metrics.jsonl", rows)
    page = page_of(tmp_path)
    assert "The run recorded no evaluation." in page
    assert "There are no training rollouts." in page
    assert page.count("<svg") == 8 * len(rows)


def test_a_single_evaluation_is_named_as_the_only_one(run_dir: Path) -> None:
    (run_dir / "rollouts" / "step_000002.eval-sum.parquet").unlink()
    assert "sum: step 0, the only evaluation" in page_of(run_dir)


def test_rollouts_that_cannot_be_read_are_named_as_such(run_dir: Path) -> None:
    (run_dir / "rollouts" / "step_000001.parquet").write_bytes(b"torn")
    page = page_of(run_dir)
    assert page.count("cannot be read") == 1


def test_alarms_are_counted_and_the_first_are_shown(run_dir: Path) -> None:
    rows = [
        {"time": "t", "kind": "group_dropped", "step": 1, "group_id": f"g{index}", "reason": "why"}
        for index in range(60)
    ]
    write_lines(run_dir / "events.jsonl", [*rows, {"kind": "stopped", "error": "LearnerError"}])
    page = page_of(run_dir)
    assert "1 stopped, 60 group_dropped. The first 50 are shown." in page
    assert ">g48<" in page
    assert ">g49<" not in page


def alarm_of(name: str, step: int, **changes: Any) -> dict[str, Any]:
    event = {
        "time": "t", "kind": "alarm", "alarm": name, "step": step, "since": step - 1, "reason": "it went wrong",
        "advice": "Do <this>", "rollouts": {"file": "rollouts/step_000002.parquet", "completion_ids": ["c7"]},
    }  # fmt: skip
    return event | changes


def test_an_alarm_is_listed_with_its_advice_and_marks_its_chart(run_dir: Path) -> None:
    errors = [{"kind": "verifier_error", "step": 1, "check": f"c{index}"} for index in range(60)]
    cleared = {"kind": "alarm_cleared", "alarm": "truncated", "step": 2, "raised_at": 1}
    alarms = [alarm_of("truncated", 1, since=0), cleared, alarm_of("zero_reward", 2)]
    write_lines(run_dir / "events.jsonl", [*errors, *alarms])
    page = page_of(run_dir)
    assert "1 alarm truncated, 1 alarm zero_reward, 1 alarm_cleared truncated, 60 verifier_error" in page
    assert "<td>rollouts/step_000002.parquet c7</td>" in page
    assert "from step 1 on it went wrong. Do &lt;this&gt;" in page
    assert "it was raised at step 1" in page
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    marked = [figure for figure in figures if 'class="alarmed"' in figure]
    assert ["reward/mean" in figure for figure in marked] == [True, False]
    assert "alarm zero_reward, steps 1 to 2" in marked[0]
    assert marked[0].count('<rect class="alarm"') == 1
    assert "alarm truncated, steps 0 to 2" in marked[1]


def test_an_alarm_about_one_check_marks_no_chart(run_dir: Path) -> None:
    write_lines(run_dir / "events.jsonl", [alarm_of("unparsed", 2, check="main")])
    page = page_of(run_dir)
    assert 'class="alarmed"' not in page
    assert "1 alarm unparsed" in page


def test_a_curve_that_ends_unhealthy_is_marked_without_any_event(run_dir: Path) -> None:
    changes = {"reward/zero_variance_rate": 1.0, "rollout/truncated_rate": 0.1}
    write_lines(run_dir / "metrics.jsonl", [step_row(1), step_row(2, **changes)])
    page = page_of(run_dir)
    (marked,) = re.findall(r'<figure class="alarmed">.*?</figure>', page, flags=re.DOTALL)
    assert "reward/zero_variance_rate" in marked
    assert '<line class="bound"' in marked
    assert "No signal (reward/zero_variance_rate)" in page
    assert "Cut (rollout/truncated_rate)" in page


def test_every_check_and_the_reference_are_shown(run_dir: Path) -> None:
    verdicts = [
        {"check": "main", "role": "reward", "status": "pass", "score": 1.0, "extracted": "4", "reason": "equal"},
        {"check": "tags", "role": "gate", "status": "fail", "score": 0.0, "extracted": None, "reason": "no <b>"},
        {"check": "watch", "role": "shadow", "status": "error", "score": None, "reason": "it broke"},
    ]
    for name in ("step_000002", "step_000002.eval-sum"):
        write_rollouts(
            run_dir / "rollouts" / f"{name}.parquet",
            reward=0.0,
            verdicts=json.dumps(verdicts),
            reference="the gold & answer",
        )
    page = page_of(run_dir)
    for text in (
        '<b class="bad">vetoed by tags</b>', "the gold &amp; answer", "fail → vetoed by tags",
        'main: <b class="good">pass</b>, score 1, answer read: 4; equal',
        'tags (gate): <b class="bad">fail</b>, score 0; no &lt;b&gt;',
        'watch (shadow): <b class="odd">error</b>; it broke',
    ):  # fmt: skip
        assert text in page, text


def test_a_right_answer_that_was_cut_off_says_why_it_earned_nothing(run_dir: Path) -> None:
    path = run_dir / "rollouts" / "step_000002.parquet"
    write_rollouts(path, reward=0.0, finish_reason="length")
    assert '<b class="bad">cut off, so no reward</b>' in page_of(run_dir)


@pytest.mark.parametrize("width", [320, 390, 560, 700, 1080])
def test_labels_of_the_wide_chart_can_be_read_at_any_width(run_dir: Path, width: int) -> None:
    page = page_of(run_dir)
    drawn = float(re.search(r'class="wide"><figure>.*?viewBox="0 0 (\d+) ', page, re.DOTALL)[1])  # type: ignore[index]
    rules = re.findall(r"(?:max-width:(\d+)px\) \{ )?\.wide svg text \{ font-size:(\d+)px", page)
    sizes = [float(size) for most, size in rules if not most or width <= int(most)]
    shown_px = sizes[-1] * (width - 66) / drawn  # 66: the margins of page and figure
    assert 8 <= shown_px <= 17


@pytest.mark.parametrize("name", ["", "absent"])
def test_folder_without_metrics_is_not_a_run(tmp_path: Path, name: str) -> None:
    expected = "there is no such folder" if name else "it has no metrics.jsonl"
    with pytest.raises(ConfigError, match=f"is not a run directory: {expected}"):
        write_report(tmp_path / name)


def test_numbers_are_written_for_people() -> None:
    values = (0.58505, 12345.0, 1.23e-5, None, 26182.75, -0.5, 0.0)
    assert [number(v) for v in values] == ["0.585", "12,345", "1.23e-05", "–", "26,183", "-0.5", "0"]
    assert [duration(s) for s in (51.3, 521.2, 8000)] == ["51.3 s", "8 min 41 s", "2 h 13 min"]
    assert escaped("a\n<b>") == "a\n&lt;b&gt;"


def test_a_report_that_fails_too_does_not_hide_why_the_run_failed(run_dir: Path, caplog: pytest.LogCaptureFixture):
    (run_dir / "report.html").unlink(missing_ok=True)
    (run_dir / "report.html").mkdir()
    notes: list[str] = []
    with pytest.raises(CheckpointError, match="the disk is full"), reported(run_dir, note=notes.append):
        raise CheckpointError("the disk is full")
    assert notes == []
    assert "the report could not be written" in caplog.text
    with pytest.raises(StorageError, match=r"report\.html cannot be written"), reported(run_dir, note=notes.append):
        pass


def test_the_report_is_written_whether_or_not_the_run_failed(run_dir: Path):
    notes: list[str] = []
    with pytest.raises(CheckpointError), reported(run_dir, note=notes.append):
        raise CheckpointError("torn")
    with reported(run_dir, note=notes.append):
        pass
    assert notes == [f"report {run_dir / 'report.html'}"] * 2


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": ' + "9" * 5000 + "}", '{"step": {}}'])
def test_lines_that_no_reader_can_take_are_left_out(run_dir: Path, line: str):
    before = write_report(run_dir).read_text()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    assert write_report(run_dir).read_text() == before


def test_a_file_that_cannot_be_read_is_named(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(path: Path, **_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(
        StorageError, match=r"metrics\.jsonl cannot be read: Permission denied|recipe\.yaml cannot be read"
    ):
        write_report(run_dir)
