"""A run behind Ray gives the bits of a local one, and trains with an engine of another package."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.in_process import rlvr_here
from tests.e2e.ray.ray_runs import RAY, TINY, TOY, events_of, ledger_of, rlvr, rows_of

pytestmark = pytest.mark.cluster
pytest.importorskip("ray")
OUTSIDE = Path(__file__).parents[2] / "contract" / "outside"
UNTIMED = ("verdicts",)  # JSON with each verdict's seconds


def rollouts(run: Path) -> list[dict[str, object]]:
    files = sorted((run / "rollouts").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [{k: v for k, v in row.items() if k not in UNTIMED} for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        [*TOY, "run.steps=4", "run.eval_every_steps=2"],
        ["cold_start.steps=4", "cold_start.batch_size=16", "rollout.engine_dtype=float32", "run.steps=4",
         "run.eval_every_steps=2", "algorithm.kl_coef=0.01"],
    ],
    ids=["toy", "transformers"],
)  # fmt: skip
def test_metrics_rollouts_and_ledger_are_those_of_the_local_backend(tmp_path: Path, changes: list[str]):
    rlvr_here("train", "tiny", *TINY, *changes, "--run-dir", "local", cwd=tmp_path)
    rlvr("train", "tiny", *TINY, *changes, *RAY, "--run-dir", "ray", cwd=tmp_path)
    local, ray = tmp_path / "local", tmp_path / "ray"
    assert len(rows_of(local)) == 5
    assert rows_of(ray) == rows_of(local)
    assert rollouts(ray) == rollouts(local)
    assert ledger_of(ray) == ledger_of(local)


def test_a_run_goes_on_behind_ray_where_it_was_left(tmp_path: Path):
    steps = [*TINY, *TOY, "run.checkpoint_every_steps=2"]
    rlvr_here("train", "tiny", *steps, "run.steps=4", "--run-dir", "whole", cwd=tmp_path)
    rlvr_here("train", "tiny", *steps, "run.steps=2", "--run-dir", "parts", cwd=tmp_path)
    rlvr("train", "tiny", *steps, *RAY, "run.steps=4", "--run-dir", "parts", "--resume", cwd=tmp_path)
    last = rows_of(tmp_path / "whole")[-2:]
    assert [row["reward/mean"] for row in rows_of(tmp_path / "parts")[-2:]] == [row["reward/mean"] for row in last]
    assert ledger_of(tmp_path / "parts") == ledger_of(tmp_path / "whole")


def test_a_cluster_that_is_too_small_is_refused_with_the_arithmetic(tmp_path: Path):
    many = ["cluster.backend=ray", "cluster.engines=9", "cluster.cpus_per_engine=100"]
    said = rlvr("train", "tiny", *TINY, *TOY, *many, "--run-dir", "run", cwd=tmp_path, expect=2)
    assert "901 CPUs are needed (learner 1 + 9 engines x 100), the cluster has" in said
    assert "lower cluster.engines or cluster.cpus_per_engine" in said


def test_an_engine_of_another_package_trains_behind_ray_and_its_weights_are_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(OUTSIDE), prepend=os.pathsep)
    engine = ["rollout.engine={kind: weighted, max_batch: 16}", "rollout.engine_dtype=float32", "cold_start.steps=150"]
    rlvr("train", "tiny", *TINY, *engine, *RAY, "run.steps=2", "--run-dir", "run", cwd=tmp_path)
    run = tmp_path / "run"
    assert [row["step"] for row in rows_of(run)][-2:] == [1, 2]
    [proven] = events_of(run, "weights_proven")
    assert proven["engines"] == ["engine-0"]
    assert proven["unmoved"] == []
    assert all(group["residual"] < group["moved"] / 5 for group in proven["groups"])
    synced = events_of(run, "weights_synced")
    assert [sync["policy_version"] for sync in synced] == [0, 1, 2]
    assert all([engine["engine"] for engine in sync["engines"]] == ["engine-0"] for sync in synced)
    assert synced[-1]["changed_tensors"] > 0
