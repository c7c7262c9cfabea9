"""A RayJob or RayCluster for KubeRay, and the volumes that it mounts.

The operator starts Ray with its own command, makes the token's Secret and passes the token to Ray's containers; the
sandboxes start programs with an environment of their own. Values that a shell would read are in the ConfigMap's
scripts: `spec.entrypoint` passes through two shells, so it is always the same two words.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

from rlvr.deploy import sandbox_service
from rlvr.deploy.choices import Kind
from rlvr.deploy.layout import OBJECT_STORE_BYTES, VERIFIER_GIB
from rlvr.deploy.request import Request, shell_words
from rlvr.deploy.yaml_text import dollars_doubled, yaml_file
from rlvr.versions import RAY

_HOME = "/home/rlvr"
_USER = 1000  # of docker/Dockerfile
_FILES = "/etc/rlvr"
_HEAD_CPUS, _HEAD_GIB = 2, 8  # Ray's bookkeeping and the driver, which holds prompts and rollouts but no weights
_RUNS, _MODELS = "rlvr-runs", "rlvr-models"
# A GPU driver's answer and `ray health-check` take seconds on a busy node; after five minutes of silence it restarts.
_LIVENESS = {"initialDelaySeconds": 60, "periodSeconds": 30, "timeoutSeconds": 25, "failureThreshold": 10}
_READINESS = {"initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 25, "failureThreshold": 10}

_RUN = """\
#!/bin/sh
# Starts the run, or continues it after a restart.
set -eu
run_dir={run_dir}
set --
if [ -e "$run_dir/recipe.yaml" ] || {{ [ -d "$run_dir/rollouts" ] && [ -d "$run_dir/checkpoints" ]; }}; then
    set -- --resume
fi
exec {train} \\
    --run-dir "$run_dir" "$@"
"""

_DRAIN = """\
#!/bin/sh
# Runs before a container is stopped. On the head: asks a run to save, and waits until it has ended. On another node:
# waits until the head is gone, so that learner and engines are there while the run saves. Kubernetes limits the wait.
run() {
    for file in /proc/[0-9]*/cmdline; do
        if tr '\\0' ' ' <"$file" 2>/dev/null | grep -q 'rlvr[ ]train '; then
            file=${file#/proc/}
            echo "${file%/cmdline}"
        fi
    done
}
if [ "${1:-}" = head ]; then
    for pid in $(run); do kill -TERM "$pid"; done
    while [ -n "$(run)" ]; do sleep 1; done
else
    while ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do sleep 2; done
fi
"""


def kuberay_files(request: Request) -> dict[str, str]:
    """Texts by file name, the manifest first."""
    kind = request.choices.kind
    name = "rayjob.yaml" if kind is Kind.JOB else "raycluster.yaml"
    ray_object = _job(request) if kind is Kind.JOB else _cluster(request)
    manifest = yaml_file([_scripts(request), ray_object], comments=_header(request, name))
    volumes = yaml_file(
        _claims(request), comments=["Volumes of the runs: apply them once and keep them, because they hold the runs."]
    )
    return {name: manifest, "volumes.yaml": volumes}


def _header(request: Request, name: str) -> list[str]:
    choices = request.choices
    lines = [
        *request.summary(),
        "",
        f"kubectl apply -f {name}",
        f"Needs: KubeRay {'1.6' if choices.token_secret else '1.5.1'} or later; the claims {_RUNS} and {_MODELS} "
        "(rendered with --output into volumes.yaml), which all nodes mount.",
    ]
    if choices.kind is Kind.JOB:
        lines.append(
            "The image needs Ray's job server, which docker/Dockerfile leaves out: add it with `pip install "
            f"ray[default]=={RAY.locked}`, or render with --kind cluster."
        )
    else:
        lines.append(f"Start the run: kubectl exec -it HEAD_POD -- sh {_FILES}/run.sh")
    if choices.token_secret:
        lines.append(
            f"The token: kubectl create secret generic {choices.token_secret} --from-literal=auth_token="
            "$(python3 -c 'import secrets; print(secrets.token_hex(32))')"
        )
    else:
        lines.append("KubeRay creates the token and its Secret.")
    names = ", ".join(["HF_TOKEN (optional)", *request.taken_variables])
    lines.append(
        f"Variables for the run ({names}): kubectl create secret generic {request.dns_name}-env --from-env-file=FILE"
    )
    return lines


def _meta(request: Request, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "labels": {"app.kubernetes.io/name": "rlvr"}}
    if request.choices.namespace:
        found["namespace"] = request.choices.namespace
    return found


def _scripts(request: Request) -> dict[str, Any]:
    run = _RUN.format(
        run_dir=f"{_HOME}/runs/{request.dns_name}", train=shell_words(request.train_words(f"{_FILES}/recipe.yaml"))
    )
    data = {"run.sh": run, "drain.sh": _DRAIN}
    if request.embedded:
        data["recipe.yaml"] = request.embedded
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _meta(request, f"{request.dns_name}-files"),
        "data": data,
    }


def _job(request: Request) -> dict[str, Any]:
    submitter: dict[str, Any] = {
        "name": "ray-job-submitter",
        "image": request.image,
        "resources": _resources(cpus=1, memory_gib=1),
        "securityContext": _container_security(),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _meta(request, request.dns_name),
        "spec": {
            "entrypoint": f"sh {_FILES}/run.sh",
            # each attempt has a new cluster, and continues the run from its last checkpoint
            "backoffLimit": request.choices.restarts,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "submitterPodTemplate": {
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "securityContext": _pod_security(),
                    "containers": [submitter],
                }
            },
            "rayClusterSpec": _spec(request),
        },
    }


def _cluster(request: Request) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _meta(request, request.dns_name),
        "spec": _spec(request),
    }


def _spec(request: Request) -> dict[str, Any]:
    layout, choices = request.layout, request.choices
    auth: dict[str, Any] = {"mode": "token"}
    if choices.token_secret:
        auth["secretName"] = choices.token_secret
    head_params = {
        "num-cpus": "0",
        "num-gpus": "0",
        "disable-usage-stats": "true",
        "object-store-memory": str(OBJECT_STORE_BYTES),
    }
    params = {**head_params, "num-cpus": str(layout.ray_cpus), "num-gpus": str(layout.gpus_per_node)}
    return {
        "rayVersion": RAY.locked,
        "authOptions": auth,
        "headGroupSpec": {"rayStartParams": head_params, "template": _template(request, is_head=True)},
        "workerGroupSpecs": [
            {
                "groupName": "gpu" if layout.gpus_per_node else "cpu",
                "replicas": layout.nodes,
                "minReplicas": layout.nodes,
                "maxReplicas": layout.nodes,
                "rayStartParams": params,
                "template": _template(request, is_head=False),
            }
        ],
    }


def _template(request: Request, *, is_head: bool) -> dict[str, Any]:
    layout = request.layout
    shm = 2 if is_head else layout.shm_gib
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": _RUNS}},
        {"name": "models", "persistentVolumeClaim": {"claimName": _MODELS}},
        {"name": "files", "configMap": {"name": f"{request.dns_name}-files"}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "runs", "mountPath": f"{_HOME}/runs"},
        {"name": "models", "mountPath": f"{_HOME}/.cache/huggingface"},
        {"name": "files", "mountPath": _FILES, "readOnly": True},
    ]
    if is_head:
        workers = request.recipe.reward.verifier_workers  # a verifier service runs here too
        resources = _resources(cpus=_HEAD_CPUS + workers, memory_gib=math.ceil(_HEAD_GIB + workers * VERIFIER_GIB))
    else:
        resources = _resources(cpus=layout.cpus, memory_gib=layout.memory_gib, gpus=layout.gpus_per_node)
    health = {"exec": {"command": ["sh", "-c", 'RLVR_HEAD="$RAY_ADDRESS" exec healthy.sh']}}
    drain = ["sh", f"{_FILES}/drain.sh", *(["head"] if is_head else [])]
    container: dict[str, Any] = {
        "name": "ray-head" if is_head else "ray-worker",
        "image": request.image,
        "env": _variables(request, is_head=is_head),
        "resources": resources,
        "volumeMounts": mounts,
        "securityContext": _container_security(),
        "livenessProbe": {**health, **_LIVENESS},
        "readinessProbe": {**health, **_READINESS},
        "lifecycle": {"preStop": {"exec": {"command": drain}}},
    }
    containers = [container]
    if socket := sandbox_service.socket_of(request.recipe):
        size = sandbox_service.size_for(request.recipe)
        mounts.append({"name": "sandbox", "mountPath": os.path.dirname(socket)})
        volumes += sandbox_service.kubernetes_volumes(size)
        key_file = sandbox_service.key_file_of(request.recipe)
        containers.append(
            sandbox_service.kubernetes_container(size, image=request.image, socket=socket, key_file=key_file)
        )
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": request.grace_s,
            "securityContext": _pod_security(),
            "containers": containers,
            "volumes": volumes,
        }
    }


def _variables(request: Request, *, is_head: bool) -> list[dict[str, Any]]:
    """Settings on every node; on the head also those of the driver, which passes them to the run's actors."""
    # `ray job stop` waits this long for the run to save
    settings = {"HF_HOME": f"{_HOME}/.cache/huggingface", "RAY_JOB_STOP_WAIT_TIME_S": str(request.grace_s)}
    found: list[dict[str, Any]] = [
        {"name": name, "value": dollars_doubled(value)} for name, value in {**settings, **request.set_variables}.items()
    ]
    if not is_head:
        return found
    for name in request.taken_variables:
        found.append(_from_secret(request, name, is_optional=False))
    if "HF_TOKEN" not in request.recipe.cluster.env:
        found.append(_from_secret(request, "HF_TOKEN", is_optional=True))
    return found


def _from_secret(request: Request, name: str, *, is_optional: bool) -> dict[str, Any]:
    reference = {"name": f"{request.dns_name}-env", "key": name, "optional": is_optional}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _resources(*, cpus: int, memory_gib: int, gpus: int = 0) -> dict[str, Any]:
    """Requests, and limits of what cannot be shared; cores have no limit, which would only slow the node down."""
    memory = {"memory": f"{memory_gib}Gi"}
    devices: Mapping[str, str] = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {"requests": {"cpu": str(cpus), **memory, **devices}, "limits": {**memory, **devices}}


def _pod_security() -> dict[str, Any]:
    """What the namespace policy `restricted` asks for. The default seccomp profile allows Landlock's system calls."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container_security() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _claims(request: Request) -> list[dict[str, Any]]:
    """Claims that several nodes mount at once. A checkpoint has 12 bytes per parameter, and the weights once more."""
    checkpoints = (request.recipe.run.keep_checkpoints + 1) * 16 * request.size.parameters / 1e9
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _meta(request, name),
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": f"{gigabytes}Gi"}}},
        }
        for name, gigabytes in (
            (_RUNS, round(50 + checkpoints)),
            (_MODELS, round(50 + 4 * request.size.parameters / 1e9)),
        )
    ]
