"""A recipe from a file or a packaged name: overrides, line numbers in every error, provenance.

    file (and the one it extends) -> values and lines -> overrides -> pydantic -> LoadedRecipe

All problems are reported at once, one a line:

    recipes/x.yaml:14: algorithm.clip_high: must be a number (got 'wide')
    command line: rollout.grp_size=4: unknown key; did you mean rollout.group_size?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlvr.config.overrides import apply_overrides
from rlvr.config.packaged import RecipeInfo, find_recipe, list_recipes
from rlvr.config.problems import boolean_problems, unique, validation_problems
from rlvr.config.recipe import Recipe
from rlvr.config.resolved_yaml import provenance_of, resolved_yaml
from rlvr.config.yaml_lines import Document, read_document
from rlvr.errors import ConfigError

__all__ = ["LoadedRecipe", "RecipeInfo", "find_recipe", "list_recipes", "load_recipe"]

_EXTENDS = "extends"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRecipe:
    """A recipe, and where each of its values came from.

    provenance: for each leaf, by dotted path, `default`, `file.yaml:14` or `command line`.
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

    Raises: ConfigError with every problem, one a line, each with its file and line.
    """
    path = find_recipe(name_or_path)
    document = _read_with_base(path)
    apply_overrides(document, overrides, model=Recipe)
    problems = list(document.problems)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        problems += validation_problems(error, document, model=Recipe)
    else:
        problems += boolean_problems(document, model=recipe)
    if problems or recipe is None:
        raise ConfigError("\n".join(str(problem) for problem in unique(problems)))
    return LoadedRecipe(recipe=recipe, provenance=provenance_of(recipe, document), path=path)


def _read_with_base(path: Path) -> Document:
    """The document of a file, over the one that its `extends` names."""
    document = _read(path)
    if _EXTENDS not in document.values:
        return document
    origin = document.origins[_EXTENDS,]
    name = document.values.pop(_EXTENDS)
    document.forget((_EXTENDS,))
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{origin.place}: extends: must be one recipe's file or name (got {name!r})"
        )
    try:
        base_path = find_recipe(name, beside=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{origin.place}: extends: {error}") from error
    if base_path.resolve() == path.resolve():
        raise ConfigError(f"{origin.place}: extends: the recipe extends itself")
    base = _read(base_path)
    if _EXTENDS in base.values:
        raise ConfigError(
            f"{origin.place}: extends: a recipe may extend one other, and {base.label} extends "
            f"{base.values[_EXTENDS]!r} itself (line {base.origins[_EXTENDS,].line})"
        )
    return document.merged_over(base)


def _read(path: Path) -> Document:
    label = _shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{label}: cannot be read: {error.strerror}") from error
    return read_document(text, label=label)


def _shown(path: Path) -> str:
    """The path as messages show it: relative where it lies under the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
