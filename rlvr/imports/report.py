"""The account of an import: three groups of keys, and what is left to do; as tables and as JSON."""

from collections.abc import Iterator

from pydantic import JsonValue

from rlvr.imports.importing import entries_of
from rlvr.imports.records import Entry, Imported, Taken

_TITLES = {
    Taken.EXACTLY: "taken over exactly",
    Taken.DIFFERENTLY: "taken over with a difference in meaning",
    Taken.NOT: "not taken over",
}
_MOST_SHOWN = 60  # characters of a value


def tables(imported: Imported) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A title and rows for each group that is not empty, and for what is left to do."""
    for taken, title in _TITLES.items():
        rows = [_row(entry) for entry in entries_of(imported, taken)]
        if rows:
            yield f"{title} ({len(rows)})", rows
    if imported.by_hand:
        yield f"to do by hand ({len(imported.by_hand)})", [(text,) for text in imported.by_hand]


def as_json(imported: Imported) -> dict[str, JsonValue]:
    """The report as one JSON object; `recipe` is the text of the file."""
    groups: dict[str, JsonValue] = {
        taken.value: [
            {
                "key": entry.key,
                "value": entry.value,
                "place": entry.place,
                "recipe": list(entry.ours),
                "text": entry.text,
                "is_default": entry.is_default,
            }
            for entry in entries_of(imported, taken)
        ]
        for taken in Taken
    }
    return {
        "trainer": imported.trainer,
        "file": imported.file,
        **groups,
        "by_hand": list(imported.by_hand),
        "recipe": imported.recipe,
    }


def _row(entry: Entry) -> tuple[str, ...]:
    value = str(entry.value).lower() if isinstance(entry.value, bool) else str(entry.value)
    shown = value if len(value) <= _MOST_SHOWN else f"{value[: _MOST_SHOWN - 3]}..."
    ours = ", ".join(entry.ours) if entry.ours != ("always",) else "rlvr always does this"
    name = f"{entry.key}={shown}" + (" (default)" if entry.is_default else "")
    if entry.taken is Taken.EXACTLY:
        return (name, ours)
    return (name, f"{ours}: {entry.text}" if ours else entry.text)
