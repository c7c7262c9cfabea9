"""Finds plugins by name: lazily, with duplicates, versions and did-you-mean.

A name is one of
    text_match                   an entry point of the group
    my_pkg.my_module:check       an attribute of an importable module
    checks/mine.py:check         an attribute of a single file (relative to the working directory)

Listing never imports; resolving imports exactly one. Nothing else in rlvr looks up a plugin.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.errors import PluginError
from rlvr.plugin import FunctionVerifier, VerifierContext
from rlvr.protocols import Sandbox, Verifier

VERIFIERS = "rlvr.verifiers"
SANDBOXES = "rlvr.sandboxes"
_CONTRACTS = {
    VERIFIERS: ("Verifier", ("name", "version", "execution", "Config", "verify")),
    SANDBOXES: (
        "Sandbox",
        ("name", "capabilities", "Config", "start", "run", "self_test", "close"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """One line of a listing; nothing was imported to make it."""

    name: str
    target: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSource:
    """All that another process needs to build the same plugin; JSON-able.

    source: the text of a single-file plugin (and `digest` its SHA-256), empty for an importable one.
    """

    group: str
    name: str
    target: str
    source: str = ""
    digest: str = ""


def list_plugins(group: str) -> tuple[PluginEntry, ...]:
    """Every registered plugin of a group, by name; a name that two distributions register comes twice."""
    entries: dict[tuple[str, str, str], PluginEntry] = {}
    points = entry_points(group=group)
    for point in sorted(points, key=lambda p: (p.name, p.dist.name if p.dist else "?")):
        entry = PluginEntry(
            name=point.name,
            target=point.value,
            distribution=point.dist.name if point.dist else "?",
            version=point.dist.version if point.dist else "?",
        )
        entries[entry.name, entry.target, entry.distribution] = entry
    return tuple(entries.values())


def find(group: str, name: str) -> PluginSource:
    """Where a plugin lives, without importing it.

    Raises: PluginError when the name is unknown, two distributions register it, or the file is missing.
    """
    if ":" in name:
        path, _, attribute = name.rpartition(":")
        if path.endswith(".py"):
            return _find_file(group, name, path, attribute)
        return PluginSource(group=group, name=name, target=name)
    listed = list_plugins(group)
    found = [entry for entry in listed if entry.name == name]
    if len(found) > 1:
        both = " and ".join(f"{e.distribution} {e.version} ({e.target})" for e in found)
        raise PluginError(
            f"two distributions register the {group} plugin {name!r}: {both}; uninstall one, or name the one you mean "
            f"by its place, such as {found[0].target}"
        )
    if found:
        return PluginSource(group=group, name=name, target=found[0].target)
    entries = dict.fromkeys(entry.name for entry in listed)
    kind = group.rpartition(".")[2].removesuffix("s").replace("sandboxe", "sandbox")
    close = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise PluginError(
        f"{kind} {name!r} is not installed. Installed: {', '.join(entries) or 'none'}.{hint} "
        "A plugin of your own is named package.module:attribute or path/file.py:attribute"
    )


def _find_file(group: str, name: str, path: str, attribute: str) -> PluginSource:
    file = Path(path)
    if not file.is_file():
        raise PluginError(
            f"plugin file {path!r} does not exist (looked in {Path.cwd()}); named by {name!r}"
        )
    source = file.read_text(
        encoding="utf-8-sig"
    )  # without a byte order mark, which Python would refuse
    digest = hashlib.sha256(source.encode()).hexdigest()
    return PluginSource(
        group=group, name=name, target=f"{file.name}:{attribute}", source=source, digest=digest
    )


def load(source: PluginSource) -> Any:
    """The plugin's class (a decorated function becomes one). Imports exactly this plugin.

    Raises: PluginError that names the distribution, its version and the entry point.
    """
    module_name, _, attribute = source.target.rpartition(":")
    module = None
    try:
        if source.source:
            module = _module_from_source(source, module_name)
        else:
            module = importlib.import_module(module_name)
        loaded: Any = module
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except Exception as error:
        held = "" if module is None else _held(module, attribute)
        raise PluginError(
            f"plugin {source.name!r} ({_origin(source)}) failed to load: {type(error).__name__}: {error}; "
            + (
                held
                or f"try `python -c 'import {module_name.removesuffix('.py')}'` to see its traceback"
            )
        ) from error
    if isinstance(loaded, FunctionVerifier):
        return loaded.as_class()
    if not isinstance(loaded, type):
        raise PluginError(
            f"plugin {source.name!r} ({_origin(source)}) is a {type(loaded).__name__}; a plugin is a class, or for a "
            "verifier a function decorated with @rlvr.plugin.verifier(version=...)"
        )
    return loaded


def _held(module: ModuleType, attribute: str) -> str:
    """What a module has that could have been meant: its own plugins, the closest name first."""
    own = [
        name
        for name, value in vars(module).items()
        if isinstance(value, FunctionVerifier)
        or (isinstance(value, type) and hasattr(value, "version") and hasattr(value, "Config"))
    ]
    functions = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    ]
    close = difflib.get_close_matches(attribute, [*own, *functions], n=1, cutoff=0.5)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    if own:
        return f"its plugins are: {', '.join(own)}{hint}"
    return (
        f"it has no plugin, and these functions: {', '.join(functions) or 'none'}{hint} A verifier is a function "
        "decorated with @rlvr.plugin.verifier(version=...), or a class"
    )


def build_verifier(
    source: PluginSource, settings: Mapping[str, Any], context: VerifierContext
) -> Verifier:
    """A verifier ready to judge.

    Raises: PluginError when the class lacks a member of the contract or the settings do not fit its Config.
    """
    loaded = load(source)
    config = check_settings(source, loaded, settings)
    return loaded(config, context)


def build_sandbox(name: str, settings: Mapping[str, Any]) -> Sandbox:
    """A sandbox that was not started yet.

    Raises: PluginError when it is not installed, lacks a member of the contract, or the settings do not fit its Config.
    """
    source = find(SANDBOXES, name)
    loaded = load(source)
    return loaded(check_settings(source, loaded, settings))


def check_settings(source: PluginSource, loaded: Any, settings: Mapping[str, Any]) -> BaseModel:
    """The plugin's Config made from settings. Raises PluginError that lists each bad setting."""
    kind, members = _CONTRACTS[source.group]
    missing = [member for member in members if not hasattr(loaded, member)]
    if missing:
        raise PluginError(
            f"plugin {source.name!r} ({_origin(source)}) lacks {', '.join(missing)}; see rlvr.protocols.{kind}"
        )
    try:
        return loaded.Config(**settings)
    except ValidationError as error:
        known = ", ".join(loaded.Config.model_fields) or "none"
        problems = "; ".join(
            f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']} (got {e['input']!r})"
            for e in error.errors()
        )
        raise PluginError(
            f"settings of {kind.lower()} {source.name!r}: {problems}. It knows: {known}"
        ) from error


def _module_from_source(source: PluginSource, file_name: str) -> ModuleType:
    name = f"rlvr_user_plugin_{source.digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    lines = source.source.splitlines(keepends=True)
    linecache.cache[file_name] = (len(source.source), None, lines, file_name)  # for tracebacks
    try:
        exec(compile(source.source, file_name, "exec"), module.__dict__)  # the user's own file
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _origin(source: PluginSource) -> str:
    if source.source:
        return f"file {source.target}, sha256 {source.digest[:12]}"
    for point in entry_points(group=source.group):
        if point.name == source.name:
            return _describe(point)
    return f"module {source.target}"


def _describe(point: EntryPoint) -> str:
    dist = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
    return f"{dist}, entry point {point.group}: {point.name} = {point.value}"


def setting_rows(config: type[BaseModel]) -> list[tuple[str, str, str]]:
    """(setting, default or "required", description) of a plugin's Config."""
    return [
        (
            f"setting {key}",
            "required"
            if field.is_required()
            else repr(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for key, field in config.model_fields.items()
    ]
