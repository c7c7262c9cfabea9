"""Presets: what they bring, what wins over them, and where they show. Golden files leave out what is default.

`RLVR_UPDATE_GOLDEN=1` rewrites the golden files.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlvr.config.document.packaged import recipe_folder
from rlvr.config.document.paths import annotation_at, key_paths
from rlvr.config.load import LoadedRecipe, load_recipe
from rlvr.config.presets import PRESETS, preset_values
from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError
from tests.unit.config.recipe_cases import assert_golden, without_defaults

GOLDEN = Path(__file__).parents[2] / "golden" / "presets"
BASE = """\
name: x
model: {tiny: {}}
data: {train: [{source: x.jsonl, verifier: text_match}]}
"""
PLAIN = {"name": "x", "model": {"tiny": {}}, "data": {"train": [{"source": "x.jsonl", "verifier": "text_match"}]}}
EVERY = pytest.mark.parametrize("name", PRESETS)
Load = Callable[..., LoadedRecipe]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, *overrides: str) -> LoadedRecipe:
        Path("x.yaml").write_text(BASE + text, encoding="utf-8")
        return load_recipe("x.yaml", overrides)

    return load_text


def fault(load: Load, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return str(caught.value).splitlines()


def loss_of(loaded: LoadedRecipe) -> dict[str, object]:
    return loaded.recipe.algorithm.loss.model_dump()


@EVERY
def test_the_resolved_algorithm_equals_its_golden_file(load: Load, name: str) -> None:
    lines = load(f"algorithm: {{preset: {name}}}\n").to_yaml().splitlines()
    start, end = lines.index("algorithm:"), lines.index("learner:")
    elsewhere = [line.strip() for line in lines[:start] if line.endswith(f"# preset {name}")]
    algorithm = without_defaults("\n".join(lines[start:end]))
    text = "".join(f"# elsewhere: {line}\n" for line in elsewhere) + algorithm
    assert_golden(text, GOLDEN / f"{name}.yaml")


def test_there_is_no_golden_file_without_a_preset() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(PRESETS)


@EVERY
def test_every_key_of_a_preset_is_a_key_of_the_recipe_and_carries_its_name(load: Load, name: str) -> None:
    loaded = load(f"algorithm: {{preset: {name}}}\n")
    known = key_paths(Recipe)
    for path in PRESETS[name].keys:
        assert path in known
        assert loaded.provenance[path] == f"preset {name}"
    assert set(PRESETS[name].keys) == {path for path, origin in loaded.provenance.items() if origin == f"preset {name}"}
    assert loaded.provenance["algorithm.preset"] == "x.yaml:4"


@EVERY
def test_a_preset_spells_values_as_the_recipe_holds_them(load: Load, name: str) -> None:
    loaded = load(f"algorithm: {{preset: {name}}}\n")
    for path, written in PRESETS[name].keys.items():
        value: object = loaded.recipe
        for part in path.split("."):
            value = getattr(value, part)
        assert value == written
        assert type(value) is not int or annotation_at(Recipe, tuple(path.split("."))) is int


@EVERY
def test_no_preset_resamples_or_touches_batch_size_staleness_or_the_learner(name: str) -> None:
    allowed = ("algorithm.", "data.difficulty.", "reward.")
    assert all(path.startswith(allowed) for path in PRESETS[name].keys)
    assert not any("dynamic_sampling" in path for path in PRESETS[name].keys)


@EVERY
def test_the_resolved_recipe_loads_to_an_equal_one(load: Load, tmp_path: Path, name: str) -> None:
    loaded = load(f"algorithm: {{preset: {name}, entropy_coef: 0.01}}\n")
    again = tmp_path / "again.yaml"
    again.write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe(str(again)).recipe == loaded.recipe
    assert load_recipe(str(again)).recipe.algorithm.preset == name


@EVERY
def test_plain_values_take_the_preset_as_a_file_does(load: Load, name: str) -> None:
    from_file = load(f"algorithm: {{preset: {name}}}\n").recipe
    assert Recipe.model_validate({**PLAIN, "algorithm": {"preset": name}}) == from_file


@EVERY
def test_the_readme_has_a_row_that_can_be_pasted_into_a_recipe(load: Load, name: str) -> None:
    preset = PRESETS[name]
    sections = {
        section: yaml.safe_dump(keys, default_flow_style=True, sort_keys=False, width=1000).strip()
        for section, keys in preset_values(preset).items()
    }
    keys = ", ".join(f"`{section}: {text}`" for section, text in sections.items())
    row = f"| `{name}` | {preset.summary} | {keys} | {preset.paper} | {preset.left_out} |"
    assert row in (recipe_folder() / "README.md").read_text(encoding="utf-8").splitlines()
    load("")
    pasted = "".join(f"{section}: {text}\n" for section, text in sections.items())
    Path("y.yaml").write_text(f"extends: x.yaml\n{pasted}", encoding="utf-8")
    by_hand = load_recipe("y.yaml").recipe
    by_name = load(f"algorithm: {{preset: {name}}}\n").recipe
    named = by_hand.algorithm.model_copy(update={"preset": name})
    assert by_hand.model_copy(update={"algorithm": named}) == by_name


def test_what_the_recipe_and_the_command_line_say_wins(load: Load) -> None:
    loaded = load("algorithm:\n  preset: dapo\n  loss: {clip_high: 0.3}\n", "algorithm.kl_coef=0.01")
    assert loss_of(loaded) == {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.3, "dual_clip": 0.0}
    assert loaded.recipe.algorithm.kl_coef == 0.01
    assert loaded.provenance["algorithm.loss.clip_high"] == "x.yaml:6"
    assert loaded.provenance["algorithm.loss.clip_low"] == "preset dapo"
    assert loaded.provenance["algorithm.kl_coef"] == "command line"


def test_a_preset_of_the_command_line_replaces_that_of_the_file(load: Load) -> None:
    text = "algorithm: {preset: dapo, entropy_coef: 0.01}\n"
    loaded = load(text, "algorithm.preset=gspo")
    assert loss_of(loaded) == {"kind": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}
    assert loaded.provenance["algorithm.loss.kind"] == "preset gspo"
    assert loaded.provenance["algorithm.preset"] == "command line"
    assert loaded.provenance["algorithm.entropy_coef"] == "x.yaml:4"
    assert loss_of(load(text, "algorithm.preset=none"))["clip_high"] == 0.2


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("algorithm: {preset: gspo, loss: clipped}\n", ()),
        ("algorithm: {preset: gspo, loss: {kind: clipped}}\n", ()),
        ("algorithm: {preset: gspo}\n", ("algorithm.loss=clipped",)),
        ("", ("algorithm.preset=gspo", "algorithm.loss.kind=clipped")),
        ("", ("algorithm.loss=clipped", "algorithm.preset=gspo")),
    ],
)
def test_another_kind_drops_what_the_preset_has_for_its_own(load: Load, text: str, overrides: tuple[str, ...]) -> None:
    loaded = load(text, *overrides)
    assert loss_of(loaded) == {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 0.0}
    assert loaded.provenance["algorithm.loss.clip_low"] == "default"
    assert loaded.provenance["algorithm.aggregation"] == "preset gspo"


def test_a_key_of_the_file_is_of_the_preset_s_kind(load: Load) -> None:
    text = "algorithm:\n  preset: gspo\n  loss: {clip_high: 5e-4}\n"
    assert loss_of(load(text)) == {"kind": "gspo", "clip_low": 3e-4, "clip_high": 5e-4}
    same = load(text, "algorithm.loss.kind=gspo")
    assert loss_of(same) == {"kind": "gspo", "clip_low": 3e-4, "clip_high": 5e-4}


def test_the_base_names_the_preset_and_the_child_a_key(load: Load) -> None:
    load("algorithm: {preset: cispo}\n")
    Path("y.yaml").write_text("extends: x.yaml\nalgorithm: {loss: {ratio_max: 8}}\n")
    loaded = load_recipe("y.yaml")
    assert loss_of(loaded) == {"kind": "cispo", "ratio_min": 0.0, "ratio_max": 8.0}
    assert loaded.provenance["algorithm.loss.ratio_min"] == "preset cispo"


def test_a_preset_reaches_beyond_the_algorithm_where_its_paper_does(load: Load) -> None:
    loaded = load("algorithm: {preset: scalerl}\n")
    assert loaded.recipe.data.difficulty.retire_solve_rate == 0.9
    assert loaded.provenance["data.difficulty.retire_solve_rate"] == "preset scalerl"
    own = load("algorithm: {preset: scalerl}\n", "data.difficulty.retire_solve_rate=0")
    assert own.recipe.data.difficulty.retire_solve_rate == 0.0


def test_a_problem_with_a_presets_value_points_to_the_line_that_names_the_preset(load: Load) -> None:
    assert fault(load, "algorithm:\n  preset: pass_at_k\nrollout: {group_size: 4}\n") == [
        "x.yaml:6: rollout.group_size=4: the pass_at_k advantage with algorithm.advantage.k=4 "
        "compares the rollouts of a group and needs at least 5; 8 is usual"
    ]
    assert fault(load, "algorithm:\n  preset: dapo\n  loss: {clip_low: 0.3}\n") == [
        "x.yaml:6: algorithm.loss.clip_high=0.28 is below clip_low=0.3; DAPO needs clip_high >= clip_low"
    ]
    assert fault(load, "learner: {streaming: true}\n", "algorithm.preset=gdpo") == [
        "x.yaml:4: learner.streaming=true takes each group as it arrives, but the gdpo advantage "
        "needs the whole batch; set learner.streaming=false"
    ]


NAMES = ", ".join(repr(name) for name in ("none", *list(PRESETS)[:-1]))


def test_an_unknown_preset_gets_a_suggestion_along_with_the_other_problems(load: Load) -> None:
    text = "algorithm:\n  preset: dap\n  kl_coef: x\n"
    assert fault(load, text) == [
        f"x.yaml:5: algorithm.preset: must be one of {NAMES} or 'scalerl'; did you mean 'dapo'?",
        "x.yaml:6: algorithm.kl_coef: must be a number (got 'x')",
    ]
    assert fault(load, "", "algorithm.preset=dr_gpro") == [
        f"command line: algorithm.preset=dr_gpro: must be one of {NAMES} or 'scalerl'; did you mean 'dr_grpo'?"
    ]
    with pytest.raises(ValueError, match=r"algorithm\.preset='dap' must be one of"):
        Recipe.model_validate({**PLAIN, "algorithm": {"preset": "dap"}})


@pytest.mark.parametrize(
    ("value", "message"), [("3", "must be text; put it in quotes (got 3)"), ("", "must be text (got nothing)")]
)  # fmt: skip
def test_a_preset_that_is_no_name_is_a_problem(load: Load, value: str, message: str) -> None:
    assert fault(load, f"algorithm:\n  preset: {value}\n") == [f"x.yaml:5: algorithm.preset: {message}"]


def test_a_preset_over_a_resolved_recipe_is_refused_because_it_would_change_nothing(load: Load) -> None:
    resolved = load("algorithm: {preset: dapo}\n").to_yaml()
    Path("resolved.yaml").write_text(resolved, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe("resolved.yaml", ["algorithm.preset=gspo"])
    assert str(caught.value) == (
        "command line: algorithm.preset=gspo: changes nothing, because the recipe sets every key "
        "of the preset itself (a resolved recipe does); remove those keys, or give the recipe that "
        "it was resolved from"
    )
