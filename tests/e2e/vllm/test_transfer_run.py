"""A run behind Ray that broadcasts its weights: two ranks of a learner, one engine, which is killed.

Its weights arrive as those of any other run, and the engine that replaces it joins the next broadcast.
"""

import os
from pathlib import Path

import pytest

from tests.e2e.ray.ray_runs import RAY, TINY, Running, events_of, rows_of

pytest.importorskip("ray")
pytest.importorskip("vllm")
pytestmark = pytest.mark.cluster

NUM_STEPS = 6
RUN = [
    *TINY, *RAY, "cluster.weight_transport=nccl", "cluster.learners=2", "cluster.sync_deadline_s=20",
    "rollout.engine=vllm", "rollout.engine_dtype=float32", "rollout.max_completion_tokens=8",
    "rollout.max_batch_rows=16", "cold_start.steps=0", "data.eval=[]", f"run.steps={NUM_STEPS}", "proof.max_groups=4",
]  # fmt: skip


def test_a_run_broadcasts_its_weights_and_survives_the_loss_of_its_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RLVR_SUBSTITUTE_COMMUNICATOR", "gloo_communicator:GlooCommunicator")
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
    run = tmp_path / "run"
    with Running(run, *RUN) as running:
        running.until(lambda: running.num_steps() >= 2)
        running.hurt("EngineActor")
        running.finish()
    assert [row["step"] for row in rows_of(run)] == list(range(1, NUM_STEPS + 1))
    assert [event["engine"] for event in events_of(run, "engine_lost")] == ["engine-0"]
    assert events_of(run, "transfer_given_up") == []
    synced = events_of(run, "weights_synced")
    assert synced[0]["transport"] == synced[-1]["transport"] == "nccl"
    assert {event["transport"] for event in synced} <= {"nccl", "file"}
    assert all(event["bytes"] > 1_000_000 and 0 < event["frozen_s"] <= event["seconds"] for event in synced)
    (proven,) = events_of(run, "weights_proven")
    assert len(proven["groups"]) + len(proven["unmoved"]) >= 4
