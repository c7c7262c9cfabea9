"""`rlvr eval` on a Ray cluster gives the completions and figures of this process."""

import json
from pathlib import Path

import pytest

from rlvr.commands.evaluate import evaluate_model
from rlvr.config.recipe import TinyModel
from rlvr.models.export import export_policy
from rlvr.models.policy import build_tiny

pytestmark = pytest.mark.cluster

ON_RAY = ["cluster.backend=ray", "cluster.engines=2", "cluster.cpus_per_engine=0.5"]


def test_figures_and_completions_are_those_of_this_process(tmp_path: Path):
    pytest.importorskip("ray")
    model = tmp_path / "model"
    tiny = TinyModel(layers=2, hidden_size=128, heads=4, characters="0123456789:,")
    export_policy(build_tiny(tiny, seed=3), model)
    found: list[tuple[list[tuple[str, str, str]], list[dict[str, object]]]] = []
    for place in ([], ON_RAY):
        output = tmp_path / f"{len(place)}.jsonl"
        rows = evaluate_model(
            str(model),
            recipe="tiny",
            prompts=None,
            overrides=["rollout.engine_dtype=float32", "run.eval_prompts=12", "learner.num_threads=1", *place],
            samples_per_prompt=2,
            output=output,
        )
        found.append((rows, [json.loads(line) for line in output.read_text().splitlines()]))
    (here, here_rollouts), (there, there_rollouts) = found
    assert len(here_rollouts) == 24
    assert len({row["completion"] for row in here_rollouts}) > 12
    assert there_rollouts == here_rollouts
    assert there == here
