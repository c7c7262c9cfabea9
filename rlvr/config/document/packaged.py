"""The recipes shipped with rlvr: `rlvr/_recipes` in the wheel, `recipes/` in a checkout."""

import difflib
import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlvr.config.document.yaml_lines import read_document
from rlvr.errors import ConfigError
from rlvr.storage.input_files import is_file, other_kind

_ENDING = ".yaml"


def read_table(path: Path) -> Any:
    """The values of a YAML table that is part of the package."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it is present, is several times faster
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInfo:
    """One line of a listing. name: what `rlvr train` takes."""

    name: str
    path: Path
    description: str


def recipe_folder() -> Path:
    """The folder of the packaged recipes.

    Raises: ConfigError when the installation has none.
    """
    package = Path(str(importlib.resources.files("rlvr")))
    for folder in (package / "_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise ConfigError("this installation has no packaged recipes; give the path of a recipe file")


def list_recipes() -> tuple[RecipeInfo, ...]:
    """Every packaged recipe, by name.

    Raises: ConfigError when one is not valid YAML.
    """
    found: list[RecipeInfo] = []
    for path in sorted(recipe_folder().glob(f"*{_ENDING}")):
        values = read_document(path.read_text(encoding="utf-8"), label=path.name).values
        description = str(values.get("description") or "")
        found.append(RecipeInfo(name=_bare(path.name), path=path, description=description))
    return tuple(found)


def find_recipe(name_or_path: str, *, beside: Path | None = None) -> Path:
    """The file of a recipe: a path, else the name of a packaged one.

    Args:
        beside: the folder that a relative path starts from; default the working directory.
        Raises: ConfigError with a suggestion when there is none.
    """
    path = Path(name_or_path)
    if beside is not None and not path.is_absolute():
        path = beside / path
    if is_file(path):
        return path
    try:
        folder = recipe_folder()
    except ConfigError as error:
        raise ConfigError(f"no recipe {name_or_path!r}: no such file, and {error}") from error
    packaged = {_bare(found.name): found for found in sorted(folder.glob(f"*{_ENDING}"))}
    bare = _bare(name_or_path)
    if bare in packaged:
        return packaged[bare]
    kind = other_kind(path)
    if kind:
        raise ConfigError(
            f"{_brief(name_or_path)} is {kind}, and a recipe is a YAML file (or one of the packaged recipes: "
            f"{', '.join(packaged) or 'none'})"
        )
    near = difflib.get_close_matches(_bare(path.name), packaged, n=1, cutoff=0.5)
    meant = f". Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"no recipe {_brief(name_or_path)}: no such file, and not one of the packaged recipes: "
        f"{', '.join(packaged) or 'none'}{meant}"
    )


def _brief(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:100]}...")


def _bare(name: str) -> str:
    return name.removesuffix(_ENDING)
