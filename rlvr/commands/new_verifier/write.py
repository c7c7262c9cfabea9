"""Writes a new verifier into a folder, and says how to go on."""

import importlib.util
import keyword
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlvr.commands.new_verifier import templates
from rlvr.errors import ConfigError, StorageError
from rlvr.registry import VERIFIERS, list_plugins


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVerifier:
    """files: written, relative to the folder. commands: (what it does, a shell command that can be copied)."""

    files: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]


def write_verifier(name: str, *, folder: Path, is_package: bool) -> NewVerifier:
    """Writes a verifier with its cases and tests; a package is a folder that can be installed.

    Raises: ConfigError if the name cannot be used or a file exists; nothing is then written. StorageError when a file
        cannot be written.
    """
    _require_name(name)
    if is_package:
        _require_free(name)
    files = _package(name) if is_package else _files(name)
    top = {file.partition("/")[0] for file in files}
    taken = sorted(entry for entry in top if (folder / entry).exists())
    if taken:
        raise ConfigError(
            f"nothing was written, because there is {', '.join(taken)} already; choose another name, or move it"
        )
    try:
        for file, text in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{name} cannot be written to {folder}: {error}") from error
    return NewVerifier(files=tuple(files), commands=_commands(name, is_package=is_package))


def _files(name: str) -> dict[str, str]:
    cases = f'Path(__file__).with_name("{name}.audit.jsonl")'
    return {
        f"{name}.py": _filled(templates.VERIFIER, name),
        f"{name}.audit.jsonl": templates.CASES,
        f"test_{name}.py": _filled(templates.TEST, name, {"MODULE": name, "FILE": cases}),
    }


def _package(name: str) -> dict[str, str]:
    cases = f'Path(__file__).parents[1] / "src" / "{name}" / "verifier.audit.jsonl"'
    return {
        f"{name}/pyproject.toml": _filled(templates.PYPROJECT, name, {"DISTRIBUTION": name.replace("_", "-")}),
        f"{name}/README.md": _filled(templates.README, name),
        f"{name}/src/{name}/__init__.py": _filled(templates.INIT, name),
        f"{name}/src/{name}/verifier.py": _filled(templates.VERIFIER, name),
        f"{name}/src/{name}/verifier.audit.jsonl": templates.CASES,
        f"{name}/tests/test_{name}.py": _filled(templates.TEST, name, {"MODULE": f"{name}.verifier", "FILE": cases}),
    }


def _filled(text: str, name: str, values: Mapping[str, str] | None = None) -> str:
    for key, value in {"NAME": name, **(values or {})}.items():
        text = text.replace(f"@{key}@", value)
    return text


def _commands(name: str, *, is_package: bool) -> tuple[tuple[str, str], ...]:
    """What to do next, in order."""
    verifier = name if is_package else f"{name}.py:{name}"
    cases = f"{name}/src/{name}/verifier.audit.jsonl" if is_package else f"{name}.audit.jsonl"
    source = f'{{source: {cases}, template: plain, verifier: "{verifier}"}}'
    first = [("install", f"pip install -e ./{name}")] if is_package else []
    return (
        *first,
        ("test", f"pytest {f'{name}/tests' if is_package else f'test_{name}.py'}"),
        ("verify", f"rlvr verify {verifier} --input {cases} --output {name}.verdicts.jsonl"),
        ("audit", f"rlvr audit {verifier}"),
        ("train", f"rlvr train tiny 'data.train=[{source}]' 'data.eval=[]' cold_start.steps=0 run.steps=2"),
    )


def _require_name(name: str) -> None:
    """Raises ConfigError unless it can name a function, a file and a package."""
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or name.startswith("_"):
        raise ConfigError(
            f"{name!r} cannot name a Python function; use letters, digits and underscores, and begin with a letter"
        )
    if name in sys.stdlib_module_names or name in ("rlvr", "verifier", "verdict"):
        raise ConfigError(f"{name!r} is the name of a Python module or of a part of rlvr; choose another name")


def _require_free(name: str) -> None:
    """Raises ConfigError if an installed verifier or package has the name."""
    for entry in list_plugins(VERIFIERS):
        if entry.name == name:
            raise ConfigError(
                f"{entry.distribution} {entry.version} registers a verifier {name!r} already; choose another name"
            )
    found = importlib.util.find_spec(name)
    if found is not None and found.origin is not None:
        raise ConfigError(f"a package {name!r} is installed already ({found.origin}); choose another name")
