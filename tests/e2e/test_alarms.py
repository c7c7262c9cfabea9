"""Runs of the tiny policy that learn nothing, and what they say about it."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlvr.run.monitor.findings import TRUNCATED_RATE
from tests.e2e.in_process import rlvr_here

TINY = [
    "cold_start.steps=0", "rollout.prompts_per_step=2", "rollout.group_size=2", "rollout.max_completion_tokens=1",
    "run.steps=6", "run.eval_prompts=2", "run.trackers=[]", "data.train.0.verifier_settings={}",
]  # fmt: skip
CHECKS = '''
import os
from rlvr.plugin import verifier

@verifier(version="1")
def never(text: str, reference: str) -> bool:
    """Nothing passes."""
    return False

@verifier(version="1")
def always(text: str, reference: str) -> bool:
    """Everything passes."""
    return True

@verifier(version="1")
def dies(text: str, reference: str) -> bool:
    """Ends its worker."""
    os._exit(3)
'''


def train(folder: Path, run: str, *changes: str, expect: int = 0) -> str:
    """Output of a run; it must end with the exit code expected."""
    (folder / "my_checks.py").write_text(CHECKS, encoding="utf-8")
    return rlvr_here("train", "tiny", *TINY, *changes, "--run-dir", run, cwd=folder, expect=expect)


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_zero_rewards_and_cut_completions_are_reported_once_and_again_after_a_resume(tmp_path: Path):
    never = "data.train.0.verifier=my_checks.py:never"
    out = train(tmp_path, "run", never)
    run = tmp_path / "run"
    alarms = {event["alarm"]: event for event in events_of(run, "alarm")}
    assert set(alarms) == {"zero_reward", "no_signal", "truncated"}
    assert len(events_of(run, "alarm")) == 3
    for event in alarms.values():
        assert (event["since"], event["step"]) == (1, 5)
        assert event["advice"]
        rows = pq.read_table(run / event["rollouts"]["file"]).to_pylist()
        assert {row["completion_id"] for row in rows} >= set(event["rollouts"]["completion_ids"])
        assert all(row["reference"] for row in rows)
    assert alarms["truncated"]["rate"] > TRUNCATED_RATE
    lines = [line for line in out.splitlines() if "alarm" in line]
    assert ["zero_reward" in line for line in lines] == [True, False]
    assert "rlvr verify my_checks.py:never --explain" in lines[0]
    assert "rollout.max_completion_tokens" in lines[1]
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["check/never/pass_rate"] == row["check/never/mean_score"] == 0.0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "1 alarm zero_reward, 1 alarm no_signal, 1 alarm truncated" in page
    assert page.count('<figure class="alarmed">') == 3

    again = train(tmp_path, "run", never, "run.steps=7", "--resume")
    assert again.count("alarm zero_reward") == again.count("alarm truncated") == 1
    assert [event["step"] for event in events_of(run, "alarm")] == [5, 5, 5, 7, 7, 7]


def test_equal_rewards_are_no_signal_after_as_many_steps_as_the_recipe_says(tmp_path: Path):
    always = ["data.train.0.verifier=my_checks.py:always", "reward.truncated=judge"]
    out = train(tmp_path, "run", *always, "run.alarm_after_steps=2", "run.steps=3")
    alarms = events_of(tmp_path / "run", "alarm")
    assert [event["alarm"] for event in alarms] == ["no_signal", "truncated"]
    assert "too easy" in alarms[0]["advice"]
    assert "step 2: alarm no_signal: for 2 steps in a row every completion earned the same reward, 1" in out


@pytest.mark.slow
def test_a_short_run_without_any_verdict_does_not_end_as_done(tmp_path: Path):
    dies = [f"data.{part}.0.verifier=my_checks.py:dies" for part in ("train", "eval")]
    settings = ["data.eval.0.verifier_settings={}", "run.steps=2", "rollout.prompts_per_step=1"]
    out = train(tmp_path, "run", *dies, *settings, expect=1)
    assert "none of the run's 4 completions could be judged" in out
    assert "done" not in out
    assert [event["error"] for event in events_of(tmp_path / "run", "stopped")] == ["VerifierError"]
    assert events_of(tmp_path / "run", "done") == []
    broken = [event.get("evaluation", "") for event in events_of(tmp_path / "run", "broken_checker")]
    assert broken == ["sort", "", "", "sort"]
    assert out.count("evaluation 'sort': verifier 'dies@1'") == 1
    assert "none of 2 completions could be judged" in rlvr_here("eval", "run", cwd=tmp_path, expect=1)
