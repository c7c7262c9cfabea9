"""What the service gives up by itself, and what the kernel says that its container still has."""

import contextlib
import ctypes
import os
import signal
from pathlib import Path

from rlvr_sandboxes.inside import seccomp

_PR_SET_DUMPABLE = 4
_SECRET_WORDS = {"KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS"}
_CGROUP_LIMITS = {"memory": ("memory.max", "memory/memory.limit_in_bytes"), "processes": ("pids.max", "pids/pids.max")}
_NO_LIMIT = 1 << 60


def confine() -> None:
    """For this process and all that it starts: no socket that could leave the machine, no new privileges. Others of the
    same user cannot read its memory, with the key in it.

    Raises: OSError.
    """
    seccomp.Filter(seccomp.local_sockets_filter()).install()
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def become_child_of_init() -> None:
    """As process 1 of a container: forks, and returns in the child; the parent passes signals on and reaps orphans,
    which the kernel gives to process 1. It exits with the child's code.
    """
    if os.getpid() != 1:
        return
    child = os.fork()
    if child == 0:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(child, number))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) % 256)


def missing() -> list[str]:
    """What a container of its own would add here, one phrase each with the option that sets it; empty if nothing."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if ":" in line
    )
    found: list[str] = []
    devices = _lines("/proc/net/dev")[2:]
    names = sorted({line.partition(":")[0].strip() for line in devices} - {"lo"})
    if names:
        found.append(f"it has the network devices {', '.join(names)} (--network none)")
    if os.geteuid() == 0:
        found.append("it runs as root (--user 1000)")
    if int(status.get("CapPrm", "0"), 16):
        found.append("it has capabilities (--cap-drop ALL)")
    if status.get("Seccomp_filters", "2").strip() == "1":
        found.append("no seccomp profile surrounds it")
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        found.append("its root can be written to (--read-only)")
    secret = sorted(name for name in os.environ if _SECRET_WORDS & {*name.upper().split("_")})
    if secret:
        found.append(f"its environment has {', '.join(secret)}")
    if os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"):
        found.append("it has a cluster token (automountServiceAccountToken: false)")
    found += [f"it has no limit of its {what}" for what, files in _CGROUP_LIMITS.items() if not _is_limited(files)]
    return found


def _is_limited(files: tuple[str, ...]) -> bool:
    for file in files:
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = _lines(f"/sys/fs/cgroup/{file}")[0]
            return text != "max" and int(text) < _NO_LIMIT
    return False


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="ascii").splitlines()
