"""Configurations in the form of the published examples, each with its recipe; `RLVR_UPDATE_GOLDEN=1` rewrites these.

The recipes load, and every key of an input is in exactly one group.
"""

from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.imports.importing import import_config
from rlvr.imports.records import Imported, Taken
from tests.unit.config.recipe_cases import assert_golden
from tests.unit.imports.import_cases import GOLDEN, given_keys

RECIPE = ".recipe.yaml"
REPORT = ".report.txt"
CONFIGS = [path for path in sorted(GOLDEN.glob("*/*")) if not path.name.endswith((RECIPE, REPORT))]
EVERY = pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")


def imported(config: Path) -> Imported:
    return import_config(config.parent.name, config)


def report_of(result: Imported) -> str:
    """The groups, one line for each key."""
    lines: list[str] = []
    for taken in Taken:
        lines.append(f"== {taken}")
        for entry in result.entries:
            if entry.taken is taken:
                default = " (default)" if entry.is_default else ""
                lines.append(f"{entry.key}={entry.value}{default} -> {' '.join(entry.ours)} {entry.text}".rstrip())
    return "\n".join([*lines, "== by hand", *result.by_hand]) + "\n"


@EVERY
def test_the_recipe_equals_its_golden_file(config: Path) -> None:
    assert_golden(imported(config).recipe, config.with_name(config.name + RECIPE))


@EVERY
def test_the_report_equals_its_golden_file(config: Path) -> None:
    assert_golden(report_of(imported(config)), config.with_name(config.name + REPORT))


@EVERY
def test_the_recipe_loads(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(imported(config).recipe, encoding="utf-8")
    assert load_recipe(str(path)).recipe.rollout.group_size > 1


@EVERY
def test_every_key_of_the_input_is_in_one_group(config: Path) -> None:
    result = imported(config)
    keys = [entry.key for entry in result.entries if not entry.is_default]
    assert sorted(keys) == sorted(given_keys(config))
    assert all(entry.text for entry in result.entries if entry.taken is not Taken.EXACTLY)
    assert all(entry.ours for entry in result.entries if entry.taken is not Taken.NOT)


@EVERY
def test_every_line_of_a_recipe_names_its_origin(config: Path) -> None:
    values = [line for line in imported(config).recipe.splitlines() if not line.startswith("#")]
    assert all(line.endswith(":") or "  # " in line for line in values)


def test_there_are_three_inputs_for_each_trainer() -> None:
    counts = {folder.name: sum(path.parent == folder for path in CONFIGS) for folder in GOLDEN.iterdir()}
    assert set(counts) == {"trl", "verl", "prime-rl"}
    assert min(counts.values()) >= 3
