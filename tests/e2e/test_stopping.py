"""Runs that are stopped while a step or an evaluation hangs, and runs whose time is over."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.in_process import rlvr_here
from tests.e2e.ray.ray_runs import Running, command, environment, events_of, rlvr, rows_of

SMALL = [
    "rollout.engine=toy", "cold_start.steps=0", "rollout.prompts_per_step=2", "rollout.group_size=2", "run.trackers=[]",
    "run.show_rollout_every_steps=0", "run.steps=5", "run.checkpoint_every_steps=1", "run.eval_prompts=4",
    "run.eval_every_steps=1", "learner.num_threads=1", "reward.verifier_workers=1", "reward.verifier_deadline_s=1000",
    "data.train.0.verifier_settings={}", "data.eval.0.verifier_settings={}",
]  # fmt: skip
# Hangs while a file `train` or `eval` lies in the working directory, and says so first.
VERIFIER = '''
import os, time
from rlvr.plugin import verifier


@verifier(version="1")
def {name}(text, reference):
    """Passes on a digit below 5."""
    is_asked_before_the_run = text in ("I do not know.", reference)
    while os.path.exists("{name}") and not is_asked_before_the_run:
        open("{name}-hangs", "w").close()
        time.sleep(0.05)
    return text[:1] in ("0", "1", "2", "3", "4")
'''


@pytest.fixture
def changes(tmp_path: Path) -> list[str]:
    """Overrides of a run in `tmp_path` whose verifiers can be made to hang."""
    for name in ("train", "eval"):
        (tmp_path / f"{name}.py").write_text(VERIFIER.format(name=name))
    return [*SMALL, "data.train.0.verifier=train.py:train", "data.eval.0.verifier=eval.py:eval"]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "signals", "grace_s"), [
    ("train", [signal.SIGTERM], 4), pytest.param("eval", [signal.SIGTERM], 4, marks=pytest.mark.slow),
    pytest.param("train", [signal.SIGINT] * 2, 1000, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_step_that_hangs_is_dropped_and_the_last_line_says_how_to_continue(
    tmp_path: Path, changes: list[str], where: str, signals: list[signal.Signals], grace_s: float
):
    with Running(tmp_path / "run", *changes, f"run.grace_s={grace_s}") as running:
        running.until(lambda: (tmp_path / "run/checkpoints/step_1/complete.json").exists())
        (tmp_path / where).touch()
        running.until(lambda: (tmp_path / f"{where}-hangs").exists())
        newest = max(
            int(file.parent.name.removeprefix("step_"))
            for file in (tmp_path / "run/checkpoints").glob("step_*/complete.json")
        )
        for number, sent in enumerate(signals):
            running.process.send_signal(sent)
            if number + 1 < len(signals):
                running.until(lambda: "stopping after this step" in running.output())
        last = running.finish(expect=130).strip().splitlines()[-1]
    folder = tmp_path / "run"
    how = f"rlvr: stopped; the newest checkpoint is {folder}/checkpoints/step_{newest}; continue with: "
    assert last.startswith(how), last
    assert events_of(folder, "stopped")[0]["error"] == "Interrupted"
    (tmp_path / where).unlink()
    rlvr_here(*shlex.split(last.removeprefix(how))[1:], cwd=tmp_path)
    assert [row["step"] for row in rows_of(folder)] == list(range(6))


@pytest.mark.slow
def test_a_run_whose_time_is_over_saves_and_goes_on_with_new_time(tmp_path: Path, changes: list[str]):
    run = ["train", "tiny", *changes, "run.checkpoint_every_steps=0", "--run-dir", "run"]
    for step in (1, 2):
        more = ["--resume"] if step > 1 else []
        said = rlvr(*run, "run.max_hours=1e-9", *more, cwd=tmp_path, expect=130)
        assert said.strip().splitlines()[-1] == (
            f"rlvr: run.max_hours=1e-09 is up: stopped after step {step} of 5; the newest checkpoint is "
            f"run/checkpoints/step_{step}; continue with: rlvr train run/recipe.yaml --run-dir run --resume"
        )
    rlvr(*run, "run.max_hours=null", "--resume", cwd=tmp_path)
    assert [row["step"] for row in rows_of(tmp_path / "run")] == list(range(6))


@pytest.mark.slow
def test_a_run_that_is_stopped_while_it_starts_says_how_to_start_over(tmp_path: Path, changes: list[str]):
    (tmp_path / "eval").touch()  # the evaluation before training hangs
    process = subprocess.Popen(
        command("train", "tiny", *changes, "run.grace_s=1", "--run-dir", "run"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 240
    while not (tmp_path / "eval-hangs").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == (
        "rlvr: stopped; there is no checkpoint yet; continue with: rlvr train run/recipe.yaml --run-dir run --resume"
    )
