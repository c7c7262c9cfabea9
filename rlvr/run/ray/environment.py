"""Environment variables of the run's Ray workers: settings in the runtime environment, private values apart from it.

Ray's runtime environment is shown by its dashboard and written to the logs of every node. So it holds only settings of
libraries and the import path. Whatever may be private (tokens, proxies with a login, and all that `cluster.env` takes
from this process) travels in a setup hook: Ray keeps its pickled form in the head's memory, and each worker process
runs it before it imports anything. A secret may be in a file instead of this process's environment: NAME_FILE names the
file with the value of NAME, as in many container images, and HF_TOKEN_PATH that of HF_TOKEN.

In a submitted job (`ray job submit`) this process already runs in the job's environment, so its own variables are the
job's, and they are what is passed on.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

import rlvr
from rlvr.config.sections.cluster import ClusterConfig
from rlvr.errors import ConfigError
from rlvr.telemetry import facts

# Settings of libraries that workers share with this process.
_SETTINGS = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE",
    "TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE", "RLVR_SHARED", facts.VARIABLE,
)  # fmt: skip
# How workers reach the hub; these may hold a token or a login.
_PRIVATE = (
    "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
_FILE_VARIABLES = {"HF_TOKEN": "HF_TOKEN_PATH"}  # the hub's own name for it; others: NAME_FILE
# Folders: used on a node that has them, or that has no setting of its own.
_FOLDERS = ("HF_HOME", "HF_HUB_CACHE")
_OVERRIDE = "RAY_OVERRIDE_JOB_RUNTIME_ENV"


def runtime_env(config: ClusterConfig) -> dict[str, Any]:
    """The runtime environment of the run's workers, for `ray.init`.

    Raises: ConfigError when `cluster.env` takes a variable from this process that is not set here, or from a file that
    cannot be read.
    """
    hook = setup_hook(private_variables(config), _set_here(_FOLDERS))
    return {"env_vars": settings(), "worker_process_setup_hook": hook}


def settings() -> dict[str, str]:
    """Variables without secrets: the path of a source checkout, and settings of libraries."""
    found = _set_here(_SETTINGS)
    found["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    checkout = Path(rlvr.__file__).resolve().parents[1]
    if "site-packages" not in checkout.parts:
        folders = [str(checkout), str(checkout / "verifiers"), str(checkout / "sandboxes")]
        old = os.environ.get("PYTHONPATH", "")
        found["PYTHONPATH"] = os.pathsep.join([*folders, *([old] if old else [])])
    return found


def private_variables(config: ClusterConfig) -> dict[str, str]:
    """Variables that may hold a secret: how to reach the hub, and `cluster.env`, which takes precedence.

    Raises: ConfigError with the names that `cluster.env` leaves to this process and that are not set here, or with a
    file that cannot be read.
    """
    values = {name: _value_here(name) if value is None else value for name, value in config.env.items()}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ConfigError(
            f"cluster.env takes {', '.join(missing)} from the environment of this process, where "
            f"{'it is' if len(missing) == 1 else 'they are'} not set; export {'it' if len(missing) == 1 else 'them'}, "
            f"or name a file with the value in {missing[0]}_FILE, or remove the name from cluster.env"
        )
    found = {name: _value_here(name, is_needed=False) for name in _PRIVATE if name not in values}
    return {name: value for name, value in {**found, **values}.items() if value is not None}


def _value_here(name: str, *, is_needed: bool = True) -> str | None:
    """The value of a variable of this process, or else the text of the file that NAME_FILE names; None without both.

    Args: is_needed: False: a file that does not exist counts as no value, as the hub's library does with its token.
    """
    if name in os.environ:
        return os.environ[name]
    variable = _FILE_VARIABLES.get(name, f"{name}_FILE")
    path = os.environ.get(variable, "")
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and not is_needed:
            return None
        raise ConfigError(f"{variable}={path}: the value of {name} cannot be read from this file: {error}") from error


def setup_hook(variables: Mapping[str, str], folders: Mapping[str, str]) -> Callable[[], None]:
    """A function that sets variables in a worker's process; it can be unpickled where rlvr is not installed.

    Args: folders: variables that name a folder. A node that has its own value keeps it unless the folder exists there.
    """
    always, if_there = dict(variables), {k: v for k, v in folders.items() if k not in variables}

    def set_variables() -> None:  # uses no other name of this module, so that it is pickled without it
        import os

        os.environ.update(always)
        for name, folder in if_there.items():
            if name not in os.environ or os.path.isdir(folder):
                os.environ[name] = folder

    return set_variables


@contextmanager
def as_driver_of_job() -> Iterator[None]:
    """Context in which `ray.init` accepts variables that a submitted job has set too.

    Without it Ray refuses the same variable in both, even with the same value. What a job sets otherwise (its pip
    packages, its working_dir) stays in force.

    Raises: ConfigError when the job has a setup hook, which a run needs for itself.
    """
    job = submitted_job()
    variables: Mapping[str, str] = job.get("env_vars") or {}
    if job.get("worker_process_setup_hook") or WORKER_PROCESS_SETUP_HOOK_ENV_VAR in variables:
        raise ConfigError(
            "this job was submitted with worker_process_setup_hook, which rlvr uses itself; submit it without the "
            "hook, and set variables with cluster.env"
        )
    before = os.environ.get(_OVERRIDE)
    if job:
        os.environ[_OVERRIDE] = "1"
    try:
        yield
    finally:
        if job:
            os.environ.pop(_OVERRIDE)
            if before is not None:
                os.environ[_OVERRIDE] = before


def submitted_job() -> dict[str, Any]:
    """The runtime environment of the submitted job that this process runs; {} if it is no job, or has none."""
    text = os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR)
    return (json.loads(text).get("runtime_env") or {}) if text else {}


@contextmanager
def outside_of_job() -> Iterator[None]:
    """Context in which `ray.init` starts a cluster of its own, without the files of a job of another one."""
    text = os.environ.pop(RAY_JOB_CONFIG_JSON_ENV_VAR, None)
    try:
        yield
    finally:
        if text is not None:
            os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = text


def is_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ


def _set_here(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
