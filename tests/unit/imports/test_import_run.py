"""An imported configuration of TRL trains a step: its batch, its rewards unchanged, its loss."""

import json
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.imports.importing import import_config
from rlvr.run.launch import local
from rlvr.run.launch.preflight import opened
from rlvr.run.launch.request import RunRequest
from rlvr.run.record.console import Console
from rlvr.run.record.directory import open_directory

CONFIG = """\
model_name_or_path: replaced-by-a-tiny-one
dataset_name: rows.jsonl
reward_funcs: [my_rewards.py:digits, my_rewards.py:begins_with]
reward_weights: [1.0, 0.5]
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
num_generations: 4
max_completion_length: 6
loss_type: dr_grpo
scale_rewards: false
beta: 0.01
bf16: false
use_cpu: true
lr_scheduler_type: constant
max_steps: 1
"""
REWARDS = """\
def digits(completions, **kwargs):
    return [sum(letter.isdigit() for letter in text) / max(1, len(text)) for text in completions]


async def begins_with(completions, first, **kwargs):
    return [float(text.startswith(wanted)) for text, wanted in zip(completions, first)]
"""
TINY = [
    "model={tiny: {layers: 1, hidden_size: 16, intermediate_size: 32, heads: 2, characters: '0123456789:'}}",
    "data.train.0.template=plain", "run.trackers=[]", "reward.verifier_deadline_s=20",
]  # fmt: skip


def test_an_imported_config_of_trl_trains_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grpo.yaml").write_text(CONFIG)
    Path("my_rewards.py").write_text(REWARDS)
    rows = [{"prompt": f"{digits}:", "first": digits[0]} for digits in ("32145", "15243", "54321")]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(import_config("trl", Path("grpo.yaml"), ["num_processes=1"]).recipe)
    loaded = load_recipe("recipe.yaml", TINY)
    with opened(loaded.recipe) as (service, data):
        directory = open_directory(tmp_path / "run", recipe_name="imported", resume=False)
        local.train(RunRequest(loaded=loaded, service=service, data=data, directory=directory, console=Console()))
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert row["verifier/error_rate"] == 0.0
    assert row["check/digits/mean_score"] > 0.0
    parts = row["check/digits/reward_mean"] + row["check/begins_with/reward_mean"]
    assert row["reward/mean"] == pytest.approx(parts)
    assert row["check/begins_with/reward_mean"] == pytest.approx(0.5 * row["check/begins_with/mean_score"])
    assert (loaded.recipe.rollout.prompts_per_step, loaded.recipe.rollout.group_size) == (2, 4)
