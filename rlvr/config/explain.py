"""Explains a key of a recipe, from its field's description, its section's docstring, or `messages/meanings.py`.

In a docstring an entry is `key: what it means.` or `key, other: what both mean.`; it ends where the next one begins.
"""

import inspect
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlvr.config.document.kinds import KIND
from rlvr.config.document.paths import (
    annotation_at,
    container,
    is_text,
    key_paths,
    may_change_on_resume,
    sections_in,
    words_in,
)
from rlvr.config.document.yaml_lines import dotted
from rlvr.config.messages.hints import answer
from rlvr.config.messages.meanings import MEANINGS
from rlvr.config.messages.suggestions import close, did_you_mean
from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError

Row = tuple[str, str, str]


def explain(key: str) -> list[Row]:
    """Rows (what, text, "") about a key, or about the keys of a section. List positions and entry names are accepted.

    Raises: ConfigError with a suggestion for an unknown key.

    >>> [row[0] for row in explain("rollout.group_size")]
    ['rollout.group_size', 'value', 'default', 'on resume']
    """
    path = _general(key)
    sections = _sections_at(path)
    rows: list[Row] = [
        (_label((*path, name), section, sections), meaning(section, name), "")
        for section in sections
        for name in section.model_fields
    ]
    if rows and not words_in(annotation_at(Recipe, path)):
        return rows
    return [*_of_value(path), *rows]


def _of_value(path: tuple[str, ...]) -> list[Row]:
    """Rows about a key that holds a value: meaning, possible values, default, whether it may change on resume."""
    if path[-1] == KIND and words_in(annotation_at(Recipe, path[:-1])):  # it may be written without its mapping
        return [(dotted(path), *_of_value(path[:-1])[0][1:]), *_of_value(path[:-1])[1:]]
    owners = [s for s in _sections_at(path[:-1]) if path[-1] in s.model_fields]
    rows: list[Row] = []
    for owner in owners:
        field = owner.model_fields[path[-1]]
        rows += [
            (_label(path, owner, owners), meaning(owner, path[-1]), ""),
            ("value", _values(field), ""),
            ("default", _default(field), ""),
            ("on resume", "may change" if may_change_on_resume(Recipe, path) else "must stay the same", ""),
        ]
    return rows


def _sections_at(path: tuple[str, ...]) -> tuple[type[BaseModel], ...]:
    """The possible sections at a path with `N` and `NAME`; none for a plain value."""
    if not path:
        return (Recipe,)
    here: list[str | int] = [0 if part == "N" else part for part in path]
    annotation = annotation_at(Recipe, tuple(here))
    if container(annotation) is not None:  # of sections: those of an entry
        annotation = annotation_at(Recipe, (*here, 0 if container(annotation) is list else "NAME"))
    return sections_in(annotation)


def _label(path: tuple[str, ...], owner: type[BaseModel], owners: Sequence[type[BaseModel]]) -> str:
    """The key, with the kind of its section where several kinds exist."""
    if len(owners) == 1 or KIND not in owner.model_fields:
        return dotted(path)
    return f"{dotted(path)} ({owner.model_fields[KIND].default})"


def meaning(section: type[BaseModel], name: str) -> str:
    """The meaning of a key of a section; empty where it has no text."""
    inner = sections_in(section.model_fields[name].annotation)
    if inner and not words_in(section.model_fields[name].annotation):
        return inspect.cleandoc(inner[0].__doc__ or "").partition("\n")[0] if len(inner) == 1 else ""
    if name == KIND:
        return inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0]
    found = section.model_fields[name].description or _of_docstring(section, name)
    return found or MEANINGS.get(f"{section.__name__}.{name}", "")


def _general(key: str) -> tuple[str, ...]:
    """The path of a key with `N` and `NAME` for positions and names. Raises ConfigError."""
    parts = tuple(key.strip().split(".")) if key.strip() else ()
    known = {"", *key_paths(Recipe)}
    prefix: tuple[str, ...] = ()
    for part in parts:
        forms = [dotted((*prefix, form)) for form in (part, "N", "NAME")]
        fitting = next((form for form in forms if form in known), None)
        inner = next((f for f in forms if any(k.startswith(f"{f}.") for k in known)), None)
        form = fitting or inner
        if form is None:
            hint = answer(key, "") or did_you_mean(close(key, known)).removeprefix("; ")
            raise ConfigError(f"no key {key!r} in a recipe; {hint or '`rlvr recipes explain` lists the sections'}")
        prefix = tuple(form.split("."))
    return prefix


def _of_docstring(section: type[BaseModel], name: str) -> str:
    text = inspect.cleandoc(section.__doc__ or "")
    pieces = re.split(r"(?:^|(?<=\n)|(?<=\. ))\s*((?:[a-z_0-9]+, )*[a-z_0-9]+): ", text)
    for names, said in zip(pieces[1::2], pieces[2::2], strict=True):
        if name in names.split(", "):
            return " ".join(said.split())
    return ""


def _values(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " | ".join(member.value for member in kind)
    if sections_in(kind):
        return " | ".join([*words_in(kind), "package.module:Class", "path/file.py:Class"])
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    name = str(getattr(cast(Any, field.annotation), "__name__", field.annotation))
    shown = "text" if is_text(kind) else name
    shown = {"int": "whole number", "float": "number", "bool": "true or false"}.get(shown, shown)
    bounds = [
        f"{word} {getattr(bound, mark):,}"
        for bound in field.metadata
        for mark, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if getattr(bound, mark, None) is not None
    ]
    return ", ".join([shown.replace("typing.", ""), *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: this key is required"
    value = field.get_default(call_default_factory=True)  # type: ignore[call-arg] # no factory takes data
    return str(value.value) if isinstance(value, StrEnum) else repr(value)
