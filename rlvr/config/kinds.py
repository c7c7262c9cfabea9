"""Unions told apart by `kind`, in a document before it is validated.

A union may be written short: `advantage: rloo` is `advantage: {kind: rloo}`. And the keys of a kind belong
to it: when a higher layer (the file over the one it extends, the command line over both, all over a preset)
sets another kind, what lower layers wrote for theirs is dropped, so that a `clip_low` meant for one loss
never reaches another that has a key of the same name.
"""

from collections.abc import Iterator

from pydantic import BaseModel, JsonValue

from rlvr.config.paths import annotation_at, kinds
from rlvr.config.yaml_lines import Document, KeyPath, value_at

KIND = "kind"


def unfold(document: Document, *, model: type[BaseModel]) -> None:
    """Writes each short form of the document in full; `kind` gets the line of the short form."""

    def visit(value: JsonValue, path: KeyPath) -> JsonValue:
        if isinstance(value, str) and kinds(annotation_at(model, path)):
            document.origins[(*path, KIND)] = document.origins[path]
            return {KIND: value}
        if isinstance(value, dict):
            for key, inner in value.items():
                value[key] = visit(inner, (*path, key))
        elif isinstance(value, list):
            value[:] = [visit(inner, (*path, index)) for index, inner in enumerate(value)]
        return value

    visit(document.values, ())


def written_kinds(document: Document, *, model: type[BaseModel]) -> dict[KeyPath, str]:
    """The kind of each union that stands in the document, by the union's path; the default where none is written."""
    return {
        path: str(union.get(KIND, next(iter(kinds(annotation_at(model, path))))))
        for path, union in _unions(document.values, (), model)
    }


def clear_other_kinds(below: Document, above: Document, *, model: type[BaseModel]) -> None:
    """Drops from `below` the unions for which `above` names another kind."""
    lower = written_kinds(below, model=model)
    for path, union in list(_unions(above.values, (), model)):
        if KIND in union and lower.get(path) not in (None, str(union[KIND])):
            _clear(below, path, only_of_files=False)


def clear_replaced_kinds(
    document: Document, before: dict[KeyPath, str], *, model: type[BaseModel]
) -> None:
    """Drops what files and presets wrote for a kind that the command line has replaced since `before`."""
    for path, kind in written_kinds(document, model=model).items():
        if before.get(path, kind) != kind:
            _clear(document, path, only_of_files=True)


def _unions(
    value: JsonValue, path: KeyPath, model: type[BaseModel]
) -> Iterator[tuple[KeyPath, dict[str, JsonValue]]]:
    if isinstance(value, dict):
        if kinds(annotation_at(model, path)):
            yield path, value
        for key, inner in value.items():
            yield from _unions(inner, (*path, key), model)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unions(inner, (*path, index), model)


def _clear(document: Document, path: KeyPath, *, only_of_files: bool) -> None:
    """Removes the entries of the mapping at `path`, or those of them that the command line did not write."""
    union = value_at(document.values, path)
    assert isinstance(union, dict)
    for key in list(union):
        here = (*path, key)
        typed = [
            known
            for known, origin in document.origins.items()
            if origin.is_typed and known[: len(here)] == here
        ]
        if not (only_of_files and typed):
            del union[key]
            document.forget(here)
