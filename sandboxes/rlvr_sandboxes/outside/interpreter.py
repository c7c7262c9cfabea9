"""What a jailed worker may read: an interpreter with its standard library and its installed packages."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rlvr.errors import SandboxError
from rlvr_sandboxes.outside import jail
from rlvr_sandboxes.outside.jail import Layout

OLDEST = (3, 11)
_INSTALLED = ("site-packages", "dist-packages")
# Runs in the interpreter, without its packages: the version, the prefix and the standard library.
_ASK = (
    "import json, sys, sysconfig; "
    "print(json.dumps([sys.version_info[:2], sys.base_prefix, sysconfig.get_path('stdlib'), sys.executable]))"
)


@dataclass(frozen=True, slots=True)
class WorkerLayout:
    """What a worker may read, and the folders of installed packages on its import path."""

    layout: Layout
    sites: tuple[str, ...]


def worker_layout(python: str, packages: Sequence[tuple[str, str]], readable: Sequence[str]) -> WorkerLayout:
    """The layout of an interpreter ("": the running one) with its packages, and with `packages` and `readable`.

    Raises: SandboxError when the interpreter cannot be used, with the fix.
    """
    found = _layout_of(os.path.abspath(python)) if python else _own_layout()
    layout = found.layout
    wanted = [os.path.realpath(path) for path in (*found.sites, *readable)]
    trees = [*layout.trees, *(path for path in dict.fromkeys(wanted) if not _is_below(path, layout.trees))]
    masked = [path for path in layout.masked if not _is_below(path, wanted)]
    installed = tuple((name, os.path.realpath(place)) for name, place in packages)
    layout = replace(layout, trees=tuple(trees), masked=tuple(masked), packages=installed)
    return WorkerLayout(layout, tuple(os.path.realpath(path) for path in found.sites))


def _own_layout() -> WorkerLayout:
    sites = [path for path in sys.path if os.path.basename(path) in _INSTALLED and os.path.isdir(path)]
    return WorkerLayout(jail.find_layout(()), tuple(dict.fromkeys(sites)))


@cache
def _layout_of(python: str) -> WorkerLayout:
    if not os.path.isfile(python) or not os.access(python, os.X_OK):
        raise SandboxError(
            f"python: {python!r} is not an interpreter; give the path of one, such as envs/scorers/bin/python"
        )
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=60, check=True, env={}, cwd="/"
        )
        version, prefix, stdlib, _ = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        detail = str(getattr(error, "stderr", "") or error).strip()
        raise SandboxError(f"python: {python!r} does not run as a Python interpreter: {detail[-300:]}") from error
    if tuple(version) < OLDEST:
        raise SandboxError(
            f"python: {python!r} is Python {version[0]}.{version[1]}; a verifier's interpreter must be Python "
            f"{OLDEST[0]}.{OLDEST[1]} or later"
        )
    environment = Path(python).parent.parent
    settings = environment / "pyvenv.cfg"
    folders: list[Path] = []
    has_base = True
    if settings.is_file():
        folders.append(environment / "lib" / f"python{version[0]}.{version[1]}" / "site-packages")
        text = settings.read_text(encoding="utf-8", errors="replace").casefold().replace(" ", "")
        has_base = "include-system-site-packages=true" in text
    if has_base:
        folders += [Path(stdlib) / name for name in _INSTALLED]
        folders += [Path(prefix) / "lib" / "python3" / "dist-packages"]
    sites = tuple(str(folder) for folder in folders if folder.is_dir())
    return WorkerLayout(jail.layout_of(os.path.realpath(python), prefix, stdlib), sites)


def _is_below(path: str, trees: Sequence[str]) -> bool:
    return any(path == tree or path.startswith(f"{tree}/") for tree in trees)
