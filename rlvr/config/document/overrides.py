"""Applies `key=value` from the command line to a document before validation.

A value in quotes, brackets or braces is read as YAML; any other is one plain scalar (`1e-5`, `true`,
`null`, text), so `#` and `: ` need no quoting. Where the recipe expects text, the value is taken verbatim.
Nothing after `=` is the empty text, and `=null` removes a named check.
"""

from collections.abc import Sequence

from pydantic import BaseModel, JsonValue

from rlvr.config.document.kinds import KIND, clear_replaced_kinds, unfold, written_kinds
from rlvr.config.document.paths import annotation_at, container, is_text, kinds, sections_in
from rlvr.config.document.yaml_lines import Document, KeyPath, Origin, Problem, dotted, plain_scalar, read_inline
from rlvr.config.sections.bounds import MAX_DEPTH, is_finite, require_text
from rlvr.errors import ConfigError
from rlvr.telemetry.redaction import got

_NULLS = {"null", "~"}
_EXAMPLE = "write key=value without spaces, for example run.steps=10"


def apply_overrides(document: Document, overrides: Sequence[str], *, model: type[BaseModel]) -> None:
    """Sets each `a.b.c=value` in the document, in order; overrides that cannot be applied become its problems.

    Args:
        model: the recipe's model, which says where text is expected. An unknown key is set anyway, and
        validation reports it.
    """
    before = written_kinds(document, model=model)
    for override in overrides:
        problem = _apply(document, override, model)
        if problem:
            document.problems.append(Problem(origin=Origin(override=override), text=problem))
    # Keys of another kind are not settings of a plugin.
    clear_replaced_kinds(document, before, model=model)
    unfold(document, model=model)
    clear_replaced_kinds(document, before, model=model)


def parse_settings(pairs: Sequence[str]) -> dict[str, JsonValue]:
    """The settings of a plugin from `key=value` arguments, values read as in a recipe.

    Raises: ConfigError when a pair has no key or no equals sign.

    >>> parse_settings(["mode=choice", "deep=true", "choices=[A, B]"])
    {'mode': 'choice', 'deep': True, 'choices': ['A', 'B']}
    """
    settings: dict[str, JsonValue] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"command line: {pair}: {_EXAMPLE.replace('run.steps=10', 'mode=exact')}")
        if text.lstrip()[:1] in {"'", '"', "[", "{"}:
            settings[key.strip()] = read_inline(text, path=(key,), override=pair).values["value"]
        else:
            settings[key.strip()] = _plain(text, pair)
    for key, value in settings.items():
        if not is_finite(value):
            raise ConfigError(f"command line: {key}={value}: must be a finite number")
    return settings


def _plain(text: str, pair: str) -> JsonValue:
    try:
        return plain_scalar(text) if text else ""
    except ValueError as error:
        raise ConfigError(f"command line: {pair[:40]}...: {error}") from error


def _apply(document: Document, override: str, model: type[BaseModel]) -> str:
    """Sets one value; returns the error message, or an empty text."""
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    try:
        require_text(override)
    except ValueError as error:
        return str(error)
    if len(parts) > MAX_DEPTH:
        return f"the key has {len(parts):,} parts; keys nest at most {MAX_DEPTH} levels"
    if not equals:
        return f"no equals sign; {_EXAMPLE}"
    if not all(parts):
        if not key.strip():
            return f"no key before the equals sign; {_EXAMPLE}"
        return f"the key {key.strip()!r} has an empty part; {_EXAMPLE}"
    is_plain = bool(text) and text not in _NULLS and text.lstrip()[:1] not in {"[", "{"}
    if is_plain and kinds(annotation_at(model, parts)):
        parts = (*parts, KIND)  # `advantage=rloo` is short for `advantage.kind=rloo`
    parent, path, problem = _descend(document, parts, model, override)
    if problem:
        return problem
    try:
        inline = _value(text, path, model, override)
    except ConfigError as error:
        text = str(error)
        if not text.startswith("command line: "):
            return text
        return text.removeprefix(f"command line: {override}: ") + (
            "; put text that begins with a bracket or a quote in quotes"
        )
    value = inline.values["value"]
    last = path[-1]
    if value is None and isinstance(parent, dict) and _is_named_section(path, model):
        return _remove(document, parent, path)
    if isinstance(parent, list):
        index = int(last)
        parent[index : index + 1] = [value]
    else:
        parent[str(last)] = value
    document.forget(path)
    document.origins.update(inline.origins)
    document.problems.extend(inline.problems)
    document.broken |= inline.broken
    return ""


def _is_named_section(path: KeyPath, model: type[BaseModel]) -> bool:
    """Whether the path is an entry of a mapping of sections, such as `data.train.0.checks.NAME`."""
    is_mapping = container(annotation_at(model, path[:-1])) is dict
    return is_mapping and bool(sections_in(annotation_at(model, path)))


def _remove(document: Document, parent: dict[str, JsonValue], path: KeyPath) -> str:
    """Removes the entry; returns the error message, or an empty text."""
    if str(path[-1]) not in parent:
        there = ", ".join(parent) or "none"
        return f"there is no {path[-1]} to remove; {dotted(path[:-1])} has: {there}"
    del parent[str(path[-1])]
    document.forget(path)
    return ""


def _value(text: str, path: KeyPath, model: type[BaseModel], override: str) -> Document:
    if text.lstrip()[:1] in {"'", '"'} or (text.lstrip()[:1] in {"[", "{"} and not is_text(annotation_at(model, path))):
        return read_inline(text, path=path, override=override)
    document = Document(label="command line", origins={path: Origin(override=override)})
    if not text or (is_text(annotation_at(model, path)) and text not in _NULLS):
        document.values["value"] = text
    else:
        try:
            document.values["value"] = plain_scalar(text.strip())
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return document


def _descend(
    document: Document, parts: tuple[str, ...], model: type[BaseModel], override: str
) -> tuple[dict[str, JsonValue] | list[JsonValue], KeyPath, str]:
    """The container of the last part, the path with list positions as numbers, and an error message or "".

    Missing containers on the way are created.
    """
    current: dict[str, JsonValue] | list[JsonValue] = document.values
    path: KeyPath = ()
    for position, part in enumerate(parts):
        if isinstance(current, list):
            problem = _check_index(part, path, len(current))
            if problem:
                return current, path, problem
        here: KeyPath = (*path, int(part) if isinstance(current, list) else part)
        if position == len(parts) - 1:
            return current, here, ""
        found: JsonValue = _get(current, here[-1])
        if found is None:
            made = _make(annotation_at(model, here), parts[position + 1])
            if made is None:
                return current, path, f"{dotted(here)} is not set in the recipe; set it as a whole"
            found = made
            if isinstance(current, list):
                current[int(part) : int(part) + 1] = [found]
            else:
                current[part] = found
            document.origins[here] = Origin(override=override)
        if not isinstance(found, dict | list):
            return current, path, f"{dotted(here)} is a value, not a section{got(found, here)}"
        current, path = found, here
    return current, path, ""


def _get(current: dict[str, JsonValue] | list[JsonValue], key: str | int) -> JsonValue:
    if isinstance(current, list):
        return current[int(key)] if int(key) < len(current) else None
    return current.get(str(key))


def _make(annotation: object, next_part: str) -> dict[str, JsonValue] | list[JsonValue] | None:
    """The empty container for a missing value, or None when its first entry cannot be set alone."""
    kind = container(annotation)
    if kind is list and next_part == "0":
        return []
    if kind in (list, tuple):
        return None
    return {}


def _check_index(part: str, path: KeyPath, size: int) -> str:
    entries = "1 entry" if size == 1 else f"{size} entries"
    if not (part.isascii() and part.isdigit() and len(part) < 10):
        return f"{dotted(path)} is a list of {entries}; name one by its position, for example {dotted(path)}.0"
    if int(part) > size:
        return f"{dotted(path)} has {entries}; {part} is beyond the next free position, {size}"
    return ""
