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
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.errors import PluginError
from rlvr.input_files import is_file, other_kind, read_input_text
from rlvr.plugin import FunctionVerifier, VerifierContext
from rlvr.protocols import Sandbox, Verifier

VERIFIERS = "rlvr.verifiers"
SANDBOXES = "rlvr.sandboxes"
_MAX_SOURCE_BYTES = 4 << 20  # of a single-file plugin, which travels to every worker
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
    """Every registered plugin of a group, by name.

    Raises: PluginError when two distributions register one name.
    """
    entries: dict[str, PluginEntry] = {}
    for point in sorted(entry_points(group=group), key=lambda p: p.name):
        entry = PluginEntry(
            name=point.name,
            target=point.value,
            distribution=point.dist.name if point.dist else "?",
            version=point.dist.version if point.dist else "?",
        )
        other = entries.get(point.name)
        if other is not None and (other.target, other.distribution) != (
            entry.target,
            entry.distribution,
        ):
            raise PluginError(
                f"two distributions register the {group} plugin {point.name!r}: {other.distribution} "
                f"{other.version} ({other.target}) and {entry.distribution} {entry.version} ({entry.target}); "
                "uninstall one, or name the one you mean as package.module:attribute"
            )
        entries[point.name] = entry
    return tuple(entries.values())


def find(group: str, name: str) -> PluginSource:
    """Where a plugin lives, without importing it.

    Raises: PluginError when the name is unknown or the file is missing.
    """
    if ":" in name:
        path, _, attribute = name.rpartition(":")
        if path.endswith(".py"):
            return _find_file(group, name, path, attribute)
        return PluginSource(group=group, name=name, target=name)
    entries = {entry.name: entry for entry in list_plugins(group)}
    if name in entries:
        return PluginSource(group=group, name=name, target=entries[name].target)
    kind = group.rpartition(".")[2].removesuffix("s").replace("sandboxe", "sandbox")
    close = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise PluginError(
        f"{kind} {name!r} is not installed. Installed: {', '.join(entries) or 'none'}.{hint} "
        "A plugin of your own is named package.module:attribute or path/file.py:attribute"
    )


def _find_file(group: str, name: str, path: str, attribute: str) -> PluginSource:
    file = Path(path)
    if not is_file(file):
        kind = other_kind(file)
        what = f"is {kind}, not a file" if kind else f"does not exist (looked in {Path.cwd()})"
        raise PluginError(f"plugin file {path!r} {what}; named by {name!r}")
    source = read_input_text(
        file, what=f"plugin file {path!r}", max_bytes=_MAX_SOURCE_BYTES, error=PluginError
    )
    digest = hashlib.sha256(source.encode()).hexdigest()
    return PluginSource(
        group=group, name=name, target=f"{file.name}:{attribute}", source=source, digest=digest
    )


def load(source: PluginSource) -> Any:
    """The plugin's class (a decorated function becomes one). Imports exactly this plugin.

    Raises: PluginError that names the distribution, its version and the entry point.
    """
    module_name, _, attribute = source.target.rpartition(":")
    try:
        if source.source:
            module = _module_from_source(source, module_name)
        else:
            module = importlib.import_module(module_name)
        loaded: Any = module
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except KeyboardInterrupt:
        raise  # a person's Ctrl-C; one that the plugin raises itself is found by `rlvr.verify_trial`
    except BaseException as error:
        raise PluginError(load_failure(source, error)) from error
    if isinstance(loaded, FunctionVerifier):
        return loaded.as_class()
    if not isinstance(loaded, type):
        raise PluginError(
            f"plugin {source.name!r} ({_origin(source)}) is a {type(loaded).__name__}; a plugin is a class, or for a "
            "verifier a function decorated with @rlvr.plugin.verifier(version=...)"
        )
    return loaded


def load_failure(source: PluginSource, error: BaseException) -> str:
    """What to say of a plugin whose import raised `error`, with the file and line."""
    module_name = source.target.rpartition(":")[0]
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        what += " (a plugin must not end the process that imports it)"
    command = (
        f"python {source.name.rpartition(':')[0]}"
        if source.source
        else f"python -c 'import {module_name}'"
    )
    return (
        f"plugin {source.name!r} ({_origin(source)}) failed to load: {_place_of(error, module_name)}{what}; "
        f"try `{command}` to see its traceback"
    )


def _place_of(error: BaseException, module_name: str) -> str:
    """`mine.py:12: `, the last line of the plugin's own file that the exception passed; "" where it passed none."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    file_name = f"{module_name.replace('.', '/').removesuffix('/py')}.py"
    line, step = 0, error.__traceback__
    while step is not None:  # by hand: an endless recursion leaves millions of them
        name = step.tb_frame.f_code.co_filename
        if name == file_name or name.endswith(f"/{file_name}"):
            line = step.tb_lineno
        step = step.tb_next
    return f"{file_name}:{line}: " if line else ""


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
