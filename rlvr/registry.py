"""Finds plugins by name: lazily, with checks for duplicates and suggestions.

A name is one of
    text_match                   an entry point of the group
    my_pkg.my_module:check       an attribute of an importable module
    checks/mine.py:check         an attribute of a single file (relative to the working directory)
    trl:my_pkg.rewards.short     for verifiers: a scheme, and what its adapter adapts (see `rlvr.adapted`)

A scheme comes first: a package of the same name is reached only as `scheme.module:attribute`. Listing never imports;
resolving imports exactly one plugin. Only this module looks up plugins.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from rlvr.adapted import Adapted, attribute_of, module_from_source
from rlvr.errors import PluginError
from rlvr.peer_arguments import peer_scheme
from rlvr.plugin import FunctionVerifier, VerifierContext
from rlvr.protocols import Sandbox, Verifier
from rlvr.storage.input_files import is_file, other_kind, read_input_text
from rlvr.telemetry.redaction import faults

VERIFIERS = "rlvr.verifiers"
SANDBOXES = "rlvr.sandboxes"
LOSSES = "rlvr.losses"
ADVANTAGES = "rlvr.advantages"
ENGINES = "rlvr.engines"
SCHEMES = "rlvr.verifier_schemes"
_KINDS = {VERIFIERS: "verifier", SANDBOXES: "sandbox", LOSSES: "loss", ADVANTAGES: "advantage", ENGINES: "engine"}
_MAX_SOURCE_BYTES = 4 << 20  # of a single-file plugin, which is sent to every worker
_CONTRACTS = {
    VERIFIERS: ("Verifier", ("name", "version", "execution", "Config", "verify")),
    SANDBOXES: ("Sandbox", ("name", "capabilities", "Config", "start", "run", "self_test", "close")),
    ENGINES: ("RolloutEngine", ("Config", "generate", "load_weights", "score", "health", "close")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """One line of a listing, made without importing the plugin."""

    name: str
    target: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSource:
    """Everything that another process needs to build the same plugin; JSON-able.

    source: the text of a single-file plugin (and `digest` its SHA-256), empty for an importable one.
    scheme, argument: the parts of a name with a scheme, as in `Adapted`; `target` is then the adapter class, and
    `source` the text of the file that it adapts, if the argument names a file.
    """

    group: str
    name: str
    target: str
    source: str = ""
    digest: str = ""
    scheme: str = ""
    argument: str = ""

    @property
    def module(self) -> str:
        """The importable module of `target`, which every node of a run needs; "" if a file travels instead."""
        return "" if self.source and not self.scheme else self.target.partition(":")[0]


def list_plugins(group: str) -> tuple[PluginEntry, ...]:
    """Every registered plugin of a group, by name; a name registered by two distributions is listed twice."""
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
        if group == VERIFIERS and (adapted := _find_adapted(name)):
            return adapted
        path, _, attribute = name.rpartition(":")
        if path.endswith(".py"):
            return _find_file(group, name, path, attribute)
        return PluginSource(group=group, name=name, target=name)
    listed = list_plugins(group)
    found = [entry for entry in listed if entry.name == name]
    if len(found) > 1:
        both = " and ".join(f"{e.distribution} {e.version} ({e.target})" for e in found)
        raise PluginError(
            f"two distributions register the {group} plugin {name!r}: {both}; uninstall one, or give its "
            f"full path, such as {found[0].target}"
        )
    if found:
        return PluginSource(group=group, name=name, target=found[0].target)
    entries = dict.fromkeys(entry.name for entry in listed)
    kind = _KINDS[group]
    near = closest(name, list(entries))
    hint = f" Did you mean {near!r}?" if near else ""
    raise PluginError(
        f"{kind} {name!r} is not installed. Installed: {', '.join(entries) or 'none'}.{hint} "
        "A plugin of your own is named package.module:attribute or path/file.py:attribute"
    )


def short_name(name: str) -> str:
    """The last word of a plugin's name, after which a check is named that has no name of its own.

    >>> [short_name(name) for name in ("math", "checks/mine.py:strict", "trl:trl.rewards.accuracy_reward")]
    ['math', 'strict', 'accuracy_reward']
    >>> short_name("http://localhost:8000/v1/verify"), short_name("https://judge.example:8000")
    ('verify', 'judge')
    """
    if "://" in name:
        url = urlsplit(name)
        return url.path.rstrip("/").rpartition("/")[2] or (url.hostname or name).partition(".")[0]
    return name.rpartition(":")[2].rpartition(".")[2] if ":" in name else name


def _find_adapted(name: str) -> PluginSource | None:
    """Where the adapter of a name with a scheme lives; None for a module or a file.

    Raises: PluginError for an unknown scheme, and as `find` does.
    """
    scheme, _, argument = name.partition(":")
    listed = list_plugins(SCHEMES)
    found = [entry for entry in listed if entry.name == scheme]
    if not found:
        if scheme.isidentifier() and (":" in argument or not _has_module(scheme)):
            known = ", ".join(f"{known}:" for known in dict.fromkeys(entry.name for entry in listed)) or "none"
            near = closest(scheme, [entry.name for entry in listed])
            hint = f" Did you mean {near!r}?" if near else ""
            raise PluginError(
                f"verifier {name!r}: {scheme!r} is neither a module nor a scheme. Schemes: {known}.{hint}"
            )
        return None
    if len(found) > 1:
        both = " and ".join(f"{e.distribution} {e.version} ({e.target})" for e in found)
        raise PluginError(f"two distributions register the scheme {scheme!r}: {both}; uninstall one")
    source = PluginSource(group=VERIFIERS, name=name, target=found[0].target, scheme=scheme, argument=argument)
    path, _, attribute = argument.rpartition(":")
    if not path.endswith(".py"):
        return source
    file = _find_file(VERIFIERS, name, path, attribute)
    return replace(source, argument=file.target, source=file.source, digest=file.digest)


def _has_module(name: str) -> bool:
    """Whether a top-level module can be imported; it is not imported."""
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def closest(name: str, known: Sequence[str]) -> str:
    """The known name that is most like it; "" where none is."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), "")


def _find_file(group: str, name: str, path: str, attribute: str) -> PluginSource:
    file = Path(path)
    if not is_file(file):
        kind = other_kind(file)
        what = f"is {kind}, not a file" if kind else f"does not exist (working directory: {Path.cwd()})"
        raise PluginError(f"plugin file {path!r} {what}; named by {name!r}")
    source = read_input_text(file, what=f"plugin file {path!r}", max_bytes=_MAX_SOURCE_BYTES, error=PluginError)
    digest = hashlib.sha256(source.encode()).hexdigest()
    return PluginSource(group=group, name=name, target=f"{file.name}:{attribute}", source=source, digest=digest)


def load(source: PluginSource) -> Any:
    """The plugin's class (a decorated function becomes one). Imports exactly this plugin.

    Raises: PluginError that names the distribution, its version and the entry point.
    """
    loaded = _imported(source)
    if isinstance(loaded, FunctionVerifier):
        return loaded.as_class()
    if not isinstance(loaded, type):
        raise PluginError(
            f"plugin {source.name!r} ({_origin(source)}) is a {type(loaded).__name__}; a plugin is a class, or for a "
            f"verifier a function decorated with @rlvr.plugin.verifier(version=...){peer_scheme(loaded, source.name)}"
        )
    if source.scheme:
        shared = {key: getattr(source, key) for key in ("name", "scheme", "argument", "source", "digest")}
        members = {"name": source.name, "adapted": Adapted(**shared), "__doc__": loaded.__doc__}
        return type(loaded.__name__, (loaded,), members)
    return loaded


def build_function(group: str, name: str, settings: Mapping[str, Any]) -> Callable[..., Any]:
    """A function of a plugin with its settings bound; they are its keyword-only parameters.

    Args:
        group: `LOSSES` or `ADVANTAGES`.

    Raises: PluginError when it is not a function, or the settings do not fit.
    """
    source = find(group, name)
    loaded = _imported(source)
    what = f"{_KINDS[group]} {name!r} ({_origin(source)})"
    if not callable(loaded):
        raise PluginError(f"{what} is a {type(loaded).__name__} and not a function")
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(loaded).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            has_default = parameter.default is not inspect.Parameter.empty
            annotation = _setting_type(parameter)
            fields[parameter.name] = (annotation, parameter.default if has_default else ...)
    config = create_model("Settings", __config__=ConfigDict(extra="forbid"), **fields)
    try:
        values = config(**settings)
    except ValidationError as error:
        raise PluginError(f"settings of {what}: {_bad_settings(config, error)}") from error
    return partial(loaded, **{key: getattr(values, key) for key in fields})


def _setting_type(parameter: inspect.Parameter) -> Any:
    """The type of a setting; that of its default if its annotation cannot be resolved."""
    annotation: Any = parameter.annotation
    if annotation is not inspect.Parameter.empty and not isinstance(annotation, str):
        return annotation
    known: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
    default = cast(object, parameter.default)
    is_known = default is not inspect.Parameter.empty and default is not None
    of_default: Any = type(default) if is_known else Any
    return known.get(str(annotation), of_default)


def _imported(source: PluginSource) -> Any:
    """The attribute that a plugin's target names."""
    module_name, _, attribute = source.target.rpartition(":")
    module = None
    try:
        if source.module:
            module = importlib.import_module(module_name)
        else:
            module = module_from_source(source.source, source.digest, module_name)
        loaded = attribute_of(module, attribute)
    except KeyboardInterrupt:
        raise  # the user's Ctrl-C; one that the plugin raises itself is found by `rlvr.verification.trial`
    except BaseException as error:
        held = _held(module, attribute) if module is not None and isinstance(error, AttributeError) else ""
        raise PluginError(load_failure(source, error, held=held)) from error
    return loaded


def load_failure(source: PluginSource, error: BaseException, *, held: str = "") -> str:
    """The message for a plugin whose import raised `error`, with the file and line. held: what it has instead."""
    module_name = source.target.rpartition(":")[0]
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        what += " (a plugin must not end the process that imports it)"
    command = f"python {source.name.rpartition(':')[0]}" if not source.module else f"python -c 'import {module_name}'"
    return f"plugin {source.name!r} ({_origin(source)}) failed to load: {_place_of(error, module_name)}{what}; " + (
        held or f"try `{command}` to see its traceback"
    )


def _place_of(error: BaseException, module_name: str) -> str:
    """`mine.py:12: `, the last line of the plugin's own file that the exception passed; "" if it passed none."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{error.filename}:{error.lineno}: "
    file_name = f"{module_name.replace('.', '/').removesuffix('/py')}.py"
    line, step = 0, error.__traceback__
    while step is not None:  # by hand: an endless recursion leaves millions of frames
        name = step.tb_frame.f_code.co_filename
        if name == file_name or name.endswith(f"/{file_name}"):
            line = step.tb_lineno
        step = step.tb_next
    return f"{file_name}:{line}: " if line else ""


def _held(module: ModuleType, attribute: str) -> str:
    """Suggestions from a module: its own plugins, the closest name first."""
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


def build_verifier(source: PluginSource, settings: Mapping[str, Any], context: VerifierContext) -> Verifier:
    """A verifier, built and ready.

    Raises: PluginError when the class lacks a member of the contract or the settings do not fit its Config.
    """
    if source.scheme and not source.argument:
        raise PluginError(
            f"verifier {source.name!r}: nothing follows the scheme; `rlvr verifiers show {source.name}` says what does"
        )
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
        problems = _bad_settings(loaded.Config, error)
        what = _KINDS[source.group]
        raise PluginError(f"settings of {what} {source.name!r}: {problems}") from error


def _bad_settings(config: type[BaseModel], error: ValidationError) -> str:
    known = ", ".join(config.model_fields) or "none"
    return f"{faults(error)}. Its settings: {known}"


def _origin(source: PluginSource) -> str:
    if source.scheme:
        return f"adapter {source.target}"
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
            "required" if field.is_required() else repr(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for key, field in config.model_fields.items()
    ]
