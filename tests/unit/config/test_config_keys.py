"""Every key of the algorithm, the learner and what goes with them: accepted, shown, and loaded again."""

from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.config.recipe import Recipe
from tests.unit.config.recipe_cases import leaf_paths

BASE = """\
name: x
model: {tiny: {}}
data: {train: [{source: x.jsonl, verifier: text_match}]}
"""
SECTIONS = (
    "algorithm.",
    "learner.",
    "rollout.",
    "reward.",
    "sandbox.",
    "cluster.",
    "proof.",
    "model.lora.",
    "data.difficulty.",
)

BEHIND_RAY = ("cluster.backend=ray", "rollout.engine_dtype=float32")

# key: a value that is not its default, as the resolved recipe shows it; then what has to go with it
KEYS: dict[str, tuple[str, ...]] = {
    "algorithm.preset": ("dapo",),
    "algorithm.advantage.kind": ("rloo",),
    "algorithm.advantage.eps": ("0.5",),
    "algorithm.advantage.baseline": ("'none'", "algorithm.advantage.kind=batch_norm"),
    "algorithm.advantage.weighting": ("token", "algorithm.advantage.kind=batch_norm"),
    "algorithm.advantage.k": ("3", "algorithm.advantage.kind=pass_at_k"),
    "algorithm.advantage.threshold": ("0.5", "algorithm.advantage.kind=pass_at_k"),
    "algorithm.advantage.needs_judged": ("3", "algorithm.advantage.kind=plugin", "algorithm.advantage.name=mine"),
    "algorithm.advantage.whole_batch": ("false", "algorithm.advantage.kind=plugin", "algorithm.advantage.name=mine"),
    "algorithm.loss.kind": ("policy_gradient",),
    "algorithm.loss.clip_low": ("0.1",),
    "algorithm.loss.clip_high": ("0.3",),
    "algorithm.loss.dual_clip": ("3.0",),
    "algorithm.loss.ratio_min": ("0.5", "algorithm.loss.kind=cispo"),
    "algorithm.loss.ratio_max": ("8.0", "algorithm.loss.kind=cispo"),
    "algorithm.loss.tau_positive": ("2.0", "algorithm.loss.kind=sapo"),
    "algorithm.loss.tau_negative": ("2.5", "algorithm.loss.kind=sapo"),
    "algorithm.loss.max_decrease": ("0.1", "algorithm.loss.kind=dppo"),
    "algorithm.loss.max_increase": ("0.1", "algorithm.loss.kind=dppo"),
    "algorithm.loss.log_ratio_coef": ("0.0", "algorithm.loss.kind=dppo"),
    "algorithm.aggregation": ("prompt_mean",),
    "algorithm.kl_coef": ("0.04",),
    "algorithm.kl_estimator": ("k2",),
    "algorithm.kl_placement": ("reward",),
    "algorithm.entropy_coef": ("0.01",),
    "algorithm.zero_variance": ("drop",),
    "algorithm.dynamic_sampling.enabled": ("true",),
    "algorithm.dynamic_sampling.max_refill_factor": ("1.0",),
    "algorithm.correction.ratio_base": ("proximal",),
    "algorithm.correction.weight": ("sequence",),
    "algorithm.correction.bound": ("mask",),
    "algorithm.correction.weight_min": ("0.5",),
    "algorithm.correction.weight_max": ("5.0",),
    "algorithm.correction.geometric_min": ("0.99", "algorithm.correction.geometric_max=1.01"),
    "algorithm.correction.geometric_max": ("1.01",),
    "algorithm.correction.off_policy_threshold": ("0.5",),
    "algorithm.governor.mode": ("act",),
    "algorithm.governor.startup_steps": ("5",),
    "algorithm.governor.width": ("3.0",),
    "algorithm.governor.patience_steps": ("2",),
    "learner.device": ("cpu",),
    "learner.dtype": ("float32",),
    "learner.optimizer": ("adamw_8bit",),
    "learner.lr": ("0.5",),
    "learner.lr_warmup_steps": ("3",),
    "learner.weight_decay": ("0.1",),
    "learner.adam_betas": ("[0.5, 0.6]",),
    "learner.max_grad_norm": ("2.0",),
    "learner.minibatches_per_step": ("4",),
    "learner.streaming": ("true",),
    "learner.micro_batch_tokens": ("64",),
    "learner.logits_memory_mb": ("8",),
    "learner.layout": ("padded",),
    "learner.share_prompt_prefix": ("false",),
    "learner.gradient_checkpointing": ("true",),
    "learner.compile": ("true",),
    "learner.kernels": ("liger",),
    "learner.max_nonfinite_steps": ("0",),
    "learner.num_threads": ("2",),
    "rollout.engine": ("toy",),
    "rollout.engine_dtype": ("float32",),
    "rollout.prompts_per_step": ("16",),
    "rollout.group_size": ("4",),
    "rollout.max_staleness": ("3", "rollout.engine_dtype=float32", "algorithm.correction.weight=token"),
    "rollout.max_completion_tokens": ("32",),
    "rollout.temperature": ("0.7",),
    "rollout.stop_strings": ("[stop]",),
    "rollout.stop_token_ids": ("[7]",),
    "rollout.max_batch_rows": ("16",),
    "reward.unparsed_score": ("0.1",),
    "reward.truncated": ("mask",),
    "reward.overlong_buffer_tokens": ("16",),
    "reward.overlong_penalty": ("0.5",),
    "reward.verifier_workers": ("1",),
    "reward.verifier_deadline_s": ("2.0",),
    "reward.max_error_rate": ("0.5",),
    "sandbox.backend": ("landlock",),
    "rollout.completion_deadline_s": ("60.0",),
    "cluster.backend": ("ray", "rollout.engine_dtype=float32"),
    "cluster.learners": ("2",),
    "cluster.learners_per_node": ("2",),
    "cluster.engines": ("4", *BEHIND_RAY),
    "cluster.placement": ("colocated",),
    "cluster.weight_transport": ("file",),
    "cluster.address": ("auto",),
    "cluster.wait_for_nodes_s": ("600.0",),
    "cluster.cpus_per_engine": ("0.5",),
    "cluster.verifier_pools": ("2",),
    "cluster.max_learner_restarts": ("0",),
    "cluster.max_engine_restarts": ("0",),
    "cluster.heartbeat_deadline_s": ("20.0",),
    "cluster.start_deadline_s": ("900.0",),
    "cluster.sync_deadline_s": ("30.0",),
    "cluster.step_deadline_s": ("60.0",),
    "proof.at_start": ("false",),
    "proof.max_groups": ("16",),
    "proof.max_seconds": ("60.0",),
    "proof.drift_every_syncs": ("5",),
    "proof.canary_tokens": ("1024",),
    "model.lora.rank": ("8",),
    "model.lora.alpha": ("16.0",),
    "model.lora.target_modules": ("[q_proj, v_proj]",),
    "model.lora.sends_alone": ("true", "model.lora.rank=8", "rollout.engine=vllm", *BEHIND_RAY),
    "data.difficulty.retire_solve_rate": ("0.9",),
    "data.difficulty.min_attempts": ("16",),
    "data.difficulty.prefer_signal": ("true",),
    "data.difficulty.floor": ("0.2",),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(BASE, encoding="utf-8")


def test_every_key_of_these_sections_is_listed_here() -> None:
    keys = {path for path in leaf_paths(Recipe) if path.startswith(SECTIONS)}
    # settings of plugins and of vLLM are theirs, without its name a plugin is none, and variables have any name
    free = {path for path in keys if path.endswith((".settings", ".name"))} | {"rollout.engine_args", "cluster.env"}
    assert keys - free == set(KEYS)


def test_arguments_of_the_engine_reach_the_recipe_as_they_are() -> None:
    changes = ["rollout.engine=vllm", "cluster.backend=ray", "rollout.engine_args.max_model_len=512"]
    assert load_recipe("x.yaml", changes).recipe.rollout.engine_args == {"max_model_len": 512}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_accepted_and_shows_in_the_resolved_recipe(key: str) -> None:
    shown, *companions = KEYS[key]
    loaded = load_recipe("x.yaml", [*companions, f"{key}={shown.strip(chr(39))}"])
    assert loaded.recipe != load_recipe("x.yaml", companions).recipe
    assert f"{key.rpartition('.')[2]}: {shown}  # command line" in loaded.to_yaml()
    assert loaded.provenance[key] == "command line"
    Path("again.yaml").write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe("again.yaml").recipe == loaded.recipe
