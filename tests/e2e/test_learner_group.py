"""Whole runs with two learners, as a user starts them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    "data.train.0.settings.length=3", "data.eval=[]", "cold_start.steps=120", "cold_start.batch_size=64",
    "cold_start.lr=2e-3", "cold_start.lr_warmup_steps=5", "rollout.prompts_per_step=4", "rollout.group_size=8",
    "run.steps=2", "run.checkpoint_every_steps=1", "run.trackers=[]", "algorithm.kl_coef=0.05",
]  # fmt: skip


def rlvr(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "rlvr.cli", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_learners_do_what_one_does_and_one_goes_on_from_their_checkpoint(tmp_path: Path):
    rlvr("train", "tiny", *SMALL, "--run-dir", "one", cwd=tmp_path)
    rlvr("train", "tiny", *SMALL, "cluster.learners=2", "--run-dir", "two", cwd=tmp_path)
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [row["step"] for row in two] == [1, 2]
    assert two[0]["policy/grad_norm"] > 0.1
    for name in ("policy/grad_norm", "policy/loss", "policy/entropy", "reward/mean"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-3, abs=1e-6), name

    (tmp_path / "two" / "checkpoints" / "step_2" / "complete.json").unlink()
    rlvr("train", "tiny", *SMALL, "--resume", "--run-dir", "two", cwd=tmp_path)
    again = rows_of(tmp_path / "two")
    assert [row["step"] for row in again] == [1, 2]
    for name in ("policy/grad_norm", "policy/kl_k3", "reward/mean", "learner/loss_tokens"):
        assert again[1][name] == pytest.approx(two[1][name], rel=1e-3, abs=1e-6), name
