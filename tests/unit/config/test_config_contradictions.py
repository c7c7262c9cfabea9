"""Pairs of keys that cannot both hold, and their neighbours that can."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError

BASE = """\
name: x
model: {tiny: {}}
data: {train: [{source: x.jsonl, verifier: text_match}]}
"""
Fault = Callable[..., list[str]]
ON_VLLM = ("rollout.engine=vllm", "cluster.backend=ray", "rollout.engine_dtype=float32")
STALE = ("rollout.max_staleness=2", "rollout.engine_dtype=float32")


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fault:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(BASE, encoding="utf-8")

    def load(*overrides: str) -> list[str]:
        try:
            load_recipe("x.yaml", overrides)
        except ConfigError as error:
            return str(error).splitlines()
        return []

    return load


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["reward.overlong_buffer_tokens=256"],
            "reward.overlong_buffer_tokens=256 leaves no completion without penalty; it must be "
            "below rollout.max_completion_tokens=256",
        ),
        (
            ["algorithm.advantage=pass_at_k", "algorithm.advantage.k=8"],
            "command line: algorithm.advantage.k=8: rollout.group_size=8: the pass_at_k advantage "
            "with algorithm.advantage.k=8 compares the rollouts of a group and needs at least 9; 8 "
            "is usual",
        ),
        (
            ["learner.streaming=true", "algorithm.advantage=batch_norm"],
            "learner.streaming=true takes each group as it arrives, but the batch_norm advantage "
            "needs the whole batch; set learner.streaming=false",
        ),
        (
            ["learner.streaming=true", "learner.minibatches_per_step=2"],
            "learner.streaming=true takes each group as it arrives, but "
            "learner.minibatches_per_step=2 splits the whole batch; set learner.streaming=false",
        ),
        (
            ["data.train.0.source=generator:sums", "data.difficulty.retire_solve_rate=0.9"],
            "data.difficulty.retire_solve_rate=0.9 follows each prompt's solve rate, but every "
            "source of data.train is a generator, which repeats no prompt; set "
            "data.difficulty.retire_solve_rate=0",
        ),
        (
            ["data.train.0.source=generator:sums", "data.difficulty.prefer_signal=true"],
            "data.difficulty.prefer_signal=true follows each prompt's solve rate, but every source "
            "of data.train is a generator, which repeats no prompt; set "
            "data.difficulty.prefer_signal=false",
        ),
        (
            ["algorithm.dynamic_sampling.enabled=true", "algorithm.dynamic_sampling.max_refill_factor=0.1"],
            "algorithm.dynamic_sampling.max_refill_factor=0.1 of rollout.prompts_per_step=8 "
            "rounds to 0 replacements; raise it, or set algorithm.dynamic_sampling.enabled=false "
            "(algorithm.zero_variance=drop drops without replacing)",
        ),
        (
            ["algorithm.dynamic_sampling.enabled=true", "algorithm.preset=reinforce_pp"],
            "algorithm.dynamic_sampling.enabled=true replaces groups of equal rewards, but with "
            "algorithm.advantage.baseline=none these have a signal too; set "
            "algorithm.dynamic_sampling.enabled=false",
        ),
        (
            ["algorithm.kl_coef=0.1", "algorithm.kl_estimator=k1"],
            "algorithm.kl_estimator=k1 has a gradient with mean 0 on-policy, so in the loss it has "
            "no effect; set algorithm.kl_estimator=k3 or k2, or algorithm.kl_placement=reward",
        ),
        (
            ["algorithm.kl_placement=reward", "algorithm.kl_coef=0.1", "algorithm.advantage=pass_at_k"],
            "algorithm.kl_placement=reward lowers a full reward below "
            "algorithm.advantage.threshold=1.0, so nothing passes; set "
            "algorithm.kl_placement=loss, or a lower threshold",
        ),
        (
            ["rollout.max_staleness=1", "algorithm.correction.weight=token", "rollout.engine_dtype=shared"],
            "rollout.max_staleness=1: an engine that shares the learner's tensors would see them "
            "change while it generates; set rollout.engine_dtype=bfloat16 or float32 (a copy)",
        ),
        (
            [*STALE],
            "rollout.max_staleness=2 needs an explicit correction: set "
            "algorithm.correction.weight=token (truncated importance sampling), or "
            "algorithm.correction.ratio_base=behavior (the clipped ratio itself then holds the "
            "whole difference)",
        ),
        (
            [*STALE, "algorithm.preset=rloo"],
            "rollout.max_staleness=2 needs an explicit correction, and the policy_gradient loss has "
            "no ratio: set algorithm.correction.weight=token (truncated importance "
            "sampling), or another algorithm.loss.kind",
        ),
        (
            ["cluster.learners=2", "learner.optimizer=adamw_8bit"],
            "learner.optimizer=adamw_8bit works with cluster.learners=1, not 2: its blocks do not "
            "follow the shards; adamw shards its states over the learners",
        ),
        (
            ["learner.kernels=liger", "learner.device=cpu"],
            "learner.kernels=liger needs a GPU, and learner.device=cpu; set learner.kernels=torch",
        ),
        (["model.lora.sends_alone=true", *ON_VLLM], "model.lora.sends_alone=true needs adapters; set model.lora.rank"),
        (
            ["model.lora.sends_alone=true", "model.lora.rank=8"],
            "model.lora.sends_alone=true: rollout.engine=transformers takes whole weights; set it "
            "to false, or rollout.engine=vllm",
        ),
        (
            [
                "model.lora.sends_alone=true",
                "model.lora.rank=8",
                "cluster.placement=colocated",
                "learner.streaming=false",
                *ON_VLLM,
            ],
            "model.lora.sends_alone=true: with cluster.placement=colocated engines drop the base "
            "at every step, so all weights would be sent each time; set it to false",
        ),
        (
            ["model.lora.sends_alone=true", "model.lora.rank=513", *ON_VLLM],
            "model.lora.sends_alone=true: vLLM takes adapters to rank 512, not 513; set it to false",
        ),
        (
            ["cluster.weight_transport=nccl", "cluster.backend=ray", "rollout.engine_dtype=float32"],
            "cluster.weight_transport=nccl is for rollout.engine=vllm, and rollout.engine=transformers loads files; "
            "set it to auto",
        ),
        (
            ["cluster.weight_transport=nccl", "model.lora.sends_alone=true", "model.lora.rank=8", *ON_VLLM],
            "cluster.weight_transport=nccl sends whole weights, and model.lora.sends_alone=true sends adapters as "
            "files; set it to auto",
        ),
        (
            ["cluster.learners=4", "cluster.learners_per_node=2"],
            "cluster.learners_per_node=2 with cluster.learners=4 needs cluster.backend=ray: the local backend has one "
            "node",
        ),
        (
            ["cluster.learners=4", "cluster.learners_per_node=2", "cluster.placement=colocated", *ON_VLLM],
            "cluster.learners_per_node=2 with cluster.learners=4: colocated learners and engines share the devices of "
            "one node; set it to 0",
        ),
        (
            ["cluster.weight_transport=nccl", "cluster.placement=colocated", "learner.streaming=false", *ON_VLLM],
            "cluster.weight_transport=nccl needs separate GPUs for learner and engines, and "
            "cluster.placement=colocated; set it to auto",
        ),
        (
            ["cluster.weight_transport=ipc", *ON_VLLM],
            "cluster.weight_transport=ipc needs cluster.placement=colocated: learner and engine must share a GPU; set "
            "it to auto",
        ),
        (
            ["model.lora.target_modules=[all-linear, q_proj]"],
            "model.lora.target_modules=['all-linear', 'q_proj']: 'all-linear' must be the only entry; it is "
            "every linear layer but the head",
        ),
    ],
)
def test_a_contradiction_is_refused_with_the_key_to_change(fault: Fault, overrides: list[str], message: str) -> None:
    (line,) = fault(*overrides)
    assert line.startswith(("command line: ", "x.yaml:"))
    assert line.endswith(message)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.lora.alpha=8"],  # adapters are off
        ["algorithm.dynamic_sampling.max_refill_factor=0"],  # off
        ["algorithm.kl_estimator=k1"],  # no KL at all
        ["algorithm.kl_estimator=k1", "algorithm.kl_coef=0.1", "algorithm.kl_placement=reward"],
        ["learner.streaming=true", "algorithm.kl_coef=0.1", "algorithm.kl_placement=reward"],
        ["learner.streaming=true", "algorithm.zero_variance=drop", *STALE,
         "algorithm.correction.weight=token"],
        [*STALE, "algorithm.correction.ratio_base=behavior"],
        [*STALE, "algorithm.correction.off_policy_threshold=0.5"],
        [*STALE, "algorithm.correction.geometric_max=1.01"],
        [*STALE, "algorithm.correction.weight=sequence", "algorithm.loss=policy_gradient"],
        [*STALE, "algorithm.preset=decoupled_ppo", "algorithm.dynamic_sampling.enabled=true"],
        ["rollout.engine=toy", "rollout.max_staleness=1", "algorithm.correction.weight=token"],
        ["cluster.learners=4", "rollout.engine_dtype=shared"],
        ["learner.optimizer=adamw_8bit"],
        ["learner.kernels=liger"],
        ["learner.layout=padded"],
        ["reward.truncated=mask", "reward.overlong_buffer_tokens=50"],
        ["algorithm.advantage=pass_at_k", "algorithm.advantage.k=7"],
        ["algorithm.advantage=pass_at_k", "algorithm.advantage.threshold=0.5",
         "algorithm.kl_coef=0.1", "algorithm.kl_placement=reward"],
        ["rollout.group_size=1", "algorithm.preset=reinforce_pp"],
        ["data.difficulty.retire_solve_rate=0.9", "data.difficulty.prefer_signal=true"],
        ["algorithm.governor.mode=act"],
    ],
)  # fmt: skip
def test_what_only_looks_like_a_contradiction_is_accepted(fault: Fault, overrides: list[str]) -> None:
    assert fault(*overrides) == []


def test_one_finite_source_is_enough_for_difficulty(fault: Fault) -> None:
    overrides = ["data.train.1.source=generator:sums", "data.train.1.verifier=text_match"]
    assert fault(*overrides, "data.difficulty.prefer_signal=true") == []


@pytest.mark.parametrize(
    ("correction", "message"),
    [
        ("{weight_min: 1.5}", "weight_min=1.5 is above 1, the weight of equal policies"),
        ("{geometric_max: 0.9}", "geometric_max=0.9 is below 1, the ratio of equal policies; 0 "
         "turns it off"),
        ("{geometric_min: 0.9}", "geometric_min needs geometric_max, which is 0 (off)"),
    ],
)  # fmt: skip
def test_bounds_of_a_correction_hold_the_weight_of_equal_policies(fault: Fault, correction: str, message: str) -> None:
    (line,) = fault(f"algorithm.correction={correction}")
    assert line.endswith(message)
    assert "algorithm.correction" in line
