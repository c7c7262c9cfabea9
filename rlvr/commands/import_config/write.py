"""Writes the recipe of an import to a file that does not exist yet."""

import os
from pathlib import Path

from rlvr.errors import ConfigError


def require_new(output: Path) -> None:
    """Raises: ConfigError when the file exists, or its folder does not."""
    if os.path.lexists(output):
        raise ConfigError(f"--output {output} exists; remove it, or name another file")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.absolute().parent}")


def write_recipe(text: str, output: Path) -> None:
    """Creates the file.

    Raises: ConfigError when it cannot be created, or was created meanwhile.
    """
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from error
