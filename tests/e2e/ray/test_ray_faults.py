"""Actors are killed or frozen in the middle of a run; it goes on, and nothing is lost or trained twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.in_process import rlvr_here
from tests.e2e.ray.ray_runs import RAY, TINY, TOY, Running, events_of, free_port, ledger_of, rows_of, scrape

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")
SLOW = '''
import time

from rlvr.plugin import verifier


@verifier(version="1")
def slow(text, reference):
    """Takes a tenth of a second, and pays by the length of the text."""
    time.sleep(0.1)
    return min(1.0, len(text) / 8)
'''
LONG = [
    *TINY, *TOY, *RAY, "run.steps=12", "run.checkpoint_every_steps=3", "data.eval=[]",
    "data.train.0.verifier=slow.py:slow", "data.train.0.verifier_settings={}", "reward.truncated=judge",
    "cluster.heartbeat_deadline_s=8",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow.py").write_text(SLOW)
    return tmp_path


def assert_whole(run: Path, *, steps: int) -> None:
    """Every step is there once, and every prompt was trained in exactly one."""
    assert [row["step"] for row in rows_of(run)] == list(range(1, steps + 1))
    ledger = ledger_of(run)
    assert [row[0] for row in ledger] == list(range(len(ledger)))
    assert all(state != "issued" for _, _, state, _ in ledger)
    assert len(ledger) == 4 * steps
    assert not events_of(run, "verifier_error")


def assert_observed(found: dict[str, dict[tuple[str, ...], float]]) -> None:
    """The endpoint shows the run, its engine, its pool, its learner and the node. Labels: by name."""
    assert found["rlvr_run_step"][("tiny", "run")] >= 1
    assert found["rlvr_engine_restarts_total"] == {("engine-0", "tiny", "run"): 1}
    assert found["rlvr_engine_losses_total"] == {("engine-0", "tiny", "run"): 1}
    assert found["rlvr_verifier_pool_items_total"][("verifier-0", "tiny", "run")] > 0
    assert found["rlvr_learner_rank_step"][("0", "tiny", "run")] >= 1
    assert {role for _, role, _ in found["rlvr_process_resident_memory_bytes"]} >= {"driver", "learner-0", "verifier-0"}
    assert found["rlvr_ray_nodes"][("tiny", "run", "alive")] == 1
    assert found["rlvr_node_memory_size_bytes"][()] > 0
    assert "rlvr_reward_mean" in found


def test_killed_engine_verifier_and_learner_are_replaced_and_the_run_is_the_undisturbed_one(folder: Path):
    rlvr_here("train", "tiny", *LONG, "cluster.backend=local", "--run-dir", "calm", cwd=folder)
    port = free_port()
    with Running(folder / "run", *LONG, f"run.metrics_port={port}") as running:
        running.until(lambda: running.num_steps() >= 1)
        running.hurt("EngineActor")
        running.until(lambda: bool(events_of(running.run, "engine_restarted")))
        running.until(lambda: "rlvr_engine_restarts_total" in scrape(port))
        assert_observed(scrape(port))
        running.hurt("VerifierActor")
        running.until(lambda: bool(events_of(running.run, "verifier_restarted")))
        running.until(lambda: running.num_steps() >= 4)
        running.hurt("LearnerActor")
        running.finish()
    assert scrape(port) == {}
    run = folder / "run"
    (lost,) = events_of(run, "learner_restart")
    of_engine = rlvr_here("cluster", "logs", "run", "--actor", "engine-0", cwd=folder)
    assert of_engine.count("begins as engine-0 of run run") >= 2  # also after the learner was lost
    assert "engine-0: lost (node 127.0.0.1, process " in of_engine
    assert "The actor died unexpectedly" in of_engine
    assert "step 12: holds the weights of version 12" in of_engine
    assert lost["from_step"] >= 3
    assert "the learner's process is gone" in lost["message"]
    assert_whole(run, steps=12)
    assert rows_of(run) == rows_of(folder / "calm")
    assert ledger_of(run) == ledger_of(folder / "calm")


def test_a_learner_lost_before_any_checkpoint_starts_from_scratch(folder: Path):
    changes = ["run.steps=6", "run.checkpoint_every_steps=0"]
    with Running(folder / "run", *LONG, *changes) as running:
        running.until(lambda: running.num_steps() >= 1)
        running.hurt("LearnerActor")
        running.finish()
    (lost,) = events_of(folder / "run", "learner_restart")
    assert lost["from_step"] == 0
    assert_whole(folder / "run", steps=6)


def test_a_frozen_engine_is_found_and_replaced_within_its_deadline(folder: Path):
    with Running(folder / "run", *LONG, "run.steps=6") as running:
        running.until(lambda: running.num_steps() >= 1)
        pid = running.hurt("EngineActor", signal.SIGSTOP)
        running.until(lambda: bool(events_of(running.run, "engine_restarted")))
        assert not psutil.pid_exists(pid)
        running.finish()
    (lost,) = events_of(folder / "run", "engine_lost")
    assert "no answer for cluster.heartbeat_deadline_s=8" in lost["reason"]
    assert_whole(folder / "run", steps=6)


def test_a_frozen_learner_ends_the_run_within_its_deadline_and_is_named(folder: Path):
    with Running(folder / "run", *LONG, "cluster.step_deadline_s=10", "cluster.sync_deadline_s=10") as running:
        running.until(lambda: running.num_steps() >= 1)
        running.hurt("LearnerActor", signal.SIGSTOP)
        said = running.finish(expect=1, limit_s=120)
    assert "the run has waited for the learner (Learner." in said
    assert "it does not answer: hung or frozen" in said
    assert "stacks of this process" in said


def test_engines_that_keep_dying_end_the_run_with_their_names(folder: Path):
    with Running(folder / "run", *LONG, "cluster.max_engine_restarts=0") as running:
        running.until(lambda: running.num_steps() >= 1)
        running.hurt("EngineActor")
        said = running.finish(expect=1, limit_s=120)
    assert "no engine is left for" in said
    assert "cluster.max_engine_restarts is 0" in said
    assert "engine-0 (node" in said


@pytest.mark.parametrize("victim", ["the driver", "gcs_server"])
def test_a_killed_driver_or_head_leaves_no_process_no_weights_and_no_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, victim: str
):
    weights = folder / "weights"
    monkeypatch.setenv("RLVR_WEIGHTS_FOLDER", str(weights))
    long = [change for change in LONG if change not in TOY]
    with Running(
        folder / "run", *long, "cold_start.steps=0", "rollout.engine_dtype=float32", "run.steps=10000"
    ) as running:  # fmt: skip
        running.until(lambda: running.num_steps() >= 2)
        assert list(weights.glob("rlvr-weights-*/*.safetensors"))
        family = psutil.Process(running.process.pid).children(recursive=True)
        (head,) = (process for process in family if process.name() == "gcs_server")
        logs = next(word for word in head.cmdline() if word.startswith("--log_dir="))
        private = Path(logs.partition("=")[2]).parents[2]
        assert private.name.startswith("rlvr-ray-")
        (running.process if victim == "the driver" else head).kill()
        code = running.process.wait(timeout=240)
        assert code == (-signal.SIGKILL if victim == "the driver" else 75), running.output()
        until = time.monotonic() + 240
        while list(weights.iterdir()) or private.exists() or any(map(lives, family)):
            left = [process for process in family if lives(process)]
            assert time.monotonic() < until, (list(weights.iterdir()), private.exists(), left)
            time.sleep(0.1)


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; one that nobody has reaped yet has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


HEADLESS = """
import psutil
from rlvr.config.load import load_recipe
from rlvr.run.ray.connect import connected
from rlvr.run.ray.placement import Reserved

recipe = load_recipe("tiny", ["cluster.backend=ray", "rollout.engine_dtype=float32", "cluster.cpus_per_engine=0.5"])
with connected(recipe.recipe.cluster):
    reserved = Reserved(recipe.recipe)
    (head,) = (p for p in psutil.Process().children(recursive=True) if p.name() == "gcs_server")
    head.kill()
    psutil.wait_procs([head])
    reserved.close()
print("done")
"""


def test_what_is_done_when_the_head_is_lost_ends_well(folder: Path):
    """Without a head nothing can be given back; Ray ends a process that tries."""
    done = subprocess.run(
        [sys.executable, "-c", HEADLESS],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert (done.returncode, done.stdout.strip()[-4:]) == (0, "done"), done.stdout + done.stderr
