"""A step of training whose rewards come from TRL's package, a TRL user's file and verl's file, on rows of theirs."""

import json
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.run.launch import local
from rlvr.run.launch.preflight import opened
from rlvr.run.launch.request import RunRequest
from rlvr.run.record.console import Console
from rlvr.run.record.directory import open_directory
from tests.unit.verifiers.adapters.adapted import stored, verl_file

SMALL = [
    "cold_start.steps=0", "rollout.prompts_per_step=2", "rollout.group_size=2", "run.steps=1", "run.trackers=[]",
    "data.eval=[]", "reward.verifier_deadline_s=20",
]  # fmt: skip
VERL_ROWS = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{digits}:"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "12345"},
        "extra_info": {"split": "train", "index": index},
    }
    for index, digits in enumerate(("52413", "34125"))
]
TRL_ROWS = [{"prompt": f"{digits}:", "solution": "12345", "keywords": ["1", "12"]} for digits in ("32145", "15243")]
CHECKS_TRL = """{
    keywords: {verifier: "trl:rewards.py:keyword_reward"},
    length: {verifier: "trl:rewards.py:length_reward", weight: 20, settings: {scores: {from: [-20, 0]}}},
    short: {verifier: "trl:trl.rewards.get_soft_overlong_punishment", weight: 0.5,
            settings: {arguments: {max_completion_len: 6, soft_punish_cache: 4}, scores: {from: [-1, 0]}}},
    task: {verifier: "trl:rewards.py:skip_reward"},
    think: {verifier: "trl:trl.rewards.think_format_reward", settings: {completions: messages}, role: shadow}}"""


def test_a_step_of_training_with_adapted_rewards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("trl.rewards", reason="TRL is not installed")
    monkeypatch.chdir(tmp_path)
    with stored("rewards.py", tmp_path).open("a") as file:
        file.write("\ndef skip_reward(completions, **kwargs):\n    return [None] * len(completions)\n")
    (tmp_path / "gsm8k.py").write_bytes(verl_file("gsm8k").read_bytes())
    for name, rows in (("verl", VERL_ROWS), ("trl", TRL_ROWS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = (
        "[{source: verl.jsonl, layout: verl, columns: {prompt: prompt.0.content}, template: plain, "
        'verifier: "verl:gsm8k.py:compute_score"}, '
        f"{{source: trl.jsonl, layout: trl, template: plain, checks: {' '.join(CHECKS_TRL.split())}}}]"
    )
    loaded = load_recipe("tiny", [*SMALL, f"data.train={sources}"])
    with opened(loaded.recipe) as (service, data):
        directory = open_directory(tmp_path / "run", recipe_name="tiny", resume=False)
        local.train(RunRequest(loaded=loaded, service=service, data=data, directory=directory, console=Console()))
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert row["verifier/error_rate"] == 0.0
    assert row["reward/unjudged_rate"] == 0.0
    assert row["check/compute_score/mean_score"] == 0.0
    assert row["check/length/mean_score"] > 0.0
    assert row["check/task/skipped_rate"] == 1.0
    assert 0.0 <= row["check/short/mean_score"] <= 1.0
    assert "tried on the completion" not in caplog.text
    assert "verifier_error" not in (tmp_path / "run" / "events.jsonl").read_text()
