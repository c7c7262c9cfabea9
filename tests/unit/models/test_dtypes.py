"""`auto` dtypes: what is measured, what follows from it, where the choice and its reason are kept."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlvr.config.dtypes import has_auto, with_dtypes, with_stored_dtypes
from rlvr.config.load import load_recipe
from rlvr.config.recipe import EngineDtype, ModelConfig, TinyModel
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.errors import LearnerError, RolloutError
from rlvr.models import dtype_speed
from rlvr.models.dtype_speed import DtypeSpeeds, linear_shapes, measure_dtypes
from rlvr.models.policy import build_tiny, outline
from rlvr.rollout.transformers_engine import TransformersEngine
from rlvr.run.launch.choose_dtypes import apply_choice, choose_dtypes
from tests.unit.learner.learner_cases import FLOAT32, TINY, make_learner

BFLOAT16 = LearnerDtype.BFLOAT16_AUTOCAST
RAY = "cluster.backend=ray"


def speeds(float32: float, bfloat16: float) -> DtypeSpeeds:
    return DtypeSpeeds(
        device="2 CPU threads",
        has_bfloat16=True,
        shapes=((1536, 576),),
        float32_flops=float32 * 1e9,
        bfloat16_flops=bfloat16 * 1e9,
    )


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [
        (105, 15, LearnerDtype.FLOAT32),  # AVX2
        (77, 144, BFLOAT16),  # AVX-512-BF16
        (100, 105, LearnerDtype.FLOAT32),  # as good as equal: the more exact one
    ],
)
def test_bfloat16_is_chosen_only_where_it_is_faster(float32: float, bfloat16: float, expected: LearnerDtype):
    assert speeds(float32, bfloat16).choice is expected


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_gpu_computes_in_bfloat16_where_it_has_it(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    found = dtype_speed.measure_shapes([(8, 8)], torch.device("cuda", 0))
    assert found.choice is (BFLOAT16 if has_bfloat16 else LearnerDtype.FLOAT32)
    assert found.reason == f"Some GPU {'has' if has_bfloat16 else 'lacks'} bfloat16 arithmetic"


def test_the_layers_with_most_of_the_weights_are_timed_without_the_head():
    wide = TinyModel(layers=2, hidden_size=64, heads=4, intermediate_size=512, characters="01")
    assert linear_shapes(outline(ModelConfig(tiny=wide))) == [(512, 64), (64, 512)]
    huge = outline(ModelConfig(tiny=wide.model_copy(update={"intermediate_size": 9000})))
    assert linear_shapes(huge) == [(1536, 64), (64, 1536)]
    without_linear = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=16))
    assert linear_shapes(without_linear) == [(32, 32)]


def test_the_measurement_is_real_and_draws_no_random_numbers():
    before = torch.get_rng_state()
    found = measure_dtypes(build_tiny(TINY, seed=0).model, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.float32_flops > 1e6
    assert found.bfloat16_flops > 1e6
    assert str(round(found.float32_flops / 1e9)) in found.reason


@pytest.mark.parametrize(
    ("overrides", "learner", "engine"),
    [
        ([], BFLOAT16, EngineDtype.BFLOAT16),
        ([], LearnerDtype.FLOAT32, EngineDtype.SHARED),
        ([RAY], LearnerDtype.FLOAT32, EngineDtype.FLOAT32),
        (["rollout.max_staleness=1", "algorithm.correction.weight=token"], LearnerDtype.FLOAT32, EngineDtype.FLOAT32),
        ([RAY, "rollout.engine=vllm"], LearnerDtype.FLOAT32, EngineDtype.FLOAT32),
        ([RAY, "rollout.engine=vllm"], BFLOAT16, EngineDtype.BFLOAT16),
        (["rollout.engine=toy"], BFLOAT16, EngineDtype.SHARED),
    ],
)
def test_the_engine_follows_the_learner(overrides: list[str], learner: LearnerDtype, engine: EngineDtype):
    recipe = load_recipe("quickstart", overrides).recipe
    assert has_auto(recipe)
    found = with_dtypes(recipe, learner=learner)
    assert (found.learner.dtype, found.rollout.engine_dtype) == (learner, engine)
    assert not has_auto(found)


def test_what_a_recipe_states_stays_and_nothing_is_measured_for_it():
    def never() -> DtypeSpeeds:
        raise AssertionError("measured")

    stated = load_recipe("quickstart", ["learner.dtype=bfloat16_autocast"]).recipe
    choice = choose_dtypes(stated, measure=never)
    assert choice is not None
    assert choice.recipe.rollout.engine_dtype is EngineDtype.BFLOAT16
    assert choice.reason == "follows learner.dtype"
    whole = load_recipe("quickstart", ["learner.dtype=float32", "rollout.engine_dtype=bfloat16"])
    assert choose_dtypes(whole.recipe, measure=never) is None


def test_the_choice_its_figures_and_its_reason_are_kept(tmp_path):
    loaded = load_recipe("quickstart", ["rollout.engine_dtype=float32"])
    choice = choose_dtypes(loaded.recipe, measure=lambda: speeds(105, 15))
    assert choice is not None
    assert choice.event == {
        "learner_dtype": "float32",
        "engine_dtype": "float32",
        "reason": "float32 105, bfloat16 15 GFLOP/s in layers of 576x1536 on 2 CPU threads",
        "float32_gflops": 105.0,
        "bfloat16_gflops": 15.0,
    }
    applied = apply_choice(loaded, choice)
    text = applied.to_yaml()
    assert "dtype: float32  # auto: float32 105, bfloat16 15 GFLOP/s" in text
    assert "engine_dtype: float32  # command line" in text
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert load_recipe(str(path)).recipe == applied.recipe


def test_a_resumed_run_keeps_the_choice_of_its_start():
    loaded = load_recipe("quickstart")
    stored = with_dtypes(loaded.recipe, learner=LearnerDtype.FLOAT32)
    resumed = with_stored_dtypes(loaded, stored)
    assert resumed.recipe == stored
    assert resumed.provenance["learner.dtype"] == "auto: chosen when the run started"
    stated = load_recipe("quickstart", ["learner.dtype=bfloat16_autocast"])
    assert with_stored_dtypes(stated, stored).recipe.learner.dtype is BFLOAT16


def test_neither_learner_nor_engine_starts_with_an_open_dtype(tmp_path):
    with pytest.raises(LearnerError, match="must be chosen before the learner is built"):
        make_learner(tmp_path, config=LearnerConfig(lr=FLOAT32.lr))
    with pytest.raises(RolloutError, match="must be chosen before the engine is built"):
        TransformersEngine(build_tiny(TINY, seed=0), engine_dtype=EngineDtype.AUTO, autocast=False, max_batch_rows=1)
