"""A rollout engine of a package outside rlvr: its recipes, its traits, and runs with it."""

import os
from pathlib import Path

import pytest

from rlvr.commands.dry_run import dry_run
from rlvr.config.load import load_recipe
from rlvr.config.recipe import EngineKind, EngineTraits, PluginEngine, RolloutConfig
from rlvr.config.sections.engines import declared_traits
from rlvr.config.sections.rollout import EngineDtype
from rlvr.contracts import check_engine
from rlvr.errors import ConfigError, PluginError
from rlvr.models.policy import load_policy
from rlvr.rollout.build import BUILDERS, build_engine
from rlvr.run.launch.preflight import require_engine
from tests.e2e.in_process import rlvr_here

OUTSIDE = Path(__file__).parent / "outside"
TARGET = "rlvr_outside.engine:UniformEngine"
SHORT = ["run.steps=2", "cold_start.steps=0", "run.eval_every_steps=0", "run.eval_prompts=20", "run.trackers=[]"]


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed, also for verifiers' processes."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(OUTSIDE), os.environ.get("PYTHONPATH", "")]))


def test_sound_engines_keep_their_contract() -> None:
    from rlvr_outside.engine import UniformEngine  # type: ignore[import-not-found]

    assert check_engine(UniformEngine) == []
    assert check_engine("uniform", settings={"max_batch": 1}) == []
    assert check_engine("weighted", settings={"max_batch": 5}) == []
    [problem] = check_engine(UniformEngine, settings={"max_batches": 1})
    assert problem.startswith("settings={'max_batches': 1} do not fit Config")


@pytest.mark.parametrize(
    "overrides",
    [
        ["rollout.engine={kind: uniform, max_batch: 2}"],
        ["rollout.engine=uniform", "rollout.engine.max_batch=2"],
        [f"rollout.engine={TARGET}", "rollout.engine.max_batch=2"],
        [f"rollout.engine={{kind: '{TARGET}', max_batch: 2}}"],
        ["rollout.engine={kind: plugin, name: uniform, settings: {max_batch: 2}}"],
    ],
)
def test_a_recipe_names_an_engine_by_its_kind(overrides: list[str], tmp_path: Path) -> None:
    loaded = load_recipe("tiny", overrides)
    engine = loaded.recipe.rollout.engine
    assert isinstance(engine, PluginEngine)
    assert (engine.kind, engine.settings) == ("plugin", {"max_batch": 2})
    assert loaded.provenance["rollout.engine.settings.max_batch"] == "command line"
    assert engine.traits == EngineTraits(has_weights=False)
    (tmp_path / "again.yaml").write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe(str(tmp_path / "again.yaml")).recipe == loaded.recipe
    policy = load_policy(loaded.recipe.model, seed=0)
    assert type(build_engine(loaded.recipe, policy=policy)).__name__ == "UniformEngine"


def test_plain_names_stay_valid_and_every_kind_can_be_built() -> None:
    for kind in EngineKind:
        assert RolloutConfig(engine=kind.value).engine is kind  # type: ignore[arg-type] # as a recipe has it
        assert RolloutConfig(engine={"kind": kind.value}).engine is kind  # type: ignore[arg-type]
    assert set(BUILDERS) == set(EngineKind)
    assert RolloutConfig(engine="uniform").engine == PluginEngine(name="uniform")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "uniforn",
            "must be an engine's name ('transformers', 'vllm', 'toy', 'uniform' or 'weighted'), "
            "package.module:Class or path/file.py:Class, or a mapping with one of these as its kind and the engine's "
            "settings as further keys; "
            "did you mean 'uniform'?",
        ),
        ("toi", "did you mean 'toy'?"),
        ("3", "package.module:Class or path/file.py:Class, or a mapping with one of these as its kind"),
        ("3", "(got 3)"),
        ("null", "(got nothing)"),
        ("{max_batch: 2}", "or a mapping with one of these as its kind and the engine's settings as further keys (got"),
        ("{kind: toy, max_batch: 2}", "toy has no settings here, but max_batch is given"),
    ],
)
def test_a_wrong_name_says_what_is_installed(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("tiny", [f"rollout.engine={value}"])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["rollout.engine={kind: uniform, max_bach: 2}"], PluginError,
         r"settings of engine 'uniform': max_bach: .* Its settings: max_batch"),
        (["rollout.engine=rlvr_outside.engine:Nope"], PluginError, "failed to load: AttributeError"),
        (["rollout.engine=rlvr_outside:smooth_clip"], PluginError, "a plugin is a class"),
        (["rollout.engine=rlvr_outside.engine:GenerationRequest"], PluginError, "lacks Config, generate"),
        (["rollout.engine=missing.py:Engine"], PluginError, "does not exist"),
    ],
)  # fmt: skip
def test_a_bad_engine_is_refused_before_anything_is_made(
    overrides: list[str], error: type[Exception], message: str
) -> None:
    recipe = load_recipe("tiny", overrides).recipe
    with pytest.raises(error, match=message):
        dry_run(recipe)


ENGINE = """
from rlvr.plugin import EmptyConfig

class Engine:
    Config = EmptyConfig
    {traits}
    def generate(self, requests): ...
    async def load_weights(self, ref, *, canary=()): ...
    async def score(self, rows): ...
    async def health(self): ...
    async def close(self): ...
"""
ON_RAY = "cluster.backend=ray"


@pytest.mark.parametrize(
    ("traits", "overrides", "message"),
    [
        ("needs_own_process = True", [], "runs in processes of its own: set cluster.backend=ray"),
        ("", ["rollout.engine_dtype=shared"], "keeps weights of its own; set float32 or bfloat16"),
        ("can_share_tensors = True",
         ["rollout.engine_dtype=shared", "rollout.max_staleness=1", "algorithm.correction.weight=token"],
         "an engine that shares the learner's tensors would see them change"),
        ("", [ON_RAY], "a single file does not travel"),
        ("has_weights = 1", [], "has_weights=1 must be a bool"),
        ("takes_adapters = True", [], "takes_adapters cannot be declared by a plugin"),
    ],
)  # fmt: skip
def test_the_traits_of_an_engine_are_compared_with_the_recipe(
    traits: str, overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = f"engine_{abs(hash((traits, *overrides)))}.py"
    Path(file).write_text(ENGINE.format(traits=traits), encoding="utf-8")
    recipe = load_recipe("tiny", [f"rollout.engine={file}:Engine", *overrides]).recipe
    with pytest.raises((ConfigError, PluginError), match=message):
        require_engine(recipe)


def test_traits_decide_what_is_shared_and_what_is_copied() -> None:
    def rollout(engine: str, dtype: EngineDtype) -> tuple[bool, bool]:
        config = RolloutConfig(engine=engine, engine_dtype=dtype)  # type: ignore[arg-type]
        return config.shares_tensors, config.has_copy

    assert rollout("transformers", EngineDtype.SHARED) == (True, False)
    assert rollout("transformers", EngineDtype.FLOAT32) == (False, True)
    assert rollout("vllm", EngineDtype.SHARED) == (False, True)  # it means bfloat16 there
    assert rollout("toy", EngineDtype.SHARED) == (False, False)
    assert rollout("uniform", EngineDtype.SHARED) == (False, False)


def test_an_engine_that_declares_nothing_has_the_defaults() -> None:
    assert declared_traits(object) == EngineTraits()


def test_a_run_trains_with_it_resumes_and_is_evaluated(tmp_path: Path) -> None:
    engine = "rollout.engine={kind: uniform, max_batch: 4}"
    rlvr_here("train", "tiny", engine, *SHORT, "run.checkpoint_every_steps=1", "--run-dir", "run", cwd=tmp_path)
    assert "name: uniform" in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    more = [*SHORT[1:], "run.steps=3", "run.checkpoint_every_steps=1", "--run-dir", "run", "--resume"]
    other = "rollout.engine={kind: uniform, max_batch: 5}"
    refused = rlvr_here("train", "tiny", other, *more, cwd=tmp_path, expect=2)
    assert "rollout.engine.settings.max_batch: 4 -> 5" in refused
    rlvr_here("train", "tiny", engine, *more, cwd=tmp_path)
    rlvr_here("eval", "run", cwd=tmp_path)


def test_the_commands_accept_it(tmp_path: Path) -> None:
    rlvr_here("train", "tiny", f"rollout.engine={TARGET}", "--dry-run", cwd=tmp_path)
    rlvr_here("check", "tiny", f"rollout.engine={TARGET}", cwd=tmp_path)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "extends: tiny\nname: mine\nrollout:\n  engine: {kind: uniform, max_batch: 2}\n", encoding="utf-8"
    )
    assert "name: uniform" in rlvr_here("recipes", "show", str(recipe), cwd=tmp_path)
