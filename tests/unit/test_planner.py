"""The planner: numbers by hand for one small layer, what autograd really saves, machines, remedies, the command."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlvr.config.learner import Layout
from rlvr.config.load import list_recipes, load_recipe
from rlvr.config.recipe import LoraConfig, ModelConfig, TinyModel
from rlvr.errors import ConfigError
from rlvr.models import lora
from rlvr.models.logprobs import token_logprobs
from rlvr.models.policy import build_tiny, load_policy, outline
from rlvr.planner.architecture import Architecture, architecture_of, num_adapter_parameters
from rlvr.planner.machine import Device, Speed, devices, free_memory, measure
from rlvr.planner.memory import (
    Part,
    Phase,
    activations,
    engine_parts,
    head_work,
    layer_bytes,
    learner_parts,
    logits,
    peak_bytes,
)
from rlvr.planner.pace import attention_flops, decode_s, pace_of, pass_flops
from rlvr.planner.plan import Place, Remedy, places, remedies
from rlvr.planner.remedies import candidates, changed, override
from rlvr.planner.setup import Lengths, Setup, setup_of
from rlvr.planner.table import warning
from rlvr.run.plan_check import check_recipe

GIB = 1 << 30
# One layer of hidden 10, gated width 20, 2 heads of 5, one key-value head, 100 tokens in the vocabulary, tied.
SMALL = Architecture(
    layers=3,
    hidden=10,
    intermediate=20,
    heads=2,
    query_width=10,
    kv_width=5,
    vocab=100,
    num_parameters=4000,
    num_multiplied=4000,
    num_linear=3900,
    max_positions=512,
)
SETUP = Setup(
    architecture=SMALL,
    lengths=Lengths(prompt_mean=6, prompt_max=8, completion=4),
    num_trained=4000,
    is_bfloat16=True,
    has_8bit_states=False,
    has_checkpointing=False,
    is_packed=True,
    shares_prompts=True,
    has_reference_copy=False,
    has_reference_pass=False,
    has_proximal_pass=False,
    micro_batch_tokens=1000,
    logits_bytes=1 << 20,
    num_learners=1,
    engine_bytes=2,
    rows_at_once=16,
    overlaps=False,
    num_workers=2,
    prompts_per_step=4,
    group_size=2,
    minibatches=1,
    num_steps=10,
    num_eval_completions=0,
    cold_start_rows=0,
    cold_start_steps=0,
)


def by_name(parts: list[Part]) -> dict[str, int]:
    return {part.name: part.num_bytes for part in parts}


# -- shapes ----------------------------------------------------------------------------------------------------------


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
        vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
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


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_layer_keeps_what_the_formula_says() -> None:
    # bfloat16: 26 x 10 + 2 x (10 + 2 x 5) + 4 x 10 + 8 x 20 + 4 x 2 heads
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
    assert (
        logits(replace(SETUP, logits_bytes=4000)) == 10 * 100 * 2
    )  # ten rows are 4000 bytes in float32


def test_the_head_works_on_a_cast_and_two_gradients() -> None:
    assert head_work(SETUP) == 1000 * (2 + 2 + 4)
    assert head_work(replace(SETUP, is_bfloat16=False)) == 1000 * (4 + 4)
    assert head_work(replace(SETUP, num_trained=100)) == 1000 * 2


def test_a_learners_parts_by_hand() -> None:
    assert by_name(learner_parts(SETUP)) == {
        "weights": 16_000,
        "optimizer": 32_000,
        "gradients": 16_000,
        "activations": activations(SETUP),
        "logits": 6_400,
        "head's gradient": 8_000,
        "bfloat16 casts": 2 * 2_900,
    }
    eight = by_name(learner_parts(replace(SETUP, has_8bit_states=True)))
    assert eight["optimizer"] == 8_125  # 2 + 8 / 256 bytes a parameter
    reference = by_name(learner_parts(replace(SETUP, has_reference_copy=True)))
    assert reference["reference"] == 16_000
    adapters = by_name(learner_parts(replace(SETUP, num_trained=100)))
    assert (adapters["gradients"], adapters["optimizer"]) == (400, 800)


def test_learners_share_weights_gradients_and_states_but_not_activations() -> None:
    two = by_name(learner_parts(replace(SETUP, num_learners=2)))
    assert (two["weights"], two["optimizer"], two["gradients"]) == (8_000, 16_000, 8_000)
    assert two["gathered layers"] == 4 * (4000 - 1000) // 3 + 4 * 1000


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
            vocab_size=64, hidden_size=64, intermediate_size=192, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256,
        )  # fmt: skip
        model = LlamaForCausalLM(config).train()
        if kind == "adapters":
            lora.attach(model, LoraConfig(rank=1), seed=0, base_name="")
        if kind == "checkpointing":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    layout = Layout.PADDED if kind == "padded" else Layout.PACKED
    sizes = [
        [saved_bytes(build(n), rows=r, is_bfloat16=is_bfloat16, layout=layout) for r in (2, 4)]
        for n in (1, 2)
    ]
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


# -- places and remedies ---------------------------------------------------------------------------------------------


def device(gibibytes: float, *, kind: str = "cpu", index: int = 0) -> Device:
    return Device(
        kind=kind, index=index, name=f"{kind} {index}", available_bytes=int(gibibytes * GIB)
    )


def test_a_cpu_holds_all_learners_and_their_processes() -> None:
    (one,) = places(SETUP, [device(1)])
    (three,) = places(replace(SETUP, num_learners=3), [device(1)])
    base = by_name(list(one.parts))["python and libraries"]
    found = by_name(list(three.parts))
    assert found["python and libraries"] == 4 * base
    assert abs(found["weights"] - 16_000) <= 3  # three thirds
    assert found["published weights"] == 16_000


def test_gpus_hold_a_learner_each_and_the_first_the_engine() -> None:
    gpus = [device(80, kind="cuda", index=i) for i in range(4)]
    found = places(replace(SETUP, num_learners=2), gpus)
    assert [place.name for place in found] == ["cuda 0", "cuda 1"]
    names = [set(by_name(list(place.parts))) for place in found]
    assert names[0] - names[1] == {
        "published weights", "engine's weights", "key-value cache", "sampling", "prompts",
    }  # fmt: skip


def test_what_overlaps_adds_up() -> None:
    (apart,) = places(SETUP, [device(1)])
    (together,) = places(replace(SETUP, overlaps=True), [device(1)])
    phases = dict.fromkeys(Phase, 0)
    for part in apart.parts:
        phases[part.phase] += part.num_bytes
    assert apart.planned_bytes == phases[Phase.ALWAYS] + max(
        phases[Phase.TRAINING], phases[Phase.GENERATION]
    )
    assert together.planned_bytes - apart.planned_bytes == min(
        phases[Phase.TRAINING], phases[Phase.GENERATION]
    )
    assert peak_bytes([], overlaps=True) == 0


def test_a_remedy_says_what_it_saves_and_whether_that_is_enough() -> None:
    large = replace(SETUP, lengths=Lengths(prompt_mean=6, prompt_max=8, completion=400_000))
    large = replace(large, micro_batch_tokens=10**9)
    need = places(large, [device(1)])[0].planned_bytes
    alternatives = [
        ("learner.gradient_checkpointing=true", replace(large, has_checkpointing=True)),
        ("nothing=new", large),
    ]
    saved = activations(large) - activations(replace(large, has_checkpointing=True))
    for room, fits in ((need - saved // 2, True), (need - 3 * saved, False)):
        found = [device(room / GIB)]
        (fullest,) = places(large, found)
        (remedy,) = remedies(fullest, found, alternatives)
        assert remedy.override == "learner.gradient_checkpointing=true"
        assert remedy.saved_bytes == pytest.approx(
            1.1 * saved, rel=1e-3
        )  # with the allocator's share
        assert remedy.fits is fits


def test_the_warning_names_what_is_missing_and_what_helps_first() -> None:
    place = Place(name="GPU 0", parts=(), planned_bytes=30 * GIB, available_bytes=20 * GIB)
    assert not place.fits
    told = warning(
        place,
        [
            Remedy(override="learner.micro_batch_tokens=4096", saved_bytes=4 * GIB, fits=False),
            Remedy(override="learner.micro_batch_tokens=1024", saved_bytes=12 * GIB, fits=True),
            Remedy(override="learner.logits_memory_mb=128", saved_bytes=GIB, fits=False),
        ],
    )
    assert told == (
        "GPU 0: 30.00 GiB planned, 20.00 GiB available: out of memory is likely; try "
        "learner.micro_batch_tokens=1024 (-12.00 GiB, then it fits), or learner.logits_memory_mb=128 (-1.00 GiB)"
    )
    assert "no single key" in warning(place, [])


def test_candidates_are_what_the_recipe_has_not_done_yet() -> None:
    recipe = load_recipe("tiny", ["rollout.engine_dtype=float32"]).recipe
    told = [override(change) for change in candidates(recipe, row_tokens=2000)]
    assert told == [
        "learner.gradient_checkpointing=true",
        "learner.micro_batch_tokens=4096",
        "learner.micro_batch_tokens=2048",
        "learner.logits_memory_mb=128",
        "rollout.max_batch_rows=128",
        "rollout.max_batch_rows=64",
        "rollout.max_batch_rows=32",
        "rollout.engine_dtype=bfloat16",
        "rollout.engine_dtype=shared",
        "learner.optimizer=adamw_8bit",
        "model.lora.rank=16",
    ]


def test_a_change_that_contradicts_the_recipe_is_none() -> None:
    stale = load_recipe(
        "tiny",
        [
            "rollout.engine_dtype=bfloat16",
            "rollout.max_staleness=1",
            "algorithm.correction.weight=token",
        ],
    ).recipe
    assert changed(stale, ("rollout.engine_dtype", "shared")) is None
    other = changed(stale, ("learner.gradient_checkpointing", True))
    assert other is not None
    assert other.learner.gradient_checkpointing
    assert other.model_copy(update={"learner": stale.learner}) == stale


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
def test_every_recipe_survives_a_change(name: str) -> None:
    recipe = load_recipe(name).recipe
    assert changed(recipe, ("learner.logits_memory_mb", recipe.learner.logits_memory_mb)) == recipe


# -- the recipe as numbers -------------------------------------------------------------------------------------------


def setup_for(*overrides: str, num_adapters: int = 0) -> Setup:
    recipe = load_recipe("tiny", list(overrides)).recipe
    return setup_of(recipe, SMALL, num_adapters=num_adapters, lengths=SETUP.lengths)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["learner.dtype=bfloat16_autocast"], {"is_bfloat16": True}),
        (["learner.optimizer=adamw_8bit"], {"has_8bit_states": True}),
        (["learner.gradient_checkpointing=true"], {"has_checkpointing": True}),
        (["learner.layout=padded"], {"is_packed": False, "shares_prompts": False}),
        (["learner.share_prompt_prefix=false"], {"is_packed": True, "shares_prompts": False}),
        (["algorithm.kl_coef=0.1"], {"has_reference_copy": True, "has_reference_pass": True}),
        (["learner.minibatches_per_step=2"], {"has_proximal_pass": True, "minibatches": 2}),
        (["rollout.engine_dtype=bfloat16"], {"engine_bytes": 2}),
        (["rollout.engine_dtype=float32"], {"engine_bytes": 4}),
        (["learner.streaming=true"], {"overlaps": True}),
        (["rollout.max_batch_rows=64"], {"rows_at_once": 64}),
        (["rollout.max_batch_rows=5000"], {"rows_at_once": 500}),  # the evaluation's prompts
        (["cluster.learners=2"], {"num_learners": 2}),
    ],
)  # fmt: skip
def test_a_key_of_the_recipe_reaches_the_plan(
    overrides: list[str], expected: dict[str, object]
) -> None:
    found = setup_for(*overrides)
    assert {name: getattr(found, name) for name in expected} == expected
    assert {name: getattr(setup_for(), name) for name in expected} != expected


def test_the_engine_holds_no_copy_that_it_does_not_make_and_no_more_rows_than_there_are() -> None:
    toy = setup_for("rollout.engine=toy", "rollout.engine_dtype=bfloat16")
    assert toy.engine_bytes == 0
    few = setup_for("rollout.max_batch_rows=5000", "run.eval_prompts=20")
    assert few.rows_at_once == 16 * 16  # a step's completions


def test_adapters_need_no_copy_of_the_reference_unless_a_cold_start_trained_them() -> None:
    keys = ("model.lora.rank=8", "algorithm.kl_coef=0.1")
    after_cold_start = setup_for(*keys, num_adapters=100)
    assert after_cold_start.is_lora
    assert after_cold_start.has_reference_copy
    assert not setup_for(*keys, "cold_start.steps=0", num_adapters=100).has_reference_copy


def test_evaluations_are_counted_whole_and_in_between() -> None:
    # tiny: 80 steps, every 20: before, at 20, 40, 60 and 80
    assert setup_for("run.eval_prompts=10").num_eval_completions == 5 * 10
    partly = setup_for("run.eval_prompts=10", "run.eval_prompts_between=4")
    assert partly.num_eval_completions == 2 * 10 + 3 * 4


# -- time ------------------------------------------------------------------------------------------------------------


def test_passes_over_a_token_by_hand() -> None:
    assert pass_flops(SETUP) == 6 * 4000
    assert pass_flops(replace(SETUP, num_trained=100)) == 4 * 4000
    assert pass_flops(replace(SETUP, has_checkpointing=True)) == 8 * 4000
    assert pass_flops(replace(SETUP, has_reference_pass=True, has_proximal_pass=True)) == 10 * 4000


def test_attention_counts_pairs() -> None:
    # a completion of 4 after a shared prompt of 6: 4 x 6 + 4 x 4 / 2 pairs, 12 x layers x query width each
    assert attention_flops(SETUP) == 12 * 3 * 10 * (24 + 8)
    whole = replace(SETUP, shares_prompts=False)
    assert attention_flops(whole) == 12 * 3 * 10 * (10 * 10 / 2)


def test_decoding_reads_the_weights_once_a_token_or_multiplies() -> None:
    free = Speed(flops=1e30, bytes=1000.0, call_s=0.0)
    # 16 rows at once, 2 bytes x 4000 parameters, 4 tokens; a second wave costs as much again
    assert decode_s(SETUP, free, rows=8, prompts=4) == pytest.approx(4 * 8.0)
    assert decode_s(SETUP, free, rows=17, prompts=4) == pytest.approx(2 * 4 * 8.0)
    busy = Speed(flops=8000.0, bytes=1e30, call_s=0.0)
    prefill = 2 * 4 * 6 * 4000 / (8000.0 * 0.45)
    assert decode_s(SETUP, busy, rows=8, prompts=4) == pytest.approx(prefill + 4 * 8.0)


def test_the_run_is_its_steps_its_evaluations_and_its_cold_start() -> None:
    speed = Speed(flops=1e6, bytes=1e6, call_s=1e-6)
    plain = pace_of(SETUP, speed)
    assert plain.total_s == pytest.approx(10 * plain.step_s)
    assert (plain.generated_tokens, plain.learner_tokens) == (32, 56)
    more = pace_of(
        replace(SETUP, num_eval_completions=16, cold_start_rows=2, cold_start_steps=5), speed
    )
    evaluation = decode_s(SETUP, speed, rows=16, prompts=16)
    cold = 5 * 2 * 12 * 6 * 4000 / (1e6 * 0.45)
    assert more.total_s - plain.total_s == pytest.approx(evaluation + cold)


# -- the machine -----------------------------------------------------------------------------------------------------


def test_a_control_group_narrows_what_is_free(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:    64 kB\n")
    groups = tmp_path / "groups"
    groups.mkdir()
    assert free_memory(meminfo=meminfo, groups=groups) == 64 * 1024
    (groups / "memory.max").write_text("max\n")
    assert free_memory(meminfo=meminfo, groups=groups) == 64 * 1024
    (groups / "memory.max").write_text("50000\n")
    (groups / "memory.current").write_text("30000\n")
    (groups / "memory.stat").write_text("anon 20000\ninactive_file 5000\n")
    assert free_memory(meminfo=meminfo, groups=groups) == 50000 - 30000 + 5000


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable: 64 kB\n")
    old = tmp_path / "groups" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert free_memory(meminfo=meminfo, groups=tmp_path / "groups") == 64 * 1024
    (old / "memory.limit_in_bytes").write_text("40000\n")
    (old / "memory.usage_in_bytes").write_text("10000\n")
    (old / "memory.stat").write_text("total_inactive_file 1000\n")
    assert free_memory(meminfo=meminfo, groups=tmp_path / "groups") == 31000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named() -> None:
    (cpu,) = devices("auto")
    assert cpu.kind == "cpu"
    assert cpu.available_bytes > 0
    with pytest.raises(ConfigError, match=r"learner\.device='cuda'.*no CUDA device"):
        devices("cuda")


def test_the_measurement_is_of_this_device() -> None:
    speed = measure(device(1), is_bfloat16=False)
    assert 1e8 < speed.flops < 1e15
    assert 1e7 < speed.bytes < 1e13
    assert 0 < speed.call_s < 1e-2


# -- the command -----------------------------------------------------------------------------------------------------


def test_check_reports_the_recipe_its_memory_and_its_time() -> None:
    report = check_recipe(load_recipe("tiny", ["run.eval_prompts=20"]).recipe)
    titles = [title for title, _ in report.tables]
    assert titles == ["tiny: nothing was started", "memory of this machine", "time, an estimate"]
    rows = {name: value for _, rows in report.tables for name, value, _ in rows}
    assert rows["completions per step"] == "256"
    assert rows["weights"] == "2 MiB"
    assert rows["generated tokens a step"] == f"{256 * 6:,}"
    assert report.warnings == ()


def test_check_warns_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def tight(wanted: str) -> list[Device]:
        return [device(3.0)]

    monkeypatch.setattr("rlvr.run.plan_check.devices", tight)
    report = check_recipe(
        load_recipe(
            "tiny",
            [
                "run.eval_prompts=20", "rollout.prompts_per_step=256", "rollout.group_size=64",
                "learner.micro_batch_tokens=131072", "model.tiny.layers=16",
            ],
        ).recipe
    )  # fmt: skip
    (text,) = report.warnings
    assert text.startswith("cpu 0: ")
    assert "3.00 GiB available: out of memory is likely; try " in text
    assert "learner.gradient_checkpointing=true (-" in text
    assert "then it fits" in text
    last = dict(report.tables)["cpu 0"][-1]
    assert last == ("available", "3.00 GiB", "not enough")
