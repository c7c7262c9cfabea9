"""A recipe from a file or a packaged name: overrides, line numbers in every error, provenance.

    preset < file that is extended < file -> values and lines -> overrides -> pydantic -> LoadedRecipe

All problems are reported at once, one per line:

    recipes/x.yaml:14: algorithm.loss.clip_high: must be a number (got 'wide')
    command line: rollout.grp_size=4: unknown key; did you mean rollout.group_size?
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlvr.config.document.overrides import apply_overrides
from rlvr.config.document.packaged import RecipeInfo, find_recipe, list_recipes
from rlvr.config.document.resolved_yaml import provenance_of, resolved_yaml
from rlvr.config.document.yaml_lines import Document, Origin, read_document, value_at
from rlvr.config.messages.problems import boolean_problems, infinite_problems, problem_at, unique, validation_problems
from rlvr.config.presets import NONE, PRESET, PRESETS, changes_nothing, stack, unknown_preset
from rlvr.config.recipe import Recipe
from rlvr.config.sections.bounds import MAX_RECIPE_BYTES
from rlvr.errors import ConfigError
from rlvr.storage.input_files import read_input_text

__all__ = ["LoadedRecipe", "RecipeInfo", "find_recipe", "list_recipes", "load_recipe"]

_EXTENDS = "extends"
_NO_EFFECT = (
    "changes nothing, because the recipe sets every key of the preset itself (a resolved recipe does); remove those "
    "keys, or give the recipe that it was resolved from"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRecipe:
    """A recipe and the provenance of its values.

    provenance: `default`, `preset dapo`, `file.yaml:14` or `command line` for each leaf, by dotted path.
    path: the recipe's file.
    """

    recipe: Recipe
    provenance: dict[str, str]
    path: Path

    def to_yaml(self) -> str:
        """The resolved recipe, each leaf's provenance in a comment; it loads to an equal recipe."""
        return resolved_yaml(self.recipe, self.provenance)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """The validated recipe.

    Args:
        name_or_path: a file, or the name of a packaged recipe (`quickstart`).
        overrides: `key=value`, applied in order after the file.

    Raises: ConfigError with every problem, one per line, each with its file and line.
    """
    path = find_recipe(name_or_path)
    document = _resolved(_layers(path), overrides)
    problems = list(document.problems)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        problems += validation_problems(error, document, model=Recipe)
    else:
        problems += boolean_problems(document, model=recipe)
        problems += infinite_problems(document)
    if problems or recipe is None:
        raise ConfigError("\n".join(str(problem) for problem in unique(problems)))
    return LoadedRecipe(recipe=recipe, provenance=provenance_of(recipe, document), path=path)


def _resolved(layers: Sequence[Document], overrides: Sequence[str]) -> Document:
    """The file layers and the command line, over the preset that they name."""
    probe = stack(copy.deepcopy(layers), preset=NONE, origin=Origin(), model=Recipe)
    apply_overrides(probe, overrides, model=Recipe)
    preset = value_at(probe.values, PRESET)
    origin = probe.origins.get(PRESET, Origin())
    known = preset if isinstance(preset, str) and preset in PRESETS else NONE
    document = stack(layers, preset=known, origin=origin, model=Recipe)
    apply_overrides(document, overrides, model=Recipe)
    section = document.values.get("algorithm")
    if isinstance(preset, str) and isinstance(section, dict) and preset != known:
        document.problems.append(problem_at(document, PRESET, unknown_preset(preset)))
        section["preset"] = NONE
    elif known != NONE and changes_nothing(document, known):
        document.problems.append(problem_at(document, PRESET, _NO_EFFECT))
    return document


def _layers(path: Path) -> list[Document]:
    """The document of a file, preceded by that of the recipe that it `extends`."""
    document = _read(path)
    if _EXTENDS not in document.values:
        return [document]
    origin = document.origins[_EXTENDS,]
    name = document.values.pop(_EXTENDS)
    document.forget((_EXTENDS,))
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{origin.place}: extends: must be the file or name of one recipe (got {name!r})")
    try:
        base_path = find_recipe(name, beside=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{origin.place}: extends: {error}") from error
    if base_path.resolve() == path.resolve():
        raise ConfigError(f"{origin.place}: extends: the recipe extends itself")
    base = _read(base_path)
    if _EXTENDS in base.values:
        raise ConfigError(
            f"{origin.place}: extends: only one level is allowed, and {base.label} itself extends "
            f"{base.values[_EXTENDS]!r} (line {base.origins[_EXTENDS,].line})"
        )
    return [base, document]


def _read(path: Path) -> Document:
    label = _shown(path)
    text = read_input_text(path, what=label, max_bytes=MAX_RECIPE_BYTES, error=ConfigError)
    return read_document(text, label=label)


def _shown(path: Path) -> str:
    """The path as messages show it: relative where it lies under the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
