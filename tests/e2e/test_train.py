"""Whole runs of the tiny policy through the command line; one of each kind has a process of its own, as a user has."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rlvr.run.record.recipe_file import signed
from tests.e2e.in_process import rlvr_here

TINY = [
    "cold_start.steps=6", "cold_start.batch_size=16", "rollout.prompts_per_step=4", "rollout.group_size=4",
    "run.steps=4", "run.eval_every_steps=2", "run.eval_prompts=12", "run.trackers=[]", "learner.num_threads=1",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rlvr.cli", *arguments]


def rlvr(*arguments: str, cwd: Path, expect: int = 0) -> str:
    """Output of the command; it must end with the exit code expected."""
    done = subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "rollout/tokens_per_s", "learner/tokens_per_s", "learner/peak_memory", "learner/mfu")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps, with a checkpoint after the second."""
    folder = tmp_path_factory.mktemp("finished")
    rlvr("train", "tiny", *TINY, "run.checkpoint_every_steps=2", "--run-dir", "run", cwd=folder)
    return folder / "run"


def test_a_run_leaves_what_the_readme_promises(finished: Path):
    rows = metrics_of(finished)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval/sort/pass@1" in row] == [0, 2, 4]
    assert rows[-1]["policy/loss"] is not None
    kinds = [json.loads(line)["kind"] for line in (finished / "events.jsonl").read_text().splitlines()]
    assert kinds[0] == "start"
    assert kinds[-1] == "done"
    assert {"cold_start", "checkpoint"} <= set(kinds)
    table = pq.read_table(finished / "rollouts" / "step_000003.parquet").to_pylist()
    assert len(table) == 16
    for row in table:
        assert row["prompt_text"]
        assert row["reason"]
        assert len(row["token_ids"]) == len(row["logprobs"]) == len(row["policy_versions"])
        assert set(row["policy_versions"]) == {2}
    assert sum(row["advantage"] for row in table) == pytest.approx(0, abs=1e-6)
    assert (finished / "report.html").is_file()


def test_the_checkpoint_loads_in_transformers(finished: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished / "checkpoints" / "step_4"
    AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).decode([4, 5]) == "01"


@pytest.mark.slow
def test_the_resolved_recipe_gives_the_same_run_to_the_last_digit(finished: Path, tmp_path: Path):
    recipe = str(finished / "recipe.yaml")
    rlvr("train", recipe, "run.checkpoint_every_steps=0", "--run-dir", "again", cwd=tmp_path)
    assert metrics_of(tmp_path / "again") == metrics_of(finished)


def test_another_seed_gives_another_run(finished: Path, tmp_path: Path):
    rlvr_here("train", "tiny", *TINY, "seed=5", "--run-dir", "other", cwd=tmp_path)
    assert metrics_of(tmp_path / "other") != metrics_of(finished)


def test_resume_continues_exactly_and_cuts_what_lies_beyond_the_checkpoint(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for file in (run / "checkpoints" / "step_4").iterdir():
        file.unlink()  # as if the machine had died while step 4 was saved
    arguments = ("train", "tiny", *TINY, "run.checkpoint_every_steps=2", "--run-dir", "run")
    rlvr_here(*arguments, "--resume", cwd=tmp_path)
    assert metrics_of(run) == metrics_of(finished)
    assert [event["step"] for event in _events(run, "resumed")] == [2]


def test_auto_dtypes_are_chosen_once_and_kept_with_their_figures(tmp_path: Path):
    run = ("train", "tiny", *TINY, "learner.dtype=auto", "--run-dir", "run")
    rlvr_here(*run, "run.steps=2", cwd=tmp_path)
    stored = tmp_path / "run" / "recipe.yaml"
    line = next(x for x in stored.read_text().splitlines() if x.strip().startswith("dtype: "))
    chosen = line.split()[1]
    assert chosen in {"float32", "bfloat16_autocast"}
    assert "auto: float32 " in line
    assert "GFLOP/s" in line
    (event,) = _events(tmp_path / "run", "dtypes")
    assert event["learner_dtype"] == chosen
    assert event["float32_gflops"] > 0

    # Resumed on another machine, which would choose otherwise: the run goes on in the arithmetic that it began in.
    other = "float32" if chosen == "bfloat16_autocast" else "bfloat16_autocast"
    engine = "shared" if other == "float32" else "bfloat16"
    text = stored.read_text().partition("# end of the recipe")[0].replace(line, f"  dtype: {other}")
    kept = [x for x in text.splitlines() if x.strip().startswith("engine_dtype: ")]
    stored.write_text(signed(text.replace(kept[0], f"  engine_dtype: {engine}")))
    rlvr_here(*run, "--resume", cwd=tmp_path)
    assert f"  dtype: {other}  # auto: chosen when the run started" in stored.read_text()
    assert f"engine_dtype: {engine}" in stored.read_text()
    assert len(_events(tmp_path / "run", "dtypes")) == 1
    assert metrics_of(tmp_path / "run")[-1]["step"] == 4


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_interrupt_finishes_the_step_saves_and_exits_130(tmp_path: Path):
    steps = [*TINY, "run.steps=100000", "run.eval_every_steps=0", "--run-dir", "run"]
    process = subprocess.Popen(
        command("train", "tiny", *steps),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and " 2/" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait(timeout=120) == 130, rest
    assert "--resume" in rest
    last = metrics_of(tmp_path / "run")[-1]["step"]
    assert (tmp_path / "run" / "checkpoints" / f"step_{last}" / "complete.json").is_file()
    rlvr("train", "tiny", *steps, f"run.steps={last + 1}", "--resume", cwd=tmp_path)
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == list(range(last + 2))


def test_resume_keeps_the_reference_of_a_cold_start(tmp_path: Path):
    run = ("train", "tiny", *TINY, "algorithm.kl_coef=0.1", "run.checkpoint_every_steps=2", "run.eval_every_steps=0")
    rlvr_here(*run, "--run-dir", "run", cwd=tmp_path)
    whole = metrics_of(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step_4" / "complete.json").unlink()
    rlvr_here(*run, "--run-dir", "run", "--resume", cwd=tmp_path)
    assert metrics_of(tmp_path / "run") == whole


def test_resume_refuses_another_recipe_and_names_what_differs(finished: Path):
    changed = [*TINY, "run.steps=8", "learner.lr=7e-7"]
    out = rlvr_here("train", "tiny", *changed, "--run-dir", str(finished), "--resume", cwd=finished, expect=2)
    assert "learner.lr: 0.0003 -> 7e-07" in out
    assert "run.steps" not in out.partition("Different:")[2]


def test_resuming_a_finished_run_says_that_nothing_is_left(finished: Path):
    before = metrics_of(finished)
    out = rlvr_here("train", "tiny", *TINY, "--run-dir", str(finished), "--resume", cwd=finished)
    assert "nothing left to train" in out
    assert metrics_of(finished) == before
    assert len(_events(finished, "done")) == 1
    shorter = ("train", "tiny", *TINY, "run.steps=3", "--run-dir", str(finished), "--resume")
    assert "nothing left to train" in rlvr_here(*shorter, cwd=finished, expect=2)


def test_a_run_that_saved_nothing_is_started_over_by_a_resume_and_ends_the_same(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints")  # as if it had been killed before the first one
    out = rlvr_here("train", "tiny", *TINY, "--run-dir", "run", "--resume", cwd=tmp_path)
    assert "it starts over from the first step" in out
    assert metrics_of(run) == metrics_of(finished)
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT COUNT(*) FROM issues").fetchone() == (16,)


def test_a_damaged_checkpoint_ends_resume_and_eval_with_exit_code_1(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints" / "step_2")
    weights = run / "checkpoints" / "step_4" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 2
    weights.write_bytes(data)
    for arguments in (("train", "tiny", *TINY, "run.steps=6", "--run-dir", "run", "--resume"), ("eval", "run")):
        out = rlvr_here(*arguments, cwd=tmp_path, expect=1)
        assert "step_4 is damaged: model.safetensors has changed since it was written" in out
        assert "Traceback" not in out


def test_eval_reports_the_figure_of_the_last_row(finished: Path, tmp_path: Path):
    out = rlvr_here("eval", str(finished), "--output", "rollouts.jsonl", cwd=tmp_path)
    expected = metrics_of(finished)[-1]["eval/sort/pass@1"]
    assert f"{expected:.4g}" in out
    assert len((tmp_path / "rollouts.jsonl").read_text().splitlines()) == 12
    sampled = rlvr_here("eval", str(finished), "--samples-per-prompt", "4", cwd=tmp_path)
    for name in ("avg@4", "pass@2", "pass@4", "maj@4"):
        assert f"eval/sort/{name}" in sampled


def test_a_broken_verifier_is_an_error_not_a_zero_and_stops_the_run(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from rlvr.plugin import verifier\n\n@verifier(version='1')\ndef broken(text, reference):\n"
        "    raise ConnectionError('service is down')\n"
    )
    out = rlvr_here(
        "train",
        "tiny",
        *TINY,
        "run.eval_every_steps=0",
        "data.eval=[]",
        "data.train.0.verifier=mine.py:broken",
        "data.train.0.verifier_settings={}",
        "--run-dir",
        "run",
        cwd=tmp_path,
        expect=1,
    )
    assert "100% of rollouts could not be judged" in out
    assert "service is down" in out
    assert out.count('  File "mine.py", line 5, in broken\n') == 2  # when it is tried, and at the first completion
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    errors = [e for e in events if e["kind"] == "verifier_error" and e["completion_id"]]
    assert [e.get("traceback", "").count("mine.py") for e in errors[:2]] == [1, 0]
    assert any(e["kind"] == "group_dropped" for e in events)


@pytest.mark.slow
def test_a_verifier_that_dies_on_every_completion_is_reported_and_stops_the_run(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import os\nfrom rlvr.plugin import verifier\n\n@verifier(version='1')\n"
        "def dies(text, reference):\n    os._exit(3)\n"
    )
    out = rlvr_here(
        "train",
        "tiny",
        *TINY,
        "run.eval_every_steps=0",
        "data.eval=[]",
        "rollout.prompts_per_step=1",
        "data.train.0.verifier=mine.py:dies",
        "data.train.0.verifier_settings={}",
        "--run-dir",
        "run",
        cwd=tmp_path,
        expect=1,
    )
    assert "for 3 steps verifier 'dies@1'" in out
    assert "look for os._exit" in out
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    broken = [event for event in events if event["kind"] == "broken_checker"]
    assert [(event["step"], event["cause"], event["rate"]) for event in broken] == [
        (1, "exit", 1.0),
        (2, "exit", 1.0),
        (3, "exit", 1.0),
    ]
    assert sum(event["kind"] == "checkpoint" for event in events) == 1


def test_dry_run_creates_nothing(tmp_path: Path):
    out = rlvr_here("train", "tiny", "--dry-run", cwd=tmp_path)
    assert "256" in out  # completions a step
    assert list(tmp_path.iterdir()) == []


def test_toy_engine_runs_every_part_without_a_model(tmp_path: Path):
    rlvr_here("train", "tiny", *TINY, "rollout.engine=toy", "--run-dir", "run", cwd=tmp_path)
    assert len(metrics_of(tmp_path / "run")) == 5


@pytest.mark.parametrize("changes", [
    ["rollout.engine_dtype=bfloat16", "learner.dtype=bfloat16_autocast"],
    ["rollout.engine_dtype=bfloat16", "learner.minibatches_per_step=2"],
    ["learner.minibatches_per_step=4", "algorithm.kl_coef=0.1", "algorithm.aggregation=sequence_mean"],
    ["learner.gradient_checkpointing=true", "learner.share_prompt_prefix=false"],
])  # fmt: skip
def test_variants_of_the_recipe_run_and_report(tmp_path: Path, changes: list[str]):
    rlvr_here("train", "tiny", *TINY, *changes, "--run-dir", "run", cwd=tmp_path)
    last = metrics_of(tmp_path / "run")[-1]
    assert ("policy/kl_k3" in last) == ("algorithm.kl_coef=0.1" in changes)
    if "rollout.engine_dtype=bfloat16" in changes:
        assert 0 < last["mismatch/kl_k3"] < 0.1
