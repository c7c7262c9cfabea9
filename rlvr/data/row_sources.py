"""Data sources of plugins: `SCHEME:NAME`, where the entry-point group `rlvr.sources` registers the scheme."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rlvr.data.generators import SPLITS
from rlvr.errors import ConfigError, PluginError
from rlvr.plugin import RowSource, SourceRow
from rlvr.registry import PluginSource, list_plugins, load
from rlvr.telemetry.redaction import faults

SOURCES = "rlvr.sources"


def scheme_of(source: str) -> str:
    """The registered scheme with which the name of a source begins; "" if there is none."""
    scheme, colon, _ = source.partition(":")
    return scheme if colon and any(entry.name == scheme for entry in list_plugins(SOURCES)) else ""


def plugin_rows(source: str, settings: Mapping[str, Any], *, split: str, seed: int) -> Sequence[SourceRow]:
    """The rows of a source with a registered scheme.

    Raises: ConfigError for settings that do not fit, an unknown split and a missing name; PluginError when the plugin
        cannot be loaded; and what the plugin raises.
    """
    scheme, _, name = source.partition(":")
    if not name:
        raise ConfigError(f"source {source!r}: nothing follows the scheme")
    if split not in SPLITS:
        raise ConfigError(f"source {source!r} has no split {split!r}; it has {', '.join(SPLITS)}")
    return _built(scheme, settings).rows(name, split=split, seed=seed)


def setting_names(source: str) -> frozenset[str]:
    """The names of the settings of a source with a registered scheme. Raises: PluginError."""
    return frozenset(_loaded(source.partition(":")[0]).Config.model_fields)


def _loaded(scheme: str) -> type[RowSource]:
    found = [entry for entry in list_plugins(SOURCES) if entry.name == scheme]
    if len(found) > 1:
        both = " and ".join(f"{entry.distribution} {entry.version} ({entry.target})" for entry in found)
        raise PluginError(f"two distributions register the data sources {scheme!r}: {both}; uninstall one")
    return load(PluginSource(group=SOURCES, name=scheme, target=found[0].target))


def _built(scheme: str, settings: Mapping[str, Any]) -> RowSource:
    made: Any = _loaded(scheme)
    try:
        return made(made.Config(**settings))
    except ValidationError as error:
        known = ", ".join(made.Config.model_fields)
        raise ConfigError(f"settings of source {scheme!r}: {faults(error)}. Its settings: {known}") from error
