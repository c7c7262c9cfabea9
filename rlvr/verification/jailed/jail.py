"""Where jailed verifiers run: which jail each check asks for, and how its workers start in the sandbox."""

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.errors import SandboxError
from rlvr.jails import SupportsWorkers, WorkerRequest
from rlvr.protocols import Sandbox
from rlvr.records import Check, Execution
from rlvr.registry import SANDBOXES, VERIFIERS, PluginSource, find, list_plugins, load
from rlvr.verification.jailed.process import JailedWorkerProcess
from rlvr.verification.trial import load_tried

_MODULE = "rlvr.verification.jailed.main"
_OWN = ("rlvr", "rlvr_verifiers")  # packages that every jailed worker can import
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True, kw_only=True)
class JailSpec:
    """What a jailed worker may see; verifiers with the same one share worker processes.

    python: the path of an interpreter, "" for the running one. packages: (name, path) of those that it can import
    besides the interpreter's own. readable, writable: further paths.
    """

    python: str = ""
    packages: tuple[tuple[str, str], ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """A sandbox that is started, and what its workers may see. sandbox: returns it, started once."""

    sandbox: Callable[[], SupportsWorkers]
    spec: JailSpec

    def start(self, *, memory_bytes: int, hash_seed: int) -> JailedWorkerProcess:
        """Starts a worker. Raises SandboxError, OSError."""
        request = WorkerRequest(
            module=_MODULE,
            arguments=(str(memory_bytes),),
            python=self.spec.python,
            packages=self.spec.packages,
            readable=self.spec.readable,
            writable=self.spec.writable,
            environment={"PYTHONHASHSEED": str(hash_seed)},
            memory_bytes=memory_bytes,
        )
        return JailedWorkerProcess(self.sandbox().start_worker(request))


def execution_of(check: Check, source: PluginSource | None = None) -> Execution:
    """How a check's verifier runs: as the check says, else as its class says, which is then imported here.

    Raises: PluginError.
    """
    if check.is_jailed:
        return Execution.JAILED
    if check.execution is not None:
        return check.execution
    declared = getattr(load_tried(source or find(VERIFIERS, check.verifier)), "execution", Execution.PROCESS)
    return Execution(declared)


def jailed_check(check: Check, *, is_jailed: bool, python: str) -> Check:
    """The check with what a command line asks for: `--jailed`, or an interpreter, which implies it."""
    if not is_jailed and not python:
        return check
    return replace(check, execution=Execution.JAILED, python=python or check.python)


def spec_of(check: Check, source: PluginSource, *, writable: tuple[str, ...] = ()) -> JailSpec:
    """The jail of a check's verifier. Its package is found without being imported.

    Raises: SandboxError for a path that does not exist.
    """
    readable = tuple(os.path.abspath(path) for path in check.readable)
    for path in readable:
        if not os.path.exists(path):
            raise SandboxError(f"readable: {path!r} of check {check.name!r} does not exist")
    names = [*_OWN, *_modules_of(source)]
    packages = {
        Path(place).name if place.endswith(".py") else name: place for name in names if (place := _place_of(name))
    }
    python = os.path.abspath(os.path.expanduser(check.python)) if check.python else ""
    return JailSpec(python=python, packages=tuple(packages.items()), readable=readable, writable=writable)


def _modules_of(source: PluginSource) -> list[str]:
    """The top-level modules that hold a verifier's code, if it is importable."""
    found = [source.module.partition(".")[0]]
    if source.scheme and not source.source:
        found.append(source.argument.partition(":")[0].partition(".")[0])
    return [name for name in found if name.isidentifier()]


def _place_of(name: str) -> str:
    """The path of a top-level module or package; "" if the interpreter has it itself, or nobody does."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None or name in sys.stdlib_module_names:
        return ""
    folder = next(iter(spec.submodule_search_locations or ()), "")
    place = os.path.realpath(folder or spec.origin or "")
    if not os.path.exists(place) or place == os.path.realpath("."):
        return ""
    is_installed = Path(place).parent.name in _INSTALLED
    return "" if is_installed and name not in _OWN else place


def require_workers(sandbox: Sandbox, name: str) -> SupportsWorkers:
    """The sandbox as one that holds workers. Raises SandboxError, which names those that can."""
    if isinstance(sandbox, SupportsWorkers):
        return sandbox
    able = [entry.name for entry in list_plugins(SANDBOXES) if _can_hold_workers(entry.name)]
    raise SandboxError(
        f"sandbox {name!r} cannot run verifiers; these can: {', '.join(able) or 'none'}. Set sandbox.backend, or "
        "`execution: process` on the check if you trust the verifier with this machine"
    )


def _can_hold_workers(name: str) -> bool:
    loaded: Any = load(find(SANDBOXES, name))
    return hasattr(loaded, "start_worker")
