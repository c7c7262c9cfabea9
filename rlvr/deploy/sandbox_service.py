"""The container of the sandbox service, which every target starts next to the containers that verify.

    trainer's container --/run/rlvr-sandbox: Unix socket and key--> sandbox's container: no network, nothing to write

The recipe asks for it with `sandbox.backend: service`. It is sized for `slots` programs and `workers` jailed verifiers.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.config.recipe import Recipe
from rlvr.errors import ConfigError

BACKEND = "service"
FOLDER = "/run/rlvr-sandbox"
SOCKET = f"{FOLDER}/socket"
ENTRYPOINT = "start-sandbox.sh"
USER = 1000  # of docker/Dockerfile
# GiB: a program's limit with its share of temporary files; a jailed verifier, most of which is shared; the service.
_SLOT_GIB, _WORKER_GIB, _SERVICE_GIB = 1.25, 0.5, 1.0
_TMP_GIB = 0.25  # of temporary files for each program or verifier; it counts as memory
_TASKS, _SERVICE_TASKS = 96, 256  # of a program or verifier: 64, and those that watch it


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSize:
    """What one service is sized for. slots: programs at once. workers: jailed verifiers."""

    slots: int
    workers: int = 0

    @property
    def memory_gib(self) -> int:
        """Of the whole container; temporary files count."""
        return math.ceil(_SERVICE_GIB + _SLOT_GIB * self.slots + _WORKER_GIB * self.workers)

    @property
    def tmp_gib(self) -> int:
        """Of temporary files."""
        return max(1, math.ceil(_TMP_GIB * (self.slots + self.workers)))

    @property
    def pids(self) -> int:
        """Processes and threads."""
        return _SERVICE_TASKS + _TASKS * (self.slots + self.workers)


def size_for(recipe: Recipe) -> SandboxSize:
    """A slot for each verifier worker, at least two, and as many jailed verifiers."""
    workers = recipe.reward.verifier_workers
    return SandboxSize(slots=max(2, workers), workers=workers)


def socket_of(recipe: Recipe) -> str:
    """The path of the socket inside the containers; "" if the recipe uses no service."""
    return str(recipe.sandbox.settings.get("socket", SOCKET)) if recipe.sandbox.backend == BACKEND else ""


def key_file_of(recipe: Recipe) -> str:
    """The path of the service's key inside the containers; "" is `key` next to the socket.

    Raises:
        ConfigError: the key does not lie next to the socket, whose folder is all that the containers share.
    """
    key_file = str(recipe.sandbox.settings.get("key_file", ""))
    folder = os.path.dirname(socket_of(recipe))
    if folder and key_file and os.path.dirname(key_file) != folder:
        raise ConfigError(
            f"sandbox.settings.key_file: {key_file!r} is not in {folder!r}, the only folder that the service and the "
            "containers of the run share. Choose a file there, or leave the setting out: the service then makes a key"
        )
    return key_file


def container_options(size: SandboxSize, *, volume: str, runtime: str = "") -> list[str]:
    """The options of `docker run` and `podman run` for the service's container, without name, image and command.

    The image follows them, and then, if wanted, settings of the backend as KEY=VALUE.

    Args:
        volume: a named volume, or a folder of the host that belongs to user 1000 with mode 700. The trainer's
            container gets the same with `trainer_options`; no other container does.
        runtime: such as "runsc" (gVisor); "" is the engine's own.
    """
    return [
        *(["--runtime", runtime] if runtime else []),
        "--network", "none",
        "--read-only",
        "--tmpfs", f"/tmp:rw,nosuid,nodev,exec,mode=1777,size={size.tmp_gib}g",
        "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges",
        "--user", f"{USER}:{USER}",
        "--ipc", "private",
        "--memory", f"{size.memory_gib}g",
        "--memory-swap", f"{size.memory_gib}g",
        "--pids-limit", str(size.pids),
        "--cpus", str(size.slots),
        "--volume", f"{volume}:{FOLDER}",
        "--env", f"RLVR_SANDBOX_SLOTS={size.slots}",
        "--env", f"RLVR_SANDBOX_SOCKET={SOCKET}",
        "--entrypoint", ENTRYPOINT,
    ]  # fmt: skip


def trainer_options(*, volume: str) -> list[str]:
    """The option that the container of a node needs in addition."""
    return ["--volume", f"{volume}:{FOLDER}"]


def compose_service(
    size: SandboxSize, *, image: str, volume: str, socket: str = SOCKET, key_file: str = ""
) -> dict[str, Any]:
    """The service `sandbox` of a compose file."""
    return {
        "image": image,
        "entrypoint": [ENTRYPOINT],
        "command": [],
        "environment": _environment(size, socket, key_file),
        "user": f"{USER}:{USER}",
        "network_mode": "none",
        "read_only": True,
        "tmpfs": [f"/tmp:rw,nosuid,nodev,exec,mode=1777,size={size.tmp_gib}g"],
        "volumes": [f"{volume}:{os.path.dirname(socket)}"],
        "mem_limit": f"{size.memory_gib}g",
        "memswap_limit": f"{size.memory_gib}g",
        "pids_limit": size.pids,
        "cpus": size.slots,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "healthcheck": {
            "test": ["CMD", *_health_words(socket)],
            "interval": "5s",
            "timeout": "5s",
            "start_period": "60s",
            "retries": 3,
        },
        "restart": "unless-stopped",
    }


def kubernetes_container(size: SandboxSize, *, image: str, socket: str = SOCKET, key_file: str = "") -> dict[str, Any]:
    """The second container of a pod that verifies; the pod's own security context sets user and seccomp profile.

    The containers of a pod share its network; the service itself denies its processes any socket that could reach
    beyond the machine.
    """
    return {
        "name": "sandbox",
        "image": image,
        "command": [ENTRYPOINT],
        "env": [{"name": name, "value": value} for name, value in _environment(size, socket, key_file).items()],
        "resources": {
            "requests": {"cpu": str(size.slots), "memory": f"{size.memory_gib}Gi"},
            "limits": {"cpu": str(size.slots), "memory": f"{size.memory_gib}Gi"},
        },
        "volumeMounts": [
            {"name": "sandbox", "mountPath": os.path.dirname(socket)},
            {"name": "sandbox-tmp", "mountPath": "/tmp"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "readinessProbe": {"exec": {"command": _health_words(socket)}, "periodSeconds": 5, "timeoutSeconds": 5},
    }


def kubernetes_volumes(size: SandboxSize) -> list[dict[str, Any]]:
    """The volumes of that pod: the socket's, which both containers mount, and the temporary files of programs."""
    return [
        {"name": "sandbox", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "sandbox-tmp", "emptyDir": {"medium": "Memory", "sizeLimit": f"{size.tmp_gib}Gi"}},
    ]


def _health_words(socket: str) -> list[str]:
    """A command that ends with 0 if the service accepts connections; a killed service leaves its socket behind."""
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    return ["python", "-S", "-c", connect, socket]


def _environment(size: SandboxSize, socket: str, key_file: str) -> Mapping[str, str]:
    variables = {"RLVR_SANDBOX_SLOTS": str(size.slots), "RLVR_SANDBOX_SOCKET": socket}
    return variables | ({"RLVR_SANDBOX_KEY_FILE": key_file} if key_file else {})
