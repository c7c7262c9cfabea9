"""Unions discriminated by `kind`, in a document before validation.

A union has a short form: `advantage: rloo` is `advantage: {kind: rloo}`. The keys of a kind belong to it: when a
higher layer (the file over the one it extends, the command line over both, all over a preset) sets another kind,
the keys that lower layers set for theirs are dropped, so that a `clip_low` meant for one loss never reaches
another that has a key of the same name.

Where a union has a plugin, `kind` may name one: `loss: {kind: "my_pkg.losses:my_loss", alpha: 0.1}` is
`loss: {kind: plugin, name: "my_pkg.losses:my_loss", settings: {alpha: 0.1}}`.
"""

from collections.abc import Iterator

from pydantic import BaseModel, JsonValue

from rlvr.config.document.paths import annotation_at, kinds
from rlvr.config.document.yaml_lines import Document, KeyPath, value_at
from rlvr.config.sections.section import PluginSection, names_plugin

KIND = "kind"
PLUGIN = "plugin"
_SETTINGS = "settings"


def unfold(document: Document, *, model: type[BaseModel]) -> None:
    """Writes each short form of the document in full; `kind` gets the line of the short form."""

    def visit(value: JsonValue, path: KeyPath) -> JsonValue:
        if isinstance(value, str) and kinds(annotation_at(model, path)):
            document.origins[(*path, KIND)] = document.origins[path]
            return {KIND: value}
        if isinstance(value, dict):
            _unfold_plugin(document, value, path, kinds(annotation_at(model, path)))
            for key, inner in value.items():
                value[key] = visit(inner, (*path, key))
        elif isinstance(value, list):
            value[:] = [visit(inner, (*path, index)) for index, inner in enumerate(value)]
        return value

    visit(document.values, ())


def _unfold_plugin(
    document: Document, union: dict[str, JsonValue], path: KeyPath, known: dict[str, type[BaseModel]]
) -> None:
    """Writes a kind that names a plugin as `kind: plugin`, with the other keys as its settings."""
    section, kind = known.get(PLUGIN), union.get(KIND)
    if section is None or not issubclass(section, PluginSection) or not isinstance(kind, str):
        return
    if kind not in known and names_plugin(kind, section.GROUP):
        document.origins[(*path, "name")] = document.origins[(*path, KIND)]
        union |= {KIND: PLUGIN, "name": kind}
    if union[KIND] != PLUGIN:
        return
    for key in [key for key in union if key not in section.model_fields]:
        settings = union.setdefault(_SETTINGS, {})
        if not isinstance(settings, dict):
            return  # validation reports the error
        settings[key] = union.pop(key)
        here = (*path, key)
        document.origins.setdefault((*path, _SETTINGS), document.origins[here])
        for place in [place for place in document.origins if place[: len(here)] == here]:
            moved = (*path, _SETTINGS, *place[len(path) :])
            document.origins[moved] = document.origins.pop(place)


def written_kinds(document: Document, *, model: type[BaseModel]) -> dict[KeyPath, str]:
    """The kind of each union in the document, by the union's path; the default where none is given."""
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


def clear_replaced_kinds(document: Document, before: dict[KeyPath, str], *, model: type[BaseModel]) -> None:
    """Drops the keys from files and presets of each kind that the command line has replaced since `before`."""
    for path, kind in written_kinds(document, model=model).items():
        if before.get(path, kind) != kind:
            _clear(document, path, only_of_files=True)


def _unions(value: JsonValue, path: KeyPath, model: type[BaseModel]) -> Iterator[tuple[KeyPath, dict[str, JsonValue]]]:
    if isinstance(value, dict):
        if kinds(annotation_at(model, path)):
            yield path, value
        for key, inner in value.items():
            yield from _unions(inner, (*path, key), model)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unions(inner, (*path, index), model)


def _clear(document: Document, path: KeyPath, *, only_of_files: bool) -> None:
    """Removes the entries of the mapping at `path`, or only those that the command line did not set."""
    union = value_at(document.values, path)
    assert isinstance(union, dict)
    for key in list(union):
        here = (*path, key)
        typed = [known for known, origin in document.origins.items() if origin.is_typed and known[: len(here)] == here]
        if not (only_of_files and typed):
            del union[key]
            document.forget(here)
