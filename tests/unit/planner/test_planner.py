"""What the planner concludes: devices, remedies, warnings, time, and the command."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvr.commands.check import check_recipe
from rlvr.config.load import list_recipes, load_recipe
from rlvr.errors import ConfigError
from rlvr.planner.machine import Device, Speed, devices, free_memory, measure
from rlvr.planner.memory import Part, Phase, activations, passing_bytes
from rlvr.planner.pace import attention_flops, decode_s, pace_of, pass_flops
from rlvr.planner.plan import Place, Remedy, places, remedies
from rlvr.planner.remedies import candidates, changed, override
from rlvr.planner.setup import Lengths
from rlvr.planner.table import warning
from tests.unit.planner.planner_cases import GIB, SETUP, by_name, device, setup_for


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
    assert names[0] - names[1] == {"published weights", "engine's weights", "key-value cache", "sampling", "prompts"}


def test_learners_whose_engine_is_elsewhere_keep_no_whole_weights() -> None:
    learners = ["cluster.learners=2", "learner.dtype=bfloat16_autocast"]
    elsewhere = setup_for(*learners, "cluster.backend=ray")
    assert setup_for(*learners).keeps_whole_weights
    assert not elsewhere.keeps_whole_weights
    (cpu,) = places(elsewhere, [device(1)])
    assert "published weights" not in by_name(list(cpu.parts))


def test_gradients_take_the_room_of_activations_unless_another_micro_batch_follows() -> None:
    (one,) = places(SETUP, [device(1)])
    found = by_name(list(one.parts))
    forward = found["activations"] + found["logits"]
    throughout = found["bfloat16 casts"] + found["head's gradient"]
    passing = throughout + max(forward, found["gradients"])
    assert found["allocator"] == round(passing / 4)
    always = sum(p.num_bytes for p in one.parts if p.phase is Phase.ALWAYS)
    assert one.planned_bytes == always + passing

    several = replace(SETUP, micro_batch_tokens=30)
    assert several.num_micro_batches == 2
    (two,) = places(several, [device(1)])
    found = by_name(list(two.parts))
    passing = throughout + found["activations"] + found["logits"] + found["gradients"]
    assert found["allocator"] == round(passing / 4)


def test_generation_adds_up_where_it_overlaps() -> None:
    parts = [
        Part(name="", num_bytes=b, phase=p, how="")
        for b, p in (
            (1000, Phase.ALWAYS),
            (10, Phase.TRAINING),
            (30, Phase.FORWARD),
            (20, Phase.GRADIENTS),
            (50, Phase.UPDATE),
            (60, Phase.GENERATION),
        )
    ]
    # training: max(10 + max(30, 20), 20 + 50) = 70; with gradients from before max(10 + 30 + 20, 70)
    assert passing_bytes(parts, overlaps=False, has_one_micro_batch=True) == 70
    assert passing_bytes(parts, overlaps=True, has_one_micro_batch=True) == 130
    assert passing_bytes(parts[:-2], overlaps=False, has_one_micro_batch=False) == 60
    assert passing_bytes([], overlaps=True, has_one_micro_batch=True) == 0


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
        # With the allocator's share.
        assert remedy.saved_bytes == pytest.approx(1.25 * saved, rel=1e-3)
        assert remedy.fits is fits


def test_the_warning_names_what_is_missing_and_what_helps_first() -> None:
    place = Place(name="GPU 0", parts=(), planned_bytes=30 * GIB, available_bytes=20 * GIB)
    assert not place.fits
    shown = warning(
        place,
        [
            Remedy(override="learner.micro_batch_tokens=4096", saved_bytes=4 * GIB, fits=False),
            Remedy(override="learner.micro_batch_tokens=1024", saved_bytes=12 * GIB, fits=True),
            Remedy(override="learner.logits_memory_mb=128", saved_bytes=GIB, fits=False),
        ],
    )
    assert shown == (
        "GPU 0: 30.00 GiB planned, 20.00 GiB available: out of memory is likely; try "
        "learner.micro_batch_tokens=1024 (-12.00 GiB, then it fits), or learner.logits_memory_mb=128 (-1.00 GiB)"
    )
    assert "no single key" in warning(place, [])


def test_candidates_are_what_the_recipe_has_not_done_yet() -> None:
    recipe = load_recipe("tiny", ["rollout.engine_dtype=float32"]).recipe
    shown = [override(change) for change in candidates(recipe, row_tokens=2000, device="cpu")]
    assert shown == [
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
        "tiny", ["rollout.engine_dtype=bfloat16", "rollout.max_staleness=1", "algorithm.correction.weight=token"]
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
        (["cluster.learners=2"], {"num_learners": 2, "keeps_whole_weights": True}),
        (["cluster.learners=2", "learner.dtype=bfloat16_autocast"], {"gathers_bfloat16": True}),
    ],
)  # fmt: skip
def test_a_key_of_the_recipe_reaches_the_plan(overrides: list[str], expected: dict[str, object]) -> None:
    found = setup_for(*overrides)
    assert {name: getattr(found, name) for name in expected} == expected
    assert {name: getattr(setup_for(), name) for name in expected} != expected


@pytest.mark.parametrize(("device", "mebibytes"), [("cpu", 512), ("cuda", 2048)])
def test_the_plan_counts_the_logits_that_the_learners_device_will_hold(device: str, mebibytes: int) -> None:
    assert setup_for(on=device).logits_bytes == mebibytes << 20
    assert setup_for("learner.logits_memory_mb=64", on=device).logits_bytes == 64 << 20


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


def test_an_evaluation_set_is_planned_with_the_rows_that_it_has() -> None:
    asked, held = (
        setup_for("run.eval_prompts=200", "run.eval_prompts_between=40", eval_sizes=sizes) for sizes in (None, [30])
    )
    assert asked.num_eval_completions == 2 * 200 + 3 * 40
    assert held.num_eval_completions == 5 * 30
    assert held.rows_at_once <= asked.rows_at_once


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
    free = Speed(flops=1e30, bytes=1000.0, call_s=0.0, attained=0.5)
    # 16 rows at once, 2 bytes x 4000 parameters, 4 tokens; a second wave costs as much again
    assert decode_s(SETUP, free, rows=8, prompts=4) == pytest.approx(4 * 8.0)
    assert decode_s(SETUP, free, rows=17, prompts=4) == pytest.approx(2 * 4 * 8.0)
    busy = Speed(flops=8000.0, bytes=1e30, call_s=0.0, attained=0.5)
    prefill = 2 * 4 * 6 * 4000 / (8000.0 * 0.5)
    assert decode_s(SETUP, busy, rows=8, prompts=4) == pytest.approx(prefill + 4 * 8.0)


def test_a_tiny_models_time_is_that_of_calls() -> None:
    """4 tokens through 3 layers of 60 operations, and 100 calls' time for each completion, twice when it is trained."""
    slow = Speed(flops=1e30, bytes=1e30, call_s=0.001, attained=0.5)
    assert decode_s(SETUP, slow, rows=8, prompts=4) == pytest.approx(4 * 3 * 0.06 + 8 * 0.1)
    assert pace_of(SETUP, slow).training_s == pytest.approx(SETUP.rows_per_step * 0.1)


def test_the_run_is_its_steps_its_evaluations_and_its_cold_start() -> None:
    speed = Speed(flops=1e6, bytes=1e6, call_s=1e-6, attained=0.5)
    plain = pace_of(SETUP, speed)
    assert plain.total_s == pytest.approx(10 * plain.step_s)
    assert (plain.generated_tokens, plain.learner_tokens) == (32, 56)
    more = pace_of(replace(SETUP, num_eval_completions=16, cold_start_rows=2, cold_start_steps=5), speed)
    evaluation = decode_s(SETUP, speed, rows=16, prompts=16)
    cold = 5 * 2 * 12 * 6 * 4000 / (1e6 * 0.5)
    assert more.total_s - plain.total_s == pytest.approx(evaluation + cold)


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


def test_check_reports_the_recipe_its_memory_and_its_time() -> None:
    report = check_recipe(load_recipe("tiny", ["run.eval_prompts=20"]).recipe)
    titles = [title for title, _ in report.tables]
    assert titles == ["tiny: nothing was started", "memory of this machine", "time, an estimate"]
    rows = {name: value for _, rows in report.tables for name, value, _ in rows}
    assert rows["completions per step"] == "256"
    assert rows["weights"] == "2 MiB"
    assert rows["generated tokens per step"] == f"{256 * 6:,}"
    assert report.warnings == ()


def test_check_warns_where_prompts_will_be_dropped() -> None:
    report = check_recipe(load_recipe("tiny", ["model.tiny.max_positions=10"]).recipe)
    assert report.warnings == (
        "the longest prompt has 7 tokens, which with rollout.max_completion_tokens=6 is more than the model's 10 "
        "positions: such prompts are dropped",
    )


def test_check_warns_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def tight(wanted: str) -> list[Device]:
        return [device(4.0)]

    monkeypatch.setattr("rlvr.commands.check.devices", tight)
    report = check_recipe(
        load_recipe(
            "tiny",
            [
                "run.eval_prompts=20",
                "rollout.prompts_per_step=256",
                "rollout.group_size=64",
                "learner.micro_batch_tokens=131072",
                "model.tiny.layers=16",
            ],
        ).recipe
    )
    (text,) = report.warnings
    assert text.startswith("cpu 0: ")
    assert "4.00 GiB available: out of memory is likely; try " in text
    assert "learner.gradient_checkpointing=true (-" in text
    assert "then it fits" in text
    last = dict(report.tables)["cpu 0"][-1]
    assert last == ("available", "4.00 GiB", "not enough")
