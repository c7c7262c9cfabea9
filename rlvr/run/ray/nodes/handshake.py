"""Compares what each node has installed with the driver, before any actor starts; a difference refuses the run.

Compared are the versions of Python, of `_DISTRIBUTIONS` and, if its engine generates, of vLLM, and hashes of the .py
files of rlvr's packages and of the modules that define the recipe's plugins. What those modules import from elsewhere,
and compiled code, is not compared. rlvr uploads no code: each node must have it installed, or get it from the job with
which the run was submitted (its `working_dir` or `pip`). The workers that are asked run in the environment of the
actors, so what is compared is what they use.
"""

import hashlib
import importlib.util
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.errors import ConfigError, RlvrError
from rlvr.rollout.vllm.environment import DISTRIBUTIONS as VLLM

PACKAGES = ("rlvr", "rlvr_verifiers", "rlvr_sandboxes")
_DISTRIBUTIONS = ("torch", "transformers", "numpy", "ray")
_ABSENT = "absent"
_VLLM = "vllm"
_GONE_S = 30.0
_POLL_S = 0.5
_GONE = (ray_errors.NodeDiedError, ray_errors.WorkerCrashedError, ray_errors.TaskUnschedulableError)


def fingerprint(modules: Sequence[str] = (), *, with_vllm: bool = False) -> dict[str, str]:
    """Versions, and hashes of the sources of rlvr's packages and of `modules`, those of the recipe's plugins.

    Sources are found as an import would find them; a module that is already loaded may be an older state of them.
    """
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        found[name] = _version(name)
    if with_vllm:
        builds = [build for name in VLLM if (build := _version(name)) != _ABSENT]
        found[_VLLM] = builds[0] if builds else _ABSENT
    for name in (*PACKAGES, *modules):
        found[f"sources of {name}"] = source_hash(name)
    return found


def _version(distribution: str) -> str:
    """Its version without the suffix of a build (2.13.0+cpu is 2.13.0)."""
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return _ABSENT


def source_hash(module: str) -> str:
    """SHA-256 (first 16 digits) over the .py files of a package, or over one module's; "absent" if there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.submodule_search_locations or spec.origin):
        return _ABSENT
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

    A driver, or a node that only verifies, may lack vLLM; an engine that is placed there says so when it starts.

    >>> differences("n1", {"torch": "2.13.0"}, {"torch": "2.12.0"})
    ['n1: torch is 2.12.0, the driver has 2.13.0']
    """
    return [
        f"{node}: {key} is {theirs.get(key, _ABSENT)}, the driver has {value}"
        for key, value in mine.items()
        if theirs.get(key, _ABSENT) != value and not (key == _VLLM and _ABSENT in (value, theirs.get(key, _ABSENT)))
    ]


def shake_hands(
    modules: Sequence[str],
    *,
    with_vllm: bool,
    deadline_s: float,
    only: Collection[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Asks every node for its fingerprint; returns the ids of those that answered.

    Ray lists a node whose host or container has just ended for up to half a minute, and such a node does not answer.

    Args:
        with_vllm: the engines are vLLM's. only: the ids of the nodes to ask; None: all live ones.
        say: gets a line for each node that was lost meanwhile and is left out; None: such a node is an error.

    Raises: ConfigError, which names each node that differs with both values; RlvrError when one does not answer.
    """
    mine = fingerprint(modules, with_vllm=with_vllm)
    nodes = [node for node in ray.nodes() if node["Alive"] and (only is None or node["NodeID"] in only)]
    asked = {
        node["NodeID"]: _ask.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(list(modules), with_vllm)
        for node in nodes
    }
    problems: list[str] = []
    lost: list[str] = []
    for node in nodes:
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        try:
            problems += differences(name, mine, _answer(asked[node["NodeID"]], name, deadline_s))
        except _GONE as error:
            if say is None or not _is_gone(node["NodeID"], within_s=_GONE_S):
                raise RlvrError(f"{name} was lost before it reported its versions: {error}") from error
            say(f"{name} was lost before it reported its versions; the run starts without it")
            lost.append(node["NodeID"])
    if problems:
        raise ConfigError(
            "the nodes of the cluster do not run the driver's code; install the same release (or the same checkout "
            "and environment) everywhere:\n  " + "\n  ".join(problems)
        )
    return [node for node in asked if node not in lost]


def _answer(reference: Any, name: str, deadline_s: float) -> dict[str, str]:
    """Raises one of `_GONE` besides."""
    try:
        return ray.get(reference, timeout=deadline_s)
    except ray_errors.GetTimeoutError as error:
        raise RlvrError(
            f"{name} did not report its versions within cluster.start_deadline_s={deadline_s:g} s"
        ) from error
    except _GONE:
        raise
    except (ray_errors.RayError, ImportError) as error:
        raise ConfigError(
            f"{name} cannot import rlvr: {str(error).strip().splitlines()[-1]}; install the driver's release there"
        ) from error


def _is_gone(node: str, *, within_s: float) -> bool:
    """Whether Ray takes the node for dead by then: on a live one only a worker has crashed."""
    end = time.monotonic() + within_s
    while any(there["NodeID"] == node and there["Alive"] for there in ray.nodes()):
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_S)
    return True


@ray.remote
def _ask(modules: list[str], with_vllm: bool) -> dict[str, str]:
    return fingerprint(modules, with_vllm=with_vllm)
