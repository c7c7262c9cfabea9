"""The files of a target, and writing them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from rlvr.config.load import load_recipe
from rlvr.deploy.choices import Choices, Target
from rlvr.deploy.compose import compose_files
from rlvr.deploy.kuberay import kuberay_files
from rlvr.deploy.layout import layout_of, require_cluster
from rlvr.deploy.model_size import model_size
from rlvr.deploy.request import Request
from rlvr.deploy.slurm import slurm_files
from rlvr.errors import ConfigError
from rlvr.planner.hardware import parse_hardware

_FILES: dict[Target, Callable[[Request], dict[str, str]]] = {
    Target.KUBERAY: kuberay_files,
    Target.SLURM: slurm_files,
    Target.COMPOSE: compose_files,
}


def render(
    recipe: str,
    overrides: tuple[str, ...],
    *,
    target: Target,
    choices: Choices,
    gpus: str = "",
    is_cpu: bool = False,
    parameters: str = "",
) -> tuple[dict[str, str], tuple[str, ...]]:
    """(texts by file name, the main one first; what the user should check).

    Args:
        recipe, overrides: as for `rlvr train`.
        gpus: NODESxGPUSxMEMORY of the cluster that the user has, or "".
        parameters: the model's size, such as 7B, or "".

    Raises: ConfigError when an option or the recipe is not valid, or the recipe uses no cluster or does not fit.
    """
    choices.require_valid(target)
    loaded = load_recipe(recipe, overrides)
    require_cluster(loaded.recipe)
    hardware = parse_hardware(gpus) if gpus else None
    size = model_size(loaded.recipe, given=parameters)
    layout = layout_of(loaded.recipe, size, hardware=hardware, is_cpu=is_cpu)
    request = Request(loaded=loaded, overrides=overrides, layout=layout, size=size, choices=choices)
    return _FILES[target](request), layout.notes


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """The paths of the written files. The folder is created if necessary; older files of these names are replaced.

    Raises: ConfigError when one cannot be written.
    """
    paths = [folder / name for name in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {str(folder)!r} cannot be written: {error.strerror or error}") from error
    return paths
