"""The KubeRay manifest: the fields that its CRD requires, and what the pods may do. No Kubernetes is asked."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.deploy.choices import Kind, Target
from tests.unit.deploy.deploy_cases import (
    NASTY_LINES,
    NODE,
    QUICKSTART,
    RLVR,
    SIZE,
    VALUES,
    arguments_of,
    nasty_recipe,
    put_programs,
    rendered,
)

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(Gi)?")
_POD = {
    "automountServiceAccountToken", "enableServiceLinks", "terminationGracePeriodSeconds", "securityContext",
    "containers", "volumes", "restartPolicy",
}  # fmt: skip
_CONTAINER = {
    "name", "image", "command", "env", "resources", "volumeMounts", "securityContext", "livenessProbe",
    "readinessProbe", "lifecycle",
}  # fmt: skip


def documents(recipe: str, *overrides: str, **options: Any) -> list[dict[str, Any]]:
    files = rendered(recipe, *overrides, target=Target.KUBERAY, **options)
    return list(yaml.safe_load_all(next(iter(files.values()))))


def spec_of(ray_object: dict[str, Any]) -> dict[str, Any]:
    return ray_object["spec"].get("rayClusterSpec", ray_object["spec"])


def pods(ray_object: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod specs of the head and of each worker group."""
    spec = spec_of(ray_object)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def check_pod(pod: dict[str, Any]) -> None:
    """What Kubernetes and the namespace policy `restricted` require."""
    assert set(pod) <= _POD
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        assert set(container) <= _CONTAINER
        security = dict(container["securityContext"])
        assert security.pop("readOnlyRootFilesystem", True) is True
        assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        for amounts in container["resources"].values():
            assert all(isinstance(v, str) and _QUANTITY.fullmatch(v) for v in amounts.values())
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        for variable in container.get("env", []):
            assert ("value" in variable) != ("valueFrom" in variable)
            assert isinstance(variable.get("value", ""), str)


def check_cluster(spec: dict[str, Any]) -> None:
    """What the CRD requires of a cluster's spec."""
    assert set(spec) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert spec["authOptions"]["mode"] == "token"
    for group in spec["workerGroupSpecs"]:
        assert _LABEL.fullmatch(group["groupName"])
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check_pod(group["template"]["spec"])


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("recipe", [QUICKSTART, NODE])
def test_the_manifest_has_what_the_crd_requires(recipe: str, kind: Kind) -> None:
    options = {"is_cpu": True} if recipe == QUICKSTART else {"parameters": SIZE}
    files, ray_object = documents(recipe, kind=kind, **options)
    assert ray_object["apiVersion"] == "ray.io/v1"
    assert ray_object["kind"] == {Kind.JOB: "RayJob", Kind.CLUSTER: "RayCluster"}[kind]
    name = ray_object["metadata"]["name"]
    assert _LABEL.fullmatch(name)
    assert len(name) <= 47  # KubeRay refuses longer names of a RayJob
    check_cluster(spec_of(ray_object))
    assert files["metadata"]["name"] == f"{name}-files"
    if kind is Kind.JOB:
        check_pod(ray_object["spec"]["submitterPodTemplate"]["spec"])


def test_workers_have_the_gpus_memory_and_shared_memory_of_the_recipe() -> None:
    ray_object = documents(NODE, "cluster.engines=12", gpus="2x8x80GB", parameters=SIZE)[1]
    (group,) = spec_of(ray_object)["workerGroupSpecs"]
    assert group["replicas"] == 2
    assert group["rayStartParams"]["num-gpus"] == "8"
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "24Gi"}} in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    assert pod["terminationGracePeriodSeconds"] > 30  # run.grace_s


def test_no_secret_is_in_the_manifest_and_only_the_head_gets_those_of_the_run() -> None:
    """KubeRay adds RAY_AUTH_TOKEN to Ray's containers from the Secret; nothing here sets it."""
    override = "cluster.env.WANDB_API_KEY=null"
    ray_object = documents(QUICKSTART, override, is_cpu=True, token_secret="my-token")[1]
    assert spec_of(ray_object)["authOptions"] == {"mode": "token", "secretName": "my-token"}
    head, worker = ([v for v in pod["containers"][0]["env"] if "valueFrom" in v] for pod in pods(ray_object))
    assert worker == []
    assert [variable["name"] for variable in head] == ["WANDB_API_KEY", "HF_TOKEN"]
    assert head[0]["valueFrom"]["secretKeyRef"] == {
        "name": "quickstart-cluster-env",
        "key": "WANDB_API_KEY",
        "optional": False,
    }
    assert "RAY_AUTH_TOKEN" not in str(ray_object)


def test_values_of_variables_arrive_unchanged(tmp_path: Path) -> None:
    """Kubernetes replaces $(NAME), and $$ by $."""
    for pod in pods(documents(str(nasty_recipe(tmp_path)), is_cpu=True)[1]):
        found = {v["name"]: v["value"].replace("$$", "$") for v in pod["containers"][0]["env"] if "value" in v}
        assert {name: found[name] for name in VALUES} == VALUES
    text = next(iter(rendered(str(nasty_recipe(tmp_path)), target=Target.KUBERAY, is_cpu=True).values()))
    for ambiguous in ("1e3", "0o7", "y"):  # text for YAML 1.1, numbers or a boolean for other parsers
        assert f'value: "{ambiguous}"' in text


def started(script: str, place: Path, run_dir: Path) -> list[str]:
    """What run.sh calls rlvr with."""
    programs = put_programs(place / "bin", {"rlvr": RLVR})
    file = place / "run.sh"
    file.write_text(re.sub(r"(?m)^run_dir=.*$", f"run_dir='{run_dir}'", script))
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(place / "calls")}
    subprocess.run(["sh", str(file)], env=environment, cwd=place, check=True, timeout=30)
    assert not (place / "pwned").exists()
    return arguments_of(place / "calls")


def test_the_script_passes_overrides_unchanged_and_resumes_a_run_that_was_begun(tmp_path: Path) -> None:
    script = documents(QUICKSTART, NASTY_LINES, is_cpu=True)[0]["data"]["run.sh"]
    run_dir = tmp_path / "a run"
    found = started(script, tmp_path, run_dir)
    assert found[:3] == ["train", QUICKSTART, NASTY_LINES]
    assert found[-4:] == ["cluster.backend=ray", "cluster.address=auto", "--run-dir", str(run_dir)]
    run_dir.mkdir()
    (run_dir / "recipe.yaml").touch()
    assert started(script, tmp_path, run_dir)[-1] == "--resume"


def test_a_recipe_of_the_user_travels_in_the_manifest(tmp_path: Path) -> None:
    files, ray_object = documents(str(nasty_recipe(tmp_path)), "run.steps=3", is_cpu=True)
    assert yaml.safe_load(files["data"]["recipe.yaml"])["run"]["steps"] == 3
    assert started(files["data"]["run.sh"], tmp_path, tmp_path / "run")[:2] == ["train", "/etc/rlvr/recipe.yaml"]
    assert ray_object["spec"]["entrypoint"] == "sh /etc/rlvr/run.sh"


def test_the_head_is_stopped_only_after_the_run_has_ended(tmp_path: Path) -> None:
    """drain.sh on a process that is called like a run and needs a moment to save."""
    script = tmp_path / "drain.sh"
    # a name of its own, so that no run on this machine is signalled
    script.write_text(
        documents(QUICKSTART, is_cpu=True)[0]["data"]["drain.sh"].replace("rlvr[ ]train", "rlvr-drain[ ]test")
    )
    program = put_programs(
        tmp_path / "bin",
        {"rlvr-drain": "#!/bin/sh\ntrap 'sleep 0.3; echo saved >saved; exit 130' TERM\nwhile :; do sleep 0.1; done\n"},
    )
    run = subprocess.Popen([str(program / "rlvr-drain"), "test", "x"], cwd=tmp_path)
    subprocess.run(["sh", str(script), "head"], check=True, timeout=30)
    assert (tmp_path / "saved").exists()
    assert run.wait(timeout=10) == 130


def test_a_worker_is_stopped_only_after_the_head_is_gone(tmp_path: Path) -> None:
    ray = '#!/bin/sh\necho "$*" >>calls\n[ "$(wc -l <calls)" -lt 2 ]\n'
    programs = put_programs(tmp_path / "bin", {"ray": ray, "sleep": "#!/bin/sh\n"})
    script = documents(QUICKSTART, is_cpu=True)[0]["data"]["drain.sh"]
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "RAY_ADDRESS": "head:6379"}
    subprocess.run(["sh", "-c", script], env=environment, cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "calls").read_text().splitlines() == ["health-check --address head:6379"] * 2
