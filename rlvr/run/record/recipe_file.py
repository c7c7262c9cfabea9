"""RUN_DIR/recipe.yaml: the resolved recipe; its last line holds the digest of the lines above.

Every checkpoint has a copy, which is used when the file is damaged.
"""

import hashlib
import re
from pathlib import Path

from rlvr.errors import ConfigError, StorageError
from rlvr.run.record.checkpoints import RUN_RECIPE, ChosenCheckpoint
from rlvr.run.record.directory import RunDirectory
from rlvr.storage import atomic_files

_END = re.compile(r"# end of the recipe, sha256 of the lines above: ([0-9a-f]{64})\n")


def write_recipe(directory: RunDirectory, text: str) -> None:
    """Writes the resolved recipe; on failure the old file stays. Raises StorageError."""
    try:
        atomic_files.write_text(directory.recipe, signed(text))
    except OSError as error:
        raise StorageError(f"{directory.recipe} cannot be written: {error.strerror or error}") from error


def signed(text: str) -> str:
    """The text of recipe.yaml with its last line."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}# end of the recipe, sha256 of the lines above: {digest}\n"


def stored_recipe(directory: RunDirectory, checkpoint: ChosenCheckpoint | None) -> tuple[Path, str]:
    """The file and text of the recipe that the run started with, and the problem with recipe.yaml ("" for none).

    Raises: ConfigError when neither the file nor the checkpoint's copy can be used; StorageError when the file cannot
        be read.
    """
    copy = None if checkpoint is None else checkpoint.folder / RUN_RECIPE
    has_copy = copy is not None and copy.is_file()
    problem = _problem(directory, may_be_unsigned=not has_copy)
    if not problem:
        return directory.recipe, ""
    if copy is None or not has_copy:
        raise ConfigError(f"{problem}; restore it from a copy, or start a new run")
    return copy, f"{problem}; the copy in {copy.parent} is used instead"


def _problem(directory: RunDirectory, *, may_be_unsigned: bool) -> str:
    """What is wrong with recipe.yaml, "" for nothing. Runs of older versions have an unsigned one."""
    path = directory.recipe
    if not path.is_file():
        return f"{path} is missing"
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return f"{path} is damaged: it is not UTF-8 text"
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    above, _, last = text.rpartition("# end of the recipe")
    end = _END.fullmatch("# end of the recipe" + last) if above else None
    if end is None:
        return "" if may_be_unsigned else f"{path} was cut or changed: its last line is missing"
    if hashlib.sha256(above.encode()).hexdigest() != end[1]:
        return f"{path} was changed after the run wrote it: it does not match the digest in its last line"
    return ""
