"""A compose file for one machine, with the services of docker/compose.yaml and docker/compose.gpu.yaml.

Without GPUs each engine has a node of its own; with GPUs one node has them all, and Ray assigns them.
"""

import math
import os
from typing import Any

from rlvr.deploy import sandbox_service
from rlvr.deploy.request import Request
from rlvr.deploy.yaml_text import dollars_doubled, yaml_file
from rlvr.errors import ConfigError

_HOME = "/home/rlvr"
_RECIPE = f"{_HOME}/recipe.yaml"
_SANDBOX = "sandbox"
_SECRETS = "/run/secrets"
_TOKEN = "ray_token"


def compose_files(request: Request) -> dict[str, str]:
    """The text of compose.yaml, keyed by file name. Raises ConfigError when one machine is not enough."""
    layout = request.layout
    if layout.nodes > 1:
        raise ConfigError(
            f"a compose file is for one machine, and the recipe needs {layout.nodes} nodes of {layout.gpus_per_node} "
            f"GPUs; use --target kuberay or slurm, or a machine with more GPUs, such as --gpus "
            f"1x{layout.nodes * layout.gpus_per_node}x80GB"
        )
    document: dict[str, Any] = {
        "name": f"rlvr-{request.dns_name}",
        "services": _services(request),
        "secrets": {
            _TOKEN: {"environment": "RAY_AUTH_TOKEN"},
            **{n: {"environment": n} for n in request.taken_variables},
        },
        "networks": {"cluster": {"internal": True}},
        "volumes": dict.fromkeys(_volumes(request)),
    }
    _add_sandbox(document, request)
    if request.embedded:
        document["configs"] = {"recipe": {"content": dollars_doubled(request.embedded)}}
    return {"compose.yaml": yaml_file([document], comments=_header(request))}


def _add_sandbox(document: dict[str, Any], request: Request) -> None:
    """The sandbox service, if the recipe uses it, and its socket in every container that may verify."""
    socket = sandbox_service.socket_of(request.recipe)
    if not socket:
        return
    services, size = document["services"], sandbox_service.size_for(request.recipe)
    for service in services.values():
        service["volumes"] = [*service["volumes"], f"{_SANDBOX}:{os.path.dirname(socket)}"]
    learner = services["learner"]
    learner["depends_on"] = {**learner["depends_on"], _SANDBOX: {"condition": "service_healthy"}}
    services[_SANDBOX] = sandbox_service.compose_service(
        size, image=request.image, volume=_SANDBOX, socket=socket, key_file=sandbox_service.key_file_of(request.recipe)
    )
    document["volumes"][_SANDBOX] = None


def _header(request: Request) -> list[str]:
    variables = ["RAY_AUTH_TOKEN", *request.taken_variables]
    lines = [
        *request.summary(),
        "",
        "export RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')",
        "docker compose -f compose.yaml up --exit-code-from learner",
        f"Needs: the image {request.image} (docker/README.md); in the environment: {', '.join(variables)},",
        "which compose mounts as files in the containers; no container has them in its environment.",
        "The network is internal: fill the volume `models` first (docker/README.md).",
    ]
    if request.embedded:
        lines.append("The recipe is part of this file, for which compose must be 2.23.1 or later.")
    return lines


def _volumes(request: Request) -> list[str]:
    caches = ["vllm_cache", "triton_cache"] if request.layout.gpus_per_node else []
    return ["runs", "models", *caches]


def _node(request: Request) -> dict[str, Any]:
    """What all services have."""
    has_gpus = bool(request.layout.gpus_per_node)
    places = dict(
        zip(
            ["runs", "models", "vllm_cache", "triton_cache"],
            [f"{_HOME}/runs", f"{_HOME}/.cache/huggingface", f"{_HOME}/.cache/vllm", f"{_HOME}/.triton"],
            strict=True,
        )
    )
    ulimits: dict[str, Any] = {"nofile": {"soft": 65536, "hard": 65536}}
    if has_gpus:
        ulimits |= {"memlock": {"soft": -1, "hard": -1}, "stack": 67108864}
    return {
        "image": request.image,
        "environment": {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": f"{_SECRETS}/{_TOKEN}",
            "RLVR_HEAD": "head:6379",
            **{name: dollars_doubled(value) for name, value in request.set_variables.items()},
        },
        "secrets": [_TOKEN],
        "networks": ["cluster"],
        "volumes": [f"{name}:{places[name]}" for name in _volumes(request)],
        "shm_size": f"{request.layout.shm_gib}gb",
        "ulimits": ulimits,
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_grace_period": f"{request.grace_s}s",
        "healthcheck": {
            "test": ["CMD", "healthy.sh"],
            "interval": "15s",
            "timeout": "20s",
            "start_period": "60s",
            "retries": 4,
        },
    }


def _services(request: Request) -> dict[str, Any]:
    layout, cluster = request.layout, request.recipe.cluster
    node, after_head = _node(request), {"head": {"condition": "service_healthy"}}
    environment = node["environment"]
    head = {
        **node,
        "entrypoint": ["start-head.sh"],
        "command": [],
        "environment": {**environment, "RLVR_HEAD": "127.0.0.1:6379"},
        "restart": "on-failure",
    }
    # start-learner.sh is `rlvr train` after the node has joined
    words = [dollars_doubled(word) for word in request.train_words(_RECIPE)[2:]]
    taken = request.taken_variables
    learner: dict[str, Any] = {
        **node,
        "entrypoint": ["start-learner.sh"],
        "command": words,
        "environment": {**environment, **{f"{name}_FILE": f"{_SECRETS}/{name}" for name in taken}},
        "secrets": [_TOKEN, *taken],
        "depends_on": after_head,
        "restart": "no",
    }
    if request.embedded:
        learner["configs"] = [{"source": "recipe", "target": _RECIPE}]
    engine_cpus = math.ceil(cluster.cpus_per_engine)
    if layout.gpus_per_node:
        device = {"driver": "nvidia", "count": layout.gpus_per_node, "capabilities": ["gpu"]}
        learner["environment"] |= {"RLVR_CPUS": str(layout.ray_cpus), "RLVR_GPUS": str(layout.gpus_per_node)}
        learner["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
        return {"head": head, "learner": learner}
    worker = {
        **node,
        "entrypoint": ["start-node.sh"],
        "command": [],
        "environment": {**environment, "RLVR_CPUS": str(engine_cpus)},
        "depends_on": after_head,
        "deploy": {"replicas": cluster.engines},
        "restart": "on-failure",
    }
    learner["environment"]["RLVR_CPUS"] = "1"
    return {"head": head, "worker": worker, "learner": learner}
