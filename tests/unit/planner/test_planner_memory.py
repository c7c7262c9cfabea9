"""What the planner counts: parameters, activations as autograd saves them, logits, the parts of learner and engine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlvr.config.recipe import LoraConfig, ModelConfig, TinyModel
from rlvr.config.sections.learner import Layout
from rlvr.errors import ConfigError
from rlvr.models import lora
from rlvr.models.logprobs import token_logprobs
from rlvr.models.policy import build_tiny, load_policy, outline
from rlvr.planner.architecture import Architecture, architecture_of, num_adapter_parameters
from rlvr.planner.memory import activations, engine_parts, head_work, layer_bytes, learner_parts, logits
from tests.unit.planner.planner_cases import SETUP, by_name


def test_an_architecture_is_read_from_shapes_alone() -> None:
    config = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="01")
    model = outline(ModelConfig(tiny=config))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    # A layer: four 32x32, three 32x64, two norms of 32; a tied table of 16x32, and the last norm.
    layer = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert architecture_of(model) == Architecture(
        layers=2,
        hidden=32,
        intermediate=64,
        heads=4,
        query_width=32,
        kv_width=32,
        vocab=16,
        num_parameters=2 * layer + 16 * 32 + 32,
        num_multiplied=2 * layer + 16 * 32 + 32,
        num_linear=2 * (layer - 64) + 16 * 32,
        max_positions=256,
    )


def test_the_outline_of_a_tiny_model_is_the_model_that_is_built() -> None:
    config = TinyModel(layers=3, hidden_size=48, heads=4, characters="0123456789+-")
    built = {n: tuple(p.shape) for n, p in build_tiny(config, seed=0).model.named_parameters()}
    shapes = {n: tuple(p.shape) for n, p in outline(ModelConfig(tiny=config)).named_parameters()}
    assert shapes == built


def test_an_untied_table_is_not_multiplied_with() -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    found = architecture_of(LlamaForCausalLM(config))
    assert found.num_parameters - found.num_multiplied == 50 * 8
    assert (found.query_width, found.kv_width) == (8, 4)


def test_adapter_parameters_are_counted_as_they_are_put_on() -> None:
    tiny = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="01")
    for targets in (["all-linear"], ["q_proj", "down_proj"]):
        config = ModelConfig(tiny=tiny, lora=LoraConfig(rank=4, target_modules=targets))
        counted = num_adapter_parameters(outline(config), config.lora)
        assert counted == load_policy(config, seed=0).num_trained


def test_a_model_without_config_says_what_would_help(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read.*needs the network"):
        outline(ModelConfig(path=str(tmp_path)))


def test_a_layer_keeps_what_the_formula_says() -> None:
    # bfloat16: 26 x 10 + 2 x (10 + 2 x 5) + 2 x 2 x 10 + 8 x 20 + 4 x 2 heads
    assert layer_bytes(SETUP) == 260 + 40 + 40 + 160 + 8
    # float32: 24 x 10 + 4 x (10 + 2 x 5) + 8 x 10 + 16 x 20 + 4 x 2; padded rows keep the output once
    wide = replace(SETUP, is_bfloat16=False)
    assert layer_bytes(wide) == 240 + 80 + 80 + 320 + 8
    assert layer_bytes(replace(wide, is_packed=False)) == layer_bytes(wide) - 40
    assert layer_bytes(replace(SETUP, num_trained=100)) == layer_bytes(SETUP) - 80


def test_tokens_of_a_micro_batch_count_a_shared_prompt_once() -> None:
    # 4 prompts of 6 tokens, 8 completions of 4
    assert SETUP.micro_tokens == 4 * 6 + 8 * 4
    assert (SETUP.micro_rows, SETUP.micro_targets) == (8, 32)
    alone = replace(SETUP, shares_prompts=False)
    assert alone.micro_tokens == 8 * (6 + 4)
    assert replace(alone, micro_batch_tokens=30).micro_tokens == 30
    assert replace(alone, micro_batch_tokens=5).micro_tokens == 12  # one row at the least
    assert replace(alone, minibatches=2).micro_tokens == 40
    assert replace(alone, num_learners=2).micro_tokens == 40


def test_activations_by_hand() -> None:
    tokens = 56
    prefixes = 8 * 6 * 2 * 5 * 2  # rows, prompt tokens, keys and values of width 5, 2 bytes
    assert activations(SETUP) == 3 * (tokens * 508 + prefixes)
    kept = replace(SETUP, has_checkpointing=True)
    assert activations(kept) == 3 * tokens * 4 * 10 + tokens * 508 + prefixes


def test_logits_are_bounded_by_their_limit() -> None:
    assert logits(SETUP) == 32 * 100 * 2
    assert logits(replace(SETUP, is_bfloat16=False)) == 32 * 100 * 4
    assert logits(replace(SETUP, logits_bytes=4000)) == 10 * 100 * 2  # ten rows are 4000 bytes in float32


def test_the_head_works_on_a_cast_and_two_gradients() -> None:
    assert head_work(SETUP) == 1000 * (2 + 2 + 4)
    assert head_work(replace(SETUP, is_bfloat16=False)) == 1000 * (4 + 4)
    assert head_work(replace(SETUP, num_trained=100)) == 1000 * 2


def test_a_learners_parts_by_hand() -> None:
    assert by_name(learner_parts(SETUP, is_on_cpu=True)) == {
        "weights": 16_000,
        "optimizer": 32_000,
        "gradients": 16_000,
        "activations": activations(SETUP),
        "logits": 6_400,
        "head's gradient": 8_000,
        "bfloat16 casts": 2 * 2_900,
    }
    eight = by_name(learner_parts(replace(SETUP, has_8bit_states=True), is_on_cpu=True))
    assert eight["optimizer"] == 8_125  # 2 + 8 / 256 bytes a parameter
    assert eight["8-bit update"] == 40 * 1000
    on_gpu = learner_parts(replace(SETUP, has_8bit_states=True), is_on_cpu=False)
    assert "8-bit update" not in by_name(on_gpu)
    reference = by_name(learner_parts(replace(SETUP, has_reference_copy=True), is_on_cpu=True))
    assert reference["reference"] == 16_000
    adapters = by_name(learner_parts(replace(SETUP, num_trained=100), is_on_cpu=True))
    assert (adapters["gradients"], adapters["optimizer"]) == (400, 800)


def test_learners_share_weights_gradients_and_states_but_not_activations() -> None:
    two = by_name(learner_parts(replace(SETUP, num_learners=2), is_on_cpu=True))
    assert (two["weights"], two["optimizer"], two["gradients"]) == (8_000, 16_000, 8_000)
    assert two["gathered layers"] == 2 * (4000 - 1000) // 3 + 4 * 1000
    assert "bfloat16 casts" not in two
    compiled = by_name(learner_parts(replace(SETUP, num_learners=2, is_compiled=True), is_on_cpu=True))
    assert compiled["gathered layers"] == 4 * ((4000 - 1000) // 3 + 1000)
    assert "bfloat16 casts" in compiled


def test_an_engines_parts_by_hand() -> None:
    found = by_name(engine_parts(SETUP, shares_learner=True))
    assert found["engine's weights"] == 8_000
    assert found["key-value cache"] == 16 * (8 + 4) * 3 * 5 * (2 + 2)
    assert found["sampling"] == 16 * 100 * 18
    shared = by_name(engine_parts(replace(SETUP, engine_bytes=0), shares_learner=True))
    assert "engine's weights" not in shared
    assert shared["engine's casts"] == 2 * 3900
    assert shared["key-value cache"] == 16 * 12 * 3 * 5 * (4 + 2)


def saved_bytes(model: PreTrainedModel, *, rows: int, is_bfloat16: bool, layout: Layout) -> int:
    """Bytes that autograd keeps of a forward pass over rows of 8 + 24 tokens, parameters left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    width = 33
    ids = torch.randint(4, 15, (rows, width), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16),
    ):
        token_logprobs(
            model,
            token_ids=ids,
            attention_mask=mask,
            loss_mask=mask & (torch.arange(width) >= 8),
            group_index=torch.arange(rows),
            temperature=1.0,
            layout=layout,
            share_prompt_prefix=False,
            logits_memory_mb=512,
            needs_entropy_gradient=False,
        )
    return sum(sizes.values())


@pytest.mark.parametrize("is_bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["packed", "padded", "checkpointing", "adapters"])
def test_autograd_saves_what_the_formula_says(kind: str, is_bfloat16: bool) -> None:
    def build(layers: int) -> PreTrainedModel:
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
        model = LlamaForCausalLM(config).train()
        if kind == "adapters":
            lora.attach(model, LoraConfig(rank=1), seed=0, base_name="")
        if kind == "checkpointing":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    layout = Layout.PADDED if kind == "padded" else Layout.PACKED
    sizes = [[saved_bytes(build(n), rows=r, is_bfloat16=is_bfloat16, layout=layout) for r in (2, 4)] for n in (1, 2)]
    tokens = 2 * (33 if kind == "padded" else 32)  # two rows more; the last token predicts nothing
    measured = ((sizes[1][1] - sizes[0][1]) - (sizes[1][0] - sizes[0][0])) / tokens
    setup = replace(
        SETUP,
        architecture=architecture_of(build(1)),
        is_bfloat16=is_bfloat16,
        is_packed=layout is Layout.PACKED,
        num_trained=1 if kind == "adapters" else 10**9,
    )
    planned = 4 * 64 if kind == "checkpointing" else layer_bytes(setup)
    assert measured == pytest.approx(planned, rel=0.03)
