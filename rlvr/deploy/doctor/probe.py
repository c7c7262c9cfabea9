"""What a host knows, printed as one line of JSON. Runs in the image or the virtual environment; imports no torch.

python -m rlvr.deploy.doctor.probe ROUND     with a request as JSON on standard input

report   versions, devices, addresses, limits, folders; writes a file into the shared folder
serve    listens on the cluster's ports that are free, and holds a lock, until `clean`, or until its output is closed
reach    connects to the other hosts' ports, reads their files, tries their locks
clean    removes what was written
"""

import array
import errno
import fcntl
import importlib.util
import json
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlvr.storage import locks

_SMI = "--query-gpu=name,memory.total,driver_version"
_CONNECT_S, _READ_S = 3.0, 5.0
_SERVE_S = 300.0  # more than the two rounds that need the ports, even if one host is slow in both
_CUDA = re.compile(r"^cuda(?::[^=]*)? = ['\"]([^'\"]+)", re.MULTILINE)


def report(request: dict[str, Any]) -> dict[str, Any]:
    """Everything that concerns this host alone."""
    from rlvr.run.ray.nodes.handshake import fingerprint

    return {
        "fingerprint": fingerprint(request["modules"], with_vllm=request["with_vllm"]),
        "gpus": gpus(),
        "torch_cuda": _torch_cuda(),
        "addresses": addresses(),
        "has_address": has_address(request["address"]),
        "limits": {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        },
        "has_infiniband": any(Path("/sys/class/infiniband").glob("*")),
        "env": {name: value for name, value in os.environ.items() if name.startswith(("NCCL_", "GLOO_"))},
        "shm": space(Path("/dev/shm")),
        "tmp": space(Path(os.environ.get("RAY_TMPDIR") or "/tmp")),
        "shared": _write_shared(request),
        "hub": hub(request["model"]),
    }


def gpus() -> list[dict[str, str]]:
    """Name, memory (MiB) and driver version of each GPU that the driver shows; [] without a driver."""
    try:
        done = subprocess.run(
            ["nvidia-smi", _SMI, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") >= 2]
    return [{"name": ", ".join(row[:-2]), "memory": row[-2], "driver": row[-1]} for row in rows]


def _torch_cuda() -> str:
    """The CUDA version that torch was built for, read from its file; "" for a CPU build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return ""
    try:
        found = _CUDA.search(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[1] if found else ""


def addresses() -> dict[str, list[str]]:
    """The IPv4 addresses of each interface; {} where the kernel does not list them."""
    size = struct.calcsize("16sH2x4s16x")
    buffer = array.array("B", bytes(size * 1024))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
            length = struct.unpack("iL", fcntl.ioctl(any_socket.fileno(), 0x8912, request))[0]  # SIOCGIFCONF
        except OSError:
            return {}
    found: dict[str, list[str]] = {}
    for place in range(0, length, size):
        name, family, raw = struct.unpack_from("16sH2x4s16x", buffer, place)
        if family == socket.AF_INET:
            label = name.split(b"\0")[0].decode().partition(":")[0]
            found.setdefault(label, []).append(socket.inet_ntoa(raw))
    return found


def has_address(address: str) -> bool:
    """Whether an interface of this host has the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def space(path: Path) -> dict[str, Any]:
    """Size and free bytes of the file system of a folder. problem: why that is not known, or ""."""
    try:
        used = shutil.disk_usage(path)
    except OSError as error:
        return {"path": str(path), "size": 0, "free": 0, "problem": error.strerror or str(error)}
    return {"path": str(path), "size": used.total, "free": used.free, "problem": ""}


def hub(model: str) -> dict[str, Any]:
    """The hub cache. has_model: whether the model's config is in it, or its folder exists; None without a model."""
    home = os.environ.get("HF_HUB_CACHE") or str(Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    cache = Path(home).expanduser()
    has_model = None
    if model:
        snapshots = cache / f"models--{model.replace('/', '--')}" / "snapshots"
        has_model = Path(model).is_dir() or any(snapshots.glob("*/config.json"))
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {**space(existing), "path": str(cache), "is_writable": os.access(existing, os.W_OK), "has_model": has_model}


def _meeting(request: dict[str, Any]) -> Path:
    return Path(request["shared"]) / f".rlvr-doctor-{request['nonce']}"


def _write_shared(request: dict[str, Any]) -> dict[str, Any]:
    folder = _meeting(request)
    found = {**space(Path(request["shared"])), "user": os.geteuid()}
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
    except OSError as error:
        if not folder.is_dir():  # another host's user may own it
            return {**found, "problem": f"{error.strerror or error}"}
    try:
        (folder / request["host"]).write_text(_content(request, request["host"]), encoding="utf-8")
    except OSError as error:
        return {**found, "problem": f"{error.strerror or error}"}
    return found


def _content(request: dict[str, Any], host: str) -> str:
    return f"{request['nonce']} {host}\n"


def serve(request: dict[str, Any]) -> None:
    """Prints {"busy": ports that others use, "open": ours, "lock": problem}, then dots.

    Ends when nobody reads them, or after `clean`.
    """
    busy: list[int] = []
    opened: list[int] = []
    with ExitStack() as stack:
        for port in request["ports"]:
            family = socket.AF_INET6 if ":" in request["address"] else socket.AF_INET
            try:
                listener = socket.create_server((request["address"], port), family=family, backlog=1024)
                stack.enter_context(listener)
                opened.append(port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    busy.append(port)
        problem = ""
        lock = _meeting(request) / f"{request['host']}.lock"
        try:
            file = stack.enter_context(lock.open("w"))
            locks.acquire(file.fileno())
        except locks.NoLocksError:
            problem = "no locks"
        except OSError as error:
            problem = str(error.strerror or error)
        _print(json.dumps({"busy": busy, "open": opened, "lock": problem}) + "\n")
        was_there = lock.exists()
        until = time.monotonic() + _SERVE_S
        # `clean` removes the lock. In a container nothing else tells: an engine reads on when its client has gone.
        while time.monotonic() < until and lock.exists() == was_there:
            time.sleep(0.2)
            _print(".")


def reach(request: dict[str, Any]) -> dict[str, Any]:
    """What of the other hosts this one cannot reach.

    ports: (host, port, why). unseen: hosts whose file is not here. unlocked: hosts whose lock this one could take.
    """
    others = [other for other in request["others"] if other["name"] != request["host"]]
    wanted = [(other, port) for other in others for port in other["ports"]]

    def attempt(pair: tuple[dict[str, Any], int]) -> tuple[str, int, str] | None:
        other, port = pair
        try:
            with socket.create_connection((other["address"], port), timeout=_CONNECT_S):
                return None
        except TimeoutError:
            return other["name"], port, "no answer"
        except OSError as error:
            return other["name"], port, error.strerror or str(error)

    with ThreadPoolExecutor(32) as pool:
        failed = [result for result in pool.map(attempt, wanted) if result is not None]
    folder = _meeting(request)
    unseen = [other["name"] for other in others if not _sees(folder, request, other["name"])]
    unlocked = [other["name"] for other in others if other["name"] not in unseen and _locks(folder, other["name"])]
    return {"ports": failed, "unseen": unseen, "unlocked": unlocked}


def _sees(folder: Path, request: dict[str, Any], host: str) -> bool:
    """Whether the file of a host is here; waits a little, because NFS caches what a folder holds."""
    until = time.monotonic() + _READ_S
    while True:
        try:
            if (folder / host).read_text(encoding="utf-8") == _content(request, host):
                return True
        except OSError:
            pass  # not there yet
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


def _locks(folder: Path, host: str) -> bool:
    """Whether the lock that the host holds can be taken here too."""
    try:
        with (folder / f"{host}.lock").open("r+") as file:
            locks.acquire(file.fileno())
            return True
    except OSError:
        return False


def clean(request: dict[str, Any]) -> dict[str, Any]:
    """Removes the folder in which the hosts met."""
    shutil.rmtree(_meeting(request), ignore_errors=True)
    return {}


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> int:
    """One round; the module's docstring names them."""
    request = json.loads(os.environ["RLVR_PROBE"]) if "RLVR_PROBE" in os.environ else json.load(sys.stdin)
    if sys.argv[1] == "serve":
        try:
            serve(request)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the flush at exit fails
        return 0
    _print(json.dumps({"report": report, "reach": reach, "clean": clean}[sys.argv[1]](request)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
