"""Reads a configuration file of another trainer by its ending: YAML, JSON, TOML, a Python script or a shell script."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from rlvr.config.document.document_type import OF_TRAINER
from rlvr.config.document.yaml_lines import Document, KeyPath, dotted, read_document
from rlvr.errors import ConfigError
from rlvr.imports.read.overrides import read_overrides
from rlvr.imports.read.python_script import read_script
from rlvr.imports.read.shell_script import read_shell
from rlvr.imports.records import Given, Reading
from rlvr.storage.input_files import read_input_text

MAX_BYTES = 1 << 20


def read_config(path: Path, extra: Sequence[str] = (), *, is_flat: bool) -> Reading:
    """The keys of a configuration, and over them those of the command line.

    Args:
        extra: `key=value` pairs.
        is_flat: keys have no sections (TRL), so a mapping is one value; otherwise keys are dotted paths.

    Raises: ConfigError for a missing or unreadable file, or text that is not what its ending says.
    """
    text = read_input_text(path, what=str(path), max_bytes=MAX_BYTES, error=ConfigError)
    label = path.name
    match path.suffix.lower():
        case ".yaml" | ".yml":
            reading = _from_document(_document(text, label), is_flat=is_flat)
        case ".json":
            reading = _from_values(_parsed_json(text, label), label, lines=_json_lines(text), is_flat=is_flat)
        case ".toml":
            reading = _from_values(_parsed_toml(text, label), label, lines=_toml_lines(text), is_flat=False)
        case ".py":
            reading = read_script(text, label=label)
        case _:
            reading = read_shell(text, label=label)
    keys = reading.keys | read_overrides(extra, place="command line")
    if not keys:
        raise ConfigError(
            f"{path} holds no configuration: neither keys with values (YAML, JSON, TOML, key=value) nor a call of "
            "GRPOConfig"
        )
    return Reading(file=reading.file, keys=keys, notes=reading.notes)


def _document(text: str, label: str) -> Document:
    document = read_document(text, label=label, type=OF_TRAINER)
    if document.problems:
        raise ConfigError("\n".join(map(str, document.problems)))
    return document


def _from_document(document: Document, *, is_flat: bool) -> Reading:
    def place(path: KeyPath) -> str:
        found = next(document.origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in document.origins)
        return f"{document.label}:{found.line}"

    keys = {
        dotted(path): Given(value=value, place=place(path))
        for path, value in _leaves(document.values, (), is_flat=is_flat)
    }
    return Reading(file=document.label, keys=keys)


def _from_values(values: Mapping[str, JsonValue], label: str, *, lines: Mapping[str, int], is_flat: bool) -> Reading:
    def place(key: str) -> str:
        return f"{label}:{lines[key]}" if key in lines else label

    leaves = [(dotted(path), value) for path, value in _leaves(dict(values), (), is_flat=is_flat)]
    return Reading(file=label, keys={key: Given(value=value, place=place(key)) for key, value in leaves})


def _json_lines(text: str) -> dict[str, int]:
    """The line of each key, at any depth; the first one of each name."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        for match in re.finditer(r'"(\w+)"\s*:', line):
            found.setdefault(match[1], number)
    return found


def _toml_lines(text: str) -> dict[str, int]:
    """The line of each key and section; tables within a line, and text over several lines, are not looked into."""
    found: dict[str, int] = {}
    section: list[str] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]", line)
        if header:
            section = _with_positions(header[2].split("."), counts, is_new=header[1] == "[[")
            found[".".join(section)] = number
        elif match := re.match(r"\s*([\w.\-]+)\s*=", line):
            found.setdefault(".".join([*section, match[1]]), number)
    return found


def _with_positions(parts: list[str], counts: dict[str, int], *, is_new: bool) -> list[str]:
    """The path with the position of the current entry after each name of a list of tables."""
    path: list[str] = []
    for end, part in enumerate(parts, start=1):
        path.append(part)
        name = ".".join(path)
        if is_new and end == len(parts):
            counts[name] = counts.get(name, -1) + 1
        if name in counts:
            path.append(str(counts[name]))
    return path


def _leaves(value: JsonValue, path: KeyPath, *, is_flat: bool) -> Iterator[tuple[KeyPath, JsonValue]]:
    """Values by path: mappings and lists of mappings are entered, except below a first key of a flat configuration."""
    if isinstance(value, dict) and (value or not path) and not (is_flat and path):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key), is_flat=is_flat)
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value) and not is_flat:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index), is_flat=is_flat)
    else:
        yield path, value


def _parsed_json(text: str, label: str) -> dict[str, JsonValue]:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{label} is not JSON: {error}") from error
    return _mapping(values, label)


def _parsed_toml(text: str, label: str) -> dict[str, JsonValue]:
    try:
        values: Any = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{label} is not TOML: {error}") from error
    return _mapping(values, label)


def _mapping(values: Any, label: str) -> dict[str, JsonValue]:
    if not isinstance(values, dict):
        raise ConfigError(f"{label} holds a {type(values).__name__}; a configuration is a mapping of keys to values")
    return cast(dict[str, JsonValue], values)
