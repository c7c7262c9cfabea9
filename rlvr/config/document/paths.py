"""The key paths of the recipe models: for did-you-mean, the type of an override, and counting keys.

In a path, `N` is a position in a list of sections, `NAME` a key of a mapping of sections.
"""

import types
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from rlvr.config.document.yaml_lines import KeyPath
from rlvr.config.sections.section import MAY_CHANGE_ON_RESUME, Section


def key_paths(model: type[BaseModel]) -> tuple[str, ...]:
    """Every key of the model as a dotted path, sections included.

    >>> from rlvr.config.recipe import ModelConfig
    >>> key_paths(ModelConfig)[:3]
    ('path', 'tiny', 'tiny.layers')
    """
    return tuple(dict.fromkeys(_walk(model, "")))


def annotation_at(model: type[BaseModel], path: KeyPath) -> Any:
    """The type of the value at `path`, or None without such a key; inside a free mapping `Any`."""
    current: Any = model
    for part in path:
        current = _step(current, part)
        if current is None:
            return None
    return current


def may_change_on_resume(model: type[BaseModel], path: KeyPath) -> bool:
    """Whether the value at `path` may differ when a run resumes: its field, or a section around it, is marked so.

    >>> from rlvr.config.recipe import Recipe
    >>> may_change_on_resume(Recipe, ("run", "steps")), may_change_on_resume(Recipe, ("learner", "lr"))
    (True, False)
    """
    current: Any = model
    for part in path:
        fields = [section.model_fields.get(str(part)) for section in sections_in(current)]
        if any(field is not None and MAY_CHANGE_ON_RESUME in field.metadata for field in fields):
            return True
        current = _step(current, part)
    return False


def sections_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models that a value of this type may be (several for a union, none for a plain value)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return sections_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(section for arm in get_args(annotation) for section in sections_in(arm))
    return ()


def kinds(annotation: Any) -> dict[str, type[BaseModel]]:
    """The sections of a union discriminated by `kind`, by that kind, the default first; empty for other types.

    Members of an enum in the union are kinds without keys.

    >>> from rlvr.config.sections.algorithm import AlgorithmConfig
    >>> list(kinds(annotation_at(AlgorithmConfig, ("loss",))))[:2]
    ['clipped', 'gspo']
    """
    sections, words = sections_in(annotation), words_in(annotation)
    if not sections or not all("kind" in section.model_fields for section in sections):
        return {}
    if len(sections) + len(words) < 2:
        return {}
    return {
        **dict.fromkeys(words, Section),
        **{str(section.model_fields["kind"].default): section for section in sections},
    }


def words_in(annotation: Any) -> tuple[str, ...]:
    """The values of an enum that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return tuple(member.value for member in annotation)
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        arms = get_args(annotation)
        arms = arms[:1] if get_origin(annotation) is Annotated else arms
        return tuple(word for arm in arms for word in words_in(arm))
    return ()


def container(annotation: Any) -> type | None:
    """`list`, `tuple` or `dict` when the value is one, else None."""
    if get_origin(annotation) is Annotated:
        return container(get_args(annotation)[0])
    base = get_origin(annotation) or annotation
    return base if base in (list, tuple, dict) else None


def is_text(annotation: Any) -> bool:
    """Whether the value is plain text."""
    if get_origin(annotation) is Annotated:
        return is_text(get_args(annotation)[0])
    return annotation is str


def _arguments(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _arguments(get_args(annotation)[0])
    return get_args(annotation)


def _step(annotation: Any, part: str | int) -> Any:
    if annotation is Any:
        return Any
    sections = sections_in(annotation)
    if sections:
        for section in sections:
            if part in section.model_fields:
                return section.model_fields[str(part)].annotation
        return None
    kind, arguments = container(annotation), _arguments(annotation)
    if kind is dict:
        return arguments[1] if arguments else Any
    if kind is not None and str(part).isascii() and str(part).isdigit():
        if not arguments:
            return Any
        is_fixed = kind is tuple and arguments[-1] is not ...
        position = int(part) if len(str(part)) < 10 else len(arguments)
        return arguments[min(position, len(arguments) - 1)] if is_fixed else arguments[0]
    return None


def _walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for key, info in model.model_fields.items():
        path = f"{prefix}{key}"
        inner: Any = info.annotation
        below = f"{path}."
        kind = container(inner)
        if kind is not None and _arguments(inner):
            inner = _arguments(inner)[1 if kind is dict else 0]
            below = f"{path}.{'NAME' if kind is dict else 'N'}."
        sections = sections_in(inner)
        yield path
        for section in sections:
            yield from _walk(section, below)
        if sections and words_in(inner):
            yield f"{below}kind"  # it may be written as the value of `path` itself
