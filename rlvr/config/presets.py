"""Presets: published algorithms as plain keys, layered below the recipe's own.

`algorithm.preset: dapo` brings the keys of `PRESETS["dapo"]`, each with the provenance `preset dapo`. A key that
the recipe (or the one it extends, or the command line) sets wins; where it names another kind of a loss or an
advantage, the preset's keys for its own kind are dropped with it.

A preset holds constants only. Values that depend on completion length, data or machines are left to the recipe
(`left_out` lists them), and so is resampling: no preset sets `algorithm.dynamic_sampling`. They are data: see
`presets.yaml`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, JsonValue

from rlvr.config.document.kinds import clear_other_kinds, unfold
from rlvr.config.document.packaged import read_table
from rlvr.config.document.yaml_lines import Document, Origin
from rlvr.config.messages.suggestions import close, did_you_mean, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published algorithm.

    summary: one line. paper: the source. keys: what it sets, by dotted path.
    left_out: what the paper also does, with the recipe key for it.
    """

    summary: str
    paper: str
    keys: dict[str, JsonValue]
    left_out: str = ""


def _read_presets() -> Mapping[str, Preset]:
    table = read_table(Path(__file__).with_name("presets.yaml"))
    return {name: Preset(**fields) for name, fields in table.items()}


PRESETS = _read_presets()
NONE = "none"
PRESET = ("algorithm", "preset")


def preset_values(preset: Preset) -> dict[str, JsonValue]:
    """The preset's keys as a recipe has them.

    >>> preset_values(PRESETS["dr_grpo"])["algorithm"]["advantage"]
    {'kind': 'dr_grpo'}
    """
    values: dict[str, JsonValue] = {}
    for path, value in preset.keys.items():
        *sections, last = path.split(".")
        current = values
        for section in sections:
            current = cast(dict[str, JsonValue], current.setdefault(section, {}))
        current[last] = value
    return values


def unknown_preset(name: str) -> str:
    """The message for an unknown preset name."""
    options = [repr(known) for known in (NONE, *PRESETS)]
    meant = did_you_mean(close(repr(name), options))
    return f"must be one of {listed(options, 'or')}{meant}"


def stack(layers: Sequence[Document], *, preset: str, origin: Origin, model: type[BaseModel]) -> Document:
    """One document of the preset's keys and the layers over them, the lowest layer first.

    Args:
        preset: its name; `none` and unknown names add no keys.
        origin: where the recipe names it.
    """
    values = preset_values(PRESETS[preset]) if preset in PRESETS else {}
    result = Document.of(values, replace(origin, preset=preset))
    for layer in layers:
        unfold(layer, model=model)
        clear_other_kinds(result, layer, model=model)
        result = layer.merged_over(result)
    return result


def changes_nothing(document: Document, preset: str) -> bool:
    """Whether a recipe that was made from another preset sets every key of this one itself.

    A resolved recipe does: `algorithm.preset=gspo` over it would only rename it. In the resolved recipe itself the name
    records where the keys came from.
    """
    keys = [tuple(path.split(".")) for path in PRESETS[preset].keys]
    named = document.origins[PRESET]
    written = [document.origins[key] for key in keys if key in document.origins]
    return not any(
        origin.preset or (origin.override, origin.label) == (named.override, named.label) for origin in written
    )


def with_preset(values: Any, *, model: type[BaseModel]) -> Any:
    """The plain values of a recipe over those of the preset that they name; other values unchanged.

    Raises: ValueError for an unknown preset name.
    """
    if not isinstance(values, dict):
        return values
    section = cast(Mapping[str, Any], values).get(PRESET[0])
    name = cast(Mapping[str, Any], section).get("preset", NONE) if isinstance(section, dict) else NONE
    if name == NONE or not isinstance(name, str):
        return cast(object, values)
    if name not in PRESETS:
        raise ValueError(f"algorithm.preset={name!r} {unknown_preset(name)}")
    origin = Origin(label="recipe")
    layer = Document.of(cast(dict[str, JsonValue], values), origin)
    return stack([layer], preset=name, origin=origin, model=model).values
