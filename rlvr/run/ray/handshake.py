"""Compares what each node has installed with the driver, before any actor starts; a difference refuses the run.

Compared are the versions of Python and of `_DISTRIBUTIONS`, and hashes of the .py files of rlvr's packages and of the
modules that define the recipe's plugins. What those modules import from elsewhere, and compiled code, is not compared.
Ray's `working_dir` is never used, because workers would mix uploaded and installed code: each node must have rlvr
installed.
"""

import hashlib
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.errors import ConfigError, RlvrError

PACKAGES = ("rlvr", "rlvr_verifiers", "rlvr_sandboxes")
_DISTRIBUTIONS = ("torch", "transformers", "numpy", "ray")


def fingerprint(modules: Sequence[str] = ()) -> dict[str, str]:
    """Versions, and hashes of the sources of rlvr's packages and of `modules`, those of the recipe's plugins.

    Sources are found as an import would find them; a module that is already loaded may be an older state of them.
    """
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "absent"
    for name in (*PACKAGES, *modules):
        found[f"sources of {name}"] = source_hash(name)
    return found


def source_hash(module: str) -> str:
    """SHA-256 (first 16 digits) over the .py files of a package, or over one module's; "absent" if there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        return "absent"
    digest = hashlib.sha256()
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if folders:
        files = [(f.relative_to(d), f) for d in folders for f in sorted(d.rglob("*.py"))]
    else:
        files = [(Path(Path(str(spec.origin)).name), Path(str(spec.origin)))]
    for name, file in files:
        digest.update(f"{name.as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def differences(node: str, mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """One line for each difference, naming the node and both values.

    >>> differences("n1", {"torch": "2.13.0"}, {"torch": "2.12.0"})
    ['n1: torch is 2.12.0, the driver has 2.13.0']
    """
    return [
        f"{node}: {key} is {theirs.get(key, 'absent')}, the driver has {value}"
        for key, value in mine.items()
        if theirs.get(key, "absent") != value
    ]


def shake_hands(modules: Sequence[str], *, deadline_s: float) -> list[str]:
    """Asks every node for its fingerprint; returns the nodes' ids.

    Raises: ConfigError, which names each node that differs with both values; RlvrError when one does not answer.
    """
    mine = fingerprint(modules)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        node["NodeID"]: _ask.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(list(modules))
        for node in nodes
    }
    problems: list[str] = []
    for node in nodes:
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        problems += differences(name, mine, _answer(asked[node["NodeID"]], name, deadline_s))
    if problems:
        raise ConfigError(
            "the nodes of the cluster do not run the driver's code; install the same release (or the same checkout "
            "and environment) everywhere:\n  " + "\n  ".join(problems)
        )
    return list(asked)


def _answer(reference: Any, name: str, deadline_s: float) -> dict[str, str]:
    try:
        return ray.get(reference, timeout=deadline_s)
    except ray_errors.GetTimeoutError as error:
        raise RlvrError(
            f"{name} did not report its versions within cluster.start_deadline_s={deadline_s:g} s"
        ) from error
    except (ray_errors.RayError, ImportError) as error:
        raise ConfigError(
            f"{name} cannot import rlvr: {str(error).strip().splitlines()[-1]}; install the driver's release there"
        ) from error


@ray.remote
def _ask(modules: list[str]) -> dict[str, str]:
    return fingerprint(modules)
