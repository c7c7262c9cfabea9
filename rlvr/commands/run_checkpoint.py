"""Finds the checkpoint that a command's argument names: a run's newest intact one, or one of its folders."""

import logging
from pathlib import Path

from rlvr.errors import ConfigError
from rlvr.run.record.checkpoints import NOT_FOR_INFERENCE, choose_checkpoint
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recipe_file import stored_recipe

logger = logging.getLogger(__name__)


def locate_checkpoint(model: str) -> tuple[str, Path | None]:
    """(the model path, the recipe of the run it came from), the recipe None for a model that is of no run.

    Warns of a damaged checkpoint or recipe.

    Raises: ConfigError when the run has no checkpoint; CheckpointError when none is intact.
    """
    folder = Path(model)
    is_run = (folder / "checkpoints").is_dir() and not (folder / "config.json").is_file()
    if is_run or (folder / "recipe.yaml").is_file():
        directory, name = RunDirectory(folder), ""
    elif folder.parent.name == "checkpoints" and (folder.parent.parent / "recipe.yaml").is_file():
        directory, name = RunDirectory(folder.parent.parent), folder.name
    else:
        return model, None
    if name and not name.startswith("step_"):
        return model, directory.recipe
    chosen = choose_checkpoint(directory, name=name, ignoring=NOT_FOR_INFERENCE)
    if chosen is None:
        raise ConfigError(f"run {model!r} has no checkpoint yet")
    recipe, problem = stored_recipe(directory, chosen)
    for text in (*chosen.passed_over, problem):
        if text:
            logger.warning("%s", text)
    if chosen.passed_over:
        logger.warning("using %s, the newest intact checkpoint", chosen.folder)
    return str(chosen.folder), recipe
