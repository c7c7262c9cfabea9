"""Digests of a run's inputs: the rows of its data and the code of its verifiers.

They are kept in each checkpoint and in the `inputs` event, and compared on resume:

    a source                                the content of its rows; another file with the same rows is the same data
    an endless source                       its first draws
    a verifier in a file of its own         its version and the file
    a verifier in an importable module      its version and the sources of the module or package
    an installed verifier                   its version and that of its package
    a verifier that the recipe has jailed   as above without the version, because its code is not imported
    an adapted file or module (`trl:...`)   the adapter's version, and the file, or the package's version or sources

A verifier's imports are not covered.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, entry_points
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from rlvr.config.recipe import Recipe
from rlvr.data.load import OpenedSource, SourceOpener
from rlvr.errors import ConfigError
from rlvr.registry import VERIFIERS, find, load

NUM_DRAWS = 64  # of an endless source
_OURS = "rlvr"


def input_digests(recipe: Recipe, *, opener: SourceOpener | None = None) -> dict[str, str]:
    """The digest of each input: `data.train.0 (rows.jsonl)`, `verifier checks.py:lottery`.

    Args: opener: holds sources that are already open; all others are read.
    """
    found: dict[str, str] = {}
    opener = opener or SourceOpener(recipe.data, seed=recipe.seed)
    by_rows: dict[int, str] = {}  # sources that share their rows share the digest
    for part, sources in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        for number, source in enumerate(sources):
            opened = opener.open(source)
            if id(opened.rows) not in by_rows:
                by_rows[id(opened.rows)] = _rows_digest(opened)
            found[f"data.{part}.{number} ({source.source})"] = by_rows[id(opened.rows)]
    checks = [check for source in (*recipe.data.train, *recipe.data.eval) for check in source.all_checks.values()]
    jailed = {check.verifier for check in checks if check.is_jailed}
    for name in dict.fromkeys(check.verifier for check in checks):
        found[f"verifier {name}"] = _jailed_digest(name) if name in jailed else _verifier_digest(name)
    return found


def require_same_inputs(
    stored: Mapping[str, str], now: Mapping[str, str], *, run: str, may_differ: bool
) -> dict[str, str]:
    """What differs, as "stored -> now" by input.

    Raises: ConfigError when something differs and `may_differ` is False.
    """
    changed = {key: f"{stored[key]} -> {now[key]}" for key in stored if key in now and stored[key] != now[key]}
    if changed and not may_differ:
        raise ConfigError(
            f"{run} cannot be resumed: its data or verifiers have changed since it started. Restore them, start a new "
            "run, or continue anyway with --allow-changed-inputs. Different:\n  "
            + "\n  ".join(f"{key}: {how}" for key, how in changed.items())
        )
    return changed


def _rows_digest(opened: OpenedSource) -> str:
    count = opened.num_rows
    digest = hashlib.sha256()
    for text in _row_texts(opened, NUM_DRAWS if count is None else count):
        digest.update(text.encode())
    rows = f"first {NUM_DRAWS} draws" if count is None else f"{count:,} rows"
    return f"{rows}, sha256 {digest.hexdigest()[:16]}"


def _row_texts(opened: OpenedSource, count: int) -> Iterator[str]:
    for index in range(count):
        row = opened.rows.row(index)
        yield json.dumps([row.row_id, row.question, row.reference, row.tags], sort_keys=True) + "\n"


def _verifier_digest(name: str) -> str:
    source = find(VERIFIERS, name)
    version = f"version {load(source).version}"
    if source.source:
        return f"{version}, sha256 {source.digest[:16]}"
    if source.scheme:
        return f"{version}{_adapted_digest(source.argument)}"
    package = _package(name)
    if package:
        return version if package.partition(" ")[0] == _OURS else f"{version}, {package}"
    return f"{version}, sha256 {_module_digest(source.target.partition(':')[0])}"


def _jailed_digest(name: str) -> str:
    """The digest of a verifier whose code is not imported here, so that its version is not known."""
    source = find(VERIFIERS, name)
    if source.source:
        return f"jailed, sha256 {source.digest[:16]}"
    package = _package(name)
    if package:
        return f"jailed, {package}"
    return "jailed" + _adapted_digest(source.argument if source.scheme else source.module)


def _adapted_digest(argument: str) -> str:
    """The version of the installed package that an adapter's argument begins with, or the digest of a local module.

    Only the top-level name is looked up, which imports nothing. "" if the argument names no module here.
    """
    module = argument.partition(":")[0].partition(".")[0]
    if not module.isidentifier():
        return ""
    for name in (module, module.replace("_", "-")):
        with suppress(PackageNotFoundError):
            return f", {name} {package_version(name)}"
    return f", sha256 {_module_digest(module)}" if importlib.util.find_spec(module) is not None else ""


def _package(name: str) -> str:
    """Name and version of the package that registers the verifier; "" if no package registers it."""
    for point in entry_points(group=VERIFIERS, name=name):
        return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
    return ""


def _module_digest(module: str) -> str:
    """SHA-256 (first 16 digits) of a module's file, or of the .py files of a package."""
    spec: Any = importlib.util.find_spec(module)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and spec is not None and spec.origin:
        files = [Path(spec.origin)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
