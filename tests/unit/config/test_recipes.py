"""Every packaged recipe: short, described, and resolved as the golden file says.

Golden files leave out what is default, so a new key changes one file alone: `full-recipe.yaml`, which has every key.
`RLVR_UPDATE_GOLDEN=1` rewrites them.
"""

from pathlib import Path

import pytest

from rlvr.config.document.packaged import RecipeInfo, list_recipes, recipe_folder
from rlvr.config.document.resolved_yaml import leaf_values
from rlvr.config.document.yaml_lines import dotted
from rlvr.config.load import load_recipe
from tests.unit.config.recipe_cases import DEFAULT, assert_golden, without_defaults

GOLDEN = Path(__file__).parents[2] / "golden" / "recipes"
FULL = GOLDEN.with_name("full-recipe.yaml")
EVERY = pytest.mark.parametrize("info", list_recipes(), ids=lambda info: info.name)


@EVERY
def test_the_resolved_recipe_equals_its_golden_file(info: RecipeInfo) -> None:
    golden = GOLDEN / f"{info.name}.yaml"
    assert_golden(without_defaults(load_recipe(info.name).to_yaml()), golden)


def test_one_golden_file_has_every_key_with_its_default() -> None:
    assert_golden(load_recipe("tiny").to_yaml(), FULL)


def test_only_defaults_are_left_out_of_a_golden_file() -> None:
    resolved = load_recipe("tiny").to_yaml()
    kept = without_defaults(resolved)
    assert [line for line in kept.splitlines() if "  # tiny.yaml:" in line] == [
        line for line in resolved.splitlines() if "  # tiny.yaml:" in line
    ]
    assert DEFAULT not in kept
    assert "  lora:" in resolved
    assert "  lora:" not in kept


@EVERY
def test_the_resolved_recipe_loads_to_an_equal_one(info: RecipeInfo, tmp_path: Path) -> None:
    loaded = load_recipe(info.name)
    path = tmp_path / "recipe.yaml"
    path.write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe(str(path)).recipe == loaded.recipe


@EVERY
def test_a_recipe_is_short_and_described_and_named_as_its_file(info: RecipeInfo) -> None:
    assert len(info.path.read_text(encoding="utf-8").splitlines()) <= 60
    loaded = load_recipe(info.name)
    assert loaded.recipe.name == info.name
    assert loaded.recipe.description == info.description != ""


@EVERY
def test_every_leaf_has_a_provenance(info: RecipeInfo) -> None:
    loaded = load_recipe(info.name)
    assert set(loaded.provenance) == {dotted(path) for path in leaf_values(loaded.recipe)}


@EVERY
def test_training_and_evaluation_never_share_a_split(info: RecipeInfo) -> None:
    data = load_recipe(info.name).recipe.data
    trained = {(source.source, source.subset, source.split) for source in data.train}
    assert not trained & {(source.source, source.subset, source.split) for source in data.eval}


@EVERY
def test_the_table_of_recipes_has_a_row_for_it(info: RecipeInfo) -> None:
    table = (recipe_folder() / "README.md").read_text(encoding="utf-8")
    assert f"| `{info.name}` |" in table


def test_there_is_no_golden_file_without_a_recipe() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == {info.name for info in list_recipes()}
