"""Staleness, dynamic sampling and difficulty in whole runs: nothing is lost, nothing is trained twice."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from rlvr.config.load import load_recipe
from rlvr.config.recipe import ModelConfig
from rlvr.models.policy import load_policy
from rlvr.run.launch import local
from rlvr.run.launch.preflight import opened
from rlvr.run.launch.request import RunRequest
from rlvr.run.record.console import Console
from rlvr.run.record.directory import open_directory
from rlvr.run.record.journal import MetricsFile
from rlvr.run.record.resume_choice import ResumeChoice

# What a completion earns depends on its prompt and its sample index alone, so that what is dropped and what is solved
# is the same whichever version sampled it.
VERIFIERS = '''
from rlvr.plugin import verifier


@verifier(version="1")
def by_index(prompt, completion, reference):
    """Passes on easy prompts, fails on hard ones, alternates on the rest."""
    return reference == "easy" or (reference == "mixed" and completion.sample_index % 2 == 0)


@verifier(version="1")
def low_first(text, reference):
    """Passes when the first character is a digit below 5."""
    return text[:1] in ("0", "1", "2", "3", "4")
'''
BASE = [
    "cold_start.steps=0", "rollout.prompts_per_step=4", "rollout.group_size=4", "data.eval=[]", "run.trackers=[]",
    "run.show_rollout_every_steps=0", "reward.truncated=judge", "data.train.0.verifier_settings={}", "learner.lr=3e-3",
    "learner.lr_warmup_steps=0",
]  # fmt: skip
FROM_FILE = ["data.train.0.verifier=mine.py:by_index", "data.train.0.source=rows.jsonl", "data.train.0.settings={}"]
LOW_FIRST = ["data.train.0.verifier=mine.py:low_first"]
STALE = ["rollout.max_staleness=2", "rollout.engine_dtype=float32", "algorithm.correction.weight=token"]
EVALUATE = "data.eval=[{source: rows.jsonl, name: held, template: plain, verifier: 'mine.py:by_index'}]"
DYNAMIC = ["algorithm.dynamic_sampling.enabled=true"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: verifiers and a small data set."""
    (tmp_path / "mine.py").write_text(VERIFIERS)
    kinds = ["easy", "mixed", "hard", "mixed", "mixed"]
    rows = [{"prompt": f"{i:02d}{i * 7 % 10}:", "reference": kinds[i % 5]} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(name: str, *changes: str, resume: bool = False) -> Path:
    """The run directory of a run in this process."""
    loaded = load_recipe("tiny", [*BASE, *changes])
    path = Path.cwd() / name
    with opened(loaded.recipe) as (service, data):
        directory = open_directory(path, recipe_name="tiny", resume=resume)
        local.train(
            RunRequest(
                loaded=loaded,
                service=service,
                data=data,
                directory=directory,
                console=Console(file=io.StringIO()),
                resume=ResumeChoice() if resume else None,
            )
        )
    return path


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what depends on the clock or the machine."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "rollout/tokens_per_s", "learner/tokens_per_s", "learner/peak", "learner/mfu")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


def events_of(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def ledger_of(run: Path) -> list[tuple[Any, ...]]:
    """(issue, prompt, state, step, reason) of every prompt that was handed out."""
    with sqlite3.connect(run / "ledger.sqlite") as db:
        query = "SELECT issue_index, prompt_id, state, step, reason FROM issues ORDER BY issue_index"
        return list(db.execute(query))


def rollouts_of(run: Path, step: int) -> list[dict[str, Any]]:
    return pq.read_table(run / "rollouts" / f"step_{step:06d}.parquet").to_pylist()


def test_staleness_is_what_the_recipe_says_and_two_runs_are_equal_to_the_last_digit(folder: Path):
    changes = [*STALE, *LOW_FIRST, "run.steps=5"]
    rows = rows_of(train("one", *changes))
    assert [row["policy/staleness_mean"] for row in rows] == [0, 1, 2, 2, 2]
    assert [row["policy/staleness_max"] for row in rows] == [0, 1, 2, 2, 2]
    # Where the version that trains is the one that sampled, the float32 copy differs by rounding alone.
    assert rows[0]["mismatch/max_abs_logprob_diff"] < 1e-5
    assert rows[2]["mismatch/max_abs_logprob_diff"] > 0.01
    assert rows_of(train("two", *changes)) == rows


def test_an_evaluation_sees_one_version_however_much_is_in_flight(folder: Path):
    """Greedy answers of each evaluation equal those of the checkpoint of its step, evaluated alone."""
    changes = [*STALE, *LOW_FIRST, "run.steps=3", "run.eval_every_steps=1", "run.checkpoint_every_steps=1",
               "run.keep_checkpoints=9", "run.eval_prompts=8", EVALUATE]  # fmt: skip
    run = train("run", *changes)
    for step in (1, 2, 3):
        seen = pq.read_table(run / "rollouts" / f"step_{step:06d}.eval-held.parquet").to_pylist()
        assert {v for row in seen for v in row["policy_versions"]} == {step}
        policy = load_policy(ModelConfig(path=str(run / "checkpoints" / f"step_{step}")), seed=0)
        for row in seen:
            ids = torch.tensor([row["prompt_token_ids"]])
            alone = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
            assert alone[0, ids.shape[1] :].tolist() == row["token_ids"]


def test_groups_without_signal_are_replaced_and_counted(folder: Path):
    run = train("run", *DYNAMIC, *FROM_FILE, "run.steps=4")
    rows = rows_of(run)
    settled = [row for row in ledger_of(run) if row[3] is not None]
    for metrics in rows:
        of_step = [row for row in settled if row[3] == metrics["step"]]
        dropped = [row for row in of_step if row[2] == "dropped"]
        assert len(of_step) - len(dropped) == 4
        assert {row[4] for row in dropped} <= {"all judged rewards are equal"}
        assert metrics["rollout/refilled_groups"] == metrics["rollout/dropped_groups"] == len(dropped)
        assert metrics["rollout/num_completions"] == 4 * len(of_step)
        wasted = {row[1] for row in dropped}
        sizes = [(row["prompt_id"] in wasted, len(row["token_ids"])) for row in rollouts_of(run, metrics["step"])]
        lost = sum(count for is_lost, count in sizes if is_lost)
        assert metrics["rollout/wasted_tokens"] == lost
        assert metrics["rollout/wasted_rate"] == pytest.approx(lost / sum(n for _, n in sizes))
    assert sum(row["rollout/refilled_groups"] for row in rows) > 0
    # The denominators know only of what was kept.
    trained = [r for r in rollouts_of(run, 1) if r["advantage"] is not None]
    assert rows[0]["learner/loss_tokens"] == sum(len(r["token_ids"]) for r in trained)


@pytest.mark.parametrize("stale", [[], STALE])
def test_without_any_signal_each_step_spends_its_refills_and_the_run_goes_on(
    folder: Path, stale: list[str], caplog: pytest.LogCaptureFixture
):
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}:", "reference": "easy"}) + "\n" for i in range(9))
    )
    run = train("run", *DYNAMIC, *FROM_FILE, *stale, "run.steps=3", "algorithm.dynamic_sampling.max_refill_factor=0.8")
    rows = rows_of(run)
    assert [row["rollout/dropped_groups"] for row in rows] == [7, 7, 7]  # 4 + floor(0.8 * 4)
    assert [row["rollout/wasted_rate"] for row in rows] == [1, 1, 1]
    assert [event["step"] for event in events_of(run, "step_without_groups")] == [1, 2, 3]
    assert [event["groups"] for event in events_of(run, "refill_spent")] == [7, 7, 7]
    warned = [r for r in caplog.records if "carried a signal" in r.getMessage()]
    assert len(warned) == 1
    assert {v for r in rollouts_of(run, 3) for v in r["policy_versions"]} == {0}  # nothing was learned


def test_dynamic_sampling_with_staleness_is_reproducible(folder: Path):
    changes = [*STALE, *DYNAMIC, *LOW_FIRST, "run.steps=5"]
    rows = rows_of(train("one", *changes))
    assert sum(row["rollout/refilled_groups"] for row in rows) > 0
    assert max(row["policy/staleness_max"] for row in rows) == 2
    assert rows_of(train("two", *changes)) == rows


@pytest.mark.parametrize(
    ("die_at", "seed"), [(4, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((6, 1), (7, 2), (9, 3)))]
)
def test_a_run_that_died_with_prompts_in_flight_loses_none_and_repeats_none(
    folder: Path, die_at: int, seed: int, monkeypatch: pytest.MonkeyPatch
):
    """Staleness, dynamic sampling and difficulty at once: the ledger is that of a run that never died."""
    changes = [*STALE, *DYNAMIC, *FROM_FILE, "run.steps=10", "run.checkpoint_every_steps=3", f"seed={seed}",
               "data.difficulty.prefer_signal=true", "data.difficulty.min_attempts=4", "data.difficulty.floor=0.3",
               "algorithm.dynamic_sampling.max_refill_factor=1.0"]  # fmt: skip
    whole = train("whole", *changes)
    with monkeypatch.context() as patch:
        write = MetricsFile.write

        def die(self: MetricsFile, step: int, **rest: Any) -> None:
            if step == die_at:
                raise OSError("no power")
            write(self, step, **rest)

        patch.setattr(MetricsFile, "write", die)
        with pytest.raises(OSError, match="no power"):
            train("run", *changes)
    run = train("run", *changes, resume=True)
    assert events_of(run, "resumed")[0]["step"] == (die_at - 1) // 3 * 3
    ledger = ledger_of(run)
    assert ledger == ledger_of(whole)
    assert [row[0] for row in ledger] == list(range(len(ledger)))
    trained = Counter(row[2] for row in ledger)["trained"]
    assert trained == sum(row["rollout/num_completions"] / 4 - row["rollout/dropped_groups"] for row in rows_of(run))
    names = [name for name in rows_of(whole)[-1] if name.startswith(("data/", "rollout/refilled"))]
    assert [[row[name] for name in names] for row in rows_of(run)] == [
        [row[name] for name in names] for row in rows_of(whole)
    ]


@pytest.mark.slow
def test_a_killed_process_resumes_the_same_way(folder: Path):
    changes = [*STALE, *DYNAMIC, *FROM_FILE, "run.steps=12", "run.checkpoint_every_steps=3"]
    whole = train("whole", *changes)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlvr.cli", "train", "tiny", *BASE, *changes, "--run-dir", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and " 5/" in line:
            process.kill()
            break
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert ledger_of(train("run", *changes, resume=True)) == ledger_of(whole)


def test_solved_prompts_retire_and_when_none_is_left_the_run_ends_early_and_well(folder: Path):
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i}:", "reference": "easy"}) + "\n" for i in range(10))
    )
    changes = [
        *FROM_FILE,
        "data.difficulty.retire_solve_rate=1.0",
        "data.difficulty.min_attempts=4",
        EVALUATE,
        "run.eval_prompts=4",
    ]
    run = train("run", *changes, "run.steps=50")
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["data/retired_prompts"] for row in rows[1:]] == [4, 8, 10]
    assert [row["rollout/num_completions"] for row in rows[1:]] == [16, 16, 16]  # the last two came twice
    assert [event["step"] for event in events_of(run, "pool_exhausted")] == [3]
    assert events_of(run, "done")[0]["step"] == 3
    assert "eval/held/pass@1" in rows[-1]
    assert (run / "checkpoints" / "step_3" / "complete.json").is_file()
    train("run", *changes, "run.steps=60", resume=True)
    assert [row["step"] for row in rows_of(run)] == [0, 1, 2, 3]
    assert [event["step"] for event in events_of(run, "pool_exhausted")] == [3, 3]


def test_a_prompt_that_comes_again_before_the_weights_change_is_sampled_anew(folder: Path):
    (folder / "rows.jsonl").write_text('{"prompt": "12:", "reference": "mixed"}\n')
    run = train("run", *FROM_FILE, "run.steps=1")
    completions = [tuple(row["token_ids"]) for row in rollouts_of(run, 1)]
    assert len(completions) == 16
    assert len(set(completions)) > 8  # four groups of one prompt at one version


def test_streaming_while_the_engine_generates_is_reproducible_and_takes_the_same_steps(folder: Path):
    changes = [*LOW_FIRST, "rollout.engine_dtype=float32", "run.steps=3"]
    streaming = rows_of(train("one", *changes, "learner.streaming=true"))
    assert rows_of(train("two", *changes, "learner.streaming=true")) == streaming
    for row, other in zip(rows_of(train("whole", *changes)), streaming, strict=True):
        for name in ("policy/loss", "policy/grad_norm", "policy/entropy"):
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6)
        assert other["reward/mean"] == row["reward/mean"]


@pytest.mark.parametrize("changes", [
    ["rollout.engine_dtype=float32", "learner.dtype=bfloat16_autocast", "rollout.max_staleness=1",
     "algorithm.correction.ratio_base=behavior", "learner.streaming=true", "algorithm.kl_coef=0.05",
     "algorithm.kl_placement=reward"],
    [*STALE, "rollout.engine_dtype=bfloat16", "learner.minibatches_per_step=2", "algorithm.kl_coef=0.05",
     "algorithm.kl_placement=reward", "algorithm.advantage=rloo"],
    ["rollout.engine=toy", *STALE, *DYNAMIC, "reward.truncated=mask", "reward.overlong_buffer_tokens=3"],
    ["learner.streaming=true", "learner.gradient_checkpointing=true", "algorithm.zero_variance=drop",
     "reward.overlong_buffer_tokens=2"],
])  # fmt: skip
def test_combinations_run_reproducibly(folder: Path, changes: list[str]):
    runs = [rows_of(train(name, *LOW_FIRST, *changes, "run.steps=4")) for name in ("one", "two")]
    assert runs[0] == runs[1]
    assert [row["step"] for row in runs[0]] == [1, 2, 3, 4]
    assert ("reward/kl_penalty_mean" in runs[0][-1]) == ("algorithm.kl_placement=reward" in changes)
    has_overlong = any("overlong" in change for change in changes)
    assert ("reward/overlong_penalty_mean" in runs[0][-1]) == has_overlong
