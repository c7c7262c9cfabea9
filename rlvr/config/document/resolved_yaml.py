"""A resolved recipe as YAML: every key with the provenance of its value."""

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

import yaml
from pydantic import BaseModel

from rlvr.config.document.yaml_lines import Document, KeyPath, dotted, reads_as_text

_DEFAULT = "default"
_TYPED = "command line"
_PLAIN = re.compile(r"[A-Za-z]([\w./:-]*\w)?", re.ASCII)
_YAML_1_1_WORDS = {"on", "off", "yes", "no", "y", "n", "true", "false", "null", "none"}


def leaf_values(recipe: BaseModel) -> dict[KeyPath, Any]:
    """Every leaf and its value; lists of plain values and empty containers are leaves."""
    return dict(_leaves(_plain(recipe), ()))


def provenance_of(recipe: BaseModel, document: Document) -> dict[str, str]:
    """For each leaf `default`, `preset dapo`, `file.yaml:14` or `command line`."""
    result: dict[str, str] = {}
    for path in leaf_values(recipe):
        inside = [origin for known, origin in document.origins.items() if known[: len(path)] == path]
        if any(origin.is_typed for origin in inside):
            result[dotted(path)] = _TYPED
        else:
            result[dotted(path)] = inside[0].short if inside else _DEFAULT
    return result


def resolved_yaml(recipe: BaseModel, provenance: Mapping[str, str]) -> str:
    """The recipe as YAML that loads to an equal one; each leaf line ends in its provenance."""
    lines = _block(_plain(recipe), (), provenance, indent=0)
    return "\n".join(lines) + "\n"


def commented_yaml(values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Part of a recipe as YAML; each leaf line ends in its comment, by dotted path.

    >>> commented_yaml({"learner": {"lr": 1e-6}}, {"learner.lr": "grpo.yaml:3 learning_rate"})
    'learner:\\n  lr: 1.0e-06  # grpo.yaml:3 learning_rate\\n'
    """
    return "\n".join(_block(values, (), comments, indent=0)) + "\n"


def _plain(value: Any) -> Any:
    """The value in dicts, lists and scalars."""
    if isinstance(value, BaseModel):
        return {key: _plain(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in cast(Mapping[object, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in cast(list[Any], value)]
    return value


def _is_leaf(value: Any) -> bool:
    """Whether the value is written on one line: a scalar, nothing, or a list of scalars."""
    if isinstance(value, dict):
        return not value
    if isinstance(value, list):
        return not any(isinstance(inner, dict | list) for inner in cast(list[Any], value))
    return True


def _leaves(value: Any, path: KeyPath) -> list[tuple[KeyPath, Any]]:
    if _is_leaf(value):
        return [(path, value)]
    if isinstance(value, dict):
        entries = [(key, inner) for key, inner in cast(Mapping[str, Any], value).items()]
    else:
        entries = list(enumerate(cast(list[Any], value)))
    return [leaf for key, inner in entries for leaf in _leaves(inner, (*path, key))]


def _block(value: Any, path: KeyPath, provenance: Mapping[str, str], *, indent: int) -> list[str]:
    """The lines of a mapping or list that is not a leaf."""
    space = " " * indent
    lines: list[str] = []
    if isinstance(value, dict):
        for key, inner in cast(Mapping[str, Any], value).items():
            here = (*path, key)
            if _is_leaf(inner):
                lines.append(f"{space}{_text(key)}: {_inline(inner)}{_comment(here, provenance)}")
            else:
                lines.append(f"{space}{_text(key)}:")
                lines += _block(inner, here, provenance, indent=indent + 2)
        return lines
    for index, inner in enumerate(cast(list[Any], value)):
        here = (*path, index)
        if _is_leaf(inner):
            lines.append(f"{space}- {_inline(inner)}{_comment(here, provenance)}")
        else:
            below = _block(inner, here, provenance, indent=indent + 2)
            lines += [f"{space}- {below[0].lstrip(' ')}", *below[1:]]
    return lines


def _comment(path: KeyPath, provenance: Mapping[str, str]) -> str:
    return f"  # {provenance.get(dotted(path), _DEFAULT)}"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(inner) for inner in cast(list[Any], value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number(value)
    return str(value) if isinstance(value, int) else _text(str(value))


def _number(value: float) -> str:
    """The number in a form that YAML 1.1 readers also accept; they need a point, as in `1.0e-06`."""
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _text(text: str) -> str:
    is_plain = _PLAIN.fullmatch(text) and reads_as_text(text)
    if is_plain and text.lower() not in _YAML_1_1_WORDS:
        return text
    style = "'" if text.isprintable() else '"'
    dumped = yaml.safe_dump(text, default_style=style, allow_unicode=True, width=1_000_000)
    return dumped.strip("\n")
