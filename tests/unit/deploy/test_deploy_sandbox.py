"""The container of the sandbox service in the rendered files, in docker/, and as options of an engine."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.config.load import load_recipe
from rlvr.deploy.choices import Target
from rlvr.deploy.sandbox_service import (
    FOLDER,
    SOCKET,
    SandboxSize,
    compose_service,
    container_options,
    kubernetes_container,
    size_for,
    socket_of,
    trainer_options,
)
from rlvr.errors import ConfigError
from tests.unit.deploy.deploy_cases import NODE, QUICKSTART, rendered
from tests.unit.deploy.test_deploy_kuberay import check_pod, documents, pods

DOCKER = Path(__file__).resolve().parents[3] / "docker"
SERVICE = "sandbox.backend=service"


def is_closed(service: dict[str, Any]) -> bool:
    """Whether a service of a compose file has no network, no capability, no secret, and nothing to write but /tmp."""
    names = set(service["environment"])
    return (
        service["network_mode"] == "none"
        and service["read_only"]
        and service["cap_drop"] == ["ALL"]
        and service["security_opt"] == ["no-new-privileges:true"]
        and service["user"] == "1000:1000"
        and service["volumes"] == [f"sandbox:{FOLDER}"]
        and service["tmpfs"][0].startswith("/tmp:rw,nosuid,nodev,exec,")
        and {"mem_limit", "memswap_limit", "pids_limit", "cpus"} <= set(service)
        and not {"secrets", "ports", "networks", "configs", "devices", "privileged"} & set(service)
        and all(name.startswith("RLVR_SANDBOX_") for name in names)
    )


def test_compose_has_a_closed_sandbox_and_its_socket_where_verifiers_run() -> None:
    document = yaml.safe_load(rendered(QUICKSTART, SERVICE, target=Target.COMPOSE, is_cpu=True)["compose.yaml"])
    services = document["services"]
    assert is_closed(services["sandbox"])
    assert "sandbox" in document["volumes"]
    for name in ("head", "worker", "learner"):
        assert f"sandbox:{FOLDER}" in services[name]["volumes"]
    assert services["learner"]["depends_on"]["sandbox"] == {"condition": "service_healthy"}
    ours = yaml.safe_load((DOCKER / "compose.sandbox.yaml").read_text())["services"]
    assert is_closed(ours["sandbox"])
    assert {name for name, service in ours.items() if f"sandbox:{FOLDER}" in service["volumes"]} == set(services)
    assert ours["learner"]["command"][-1] == SERVICE
    assert set(ours["sandbox"]) == set(services["sandbox"])


def test_the_health_check_is_that_the_service_accepts_connections(tmp_path: Path) -> None:
    size = SandboxSize(slots=2)
    compose = compose_service(size, image="i", volume="v", socket=f"{tmp_path}/socket")["healthcheck"]["test"]
    probe = kubernetes_container(size, image="i", socket=f"{tmp_path}/socket")["readinessProbe"]
    words = probe["exec"]["command"]
    assert compose == ["CMD", *words]
    assert probe["timeoutSeconds"] == 5
    ours = yaml.safe_load((DOCKER / "compose.sandbox.yaml").read_text())["services"]["sandbox"]["healthcheck"]
    assert ours["test"] == ["CMD", *words[:-1], SOCKET]

    def is_healthy() -> bool:
        return subprocess.run([sys.executable, *words[1:]], capture_output=True, check=False).returncode == 0

    assert not is_healthy()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/socket")
        listener.listen()
        assert is_healthy()
    assert (tmp_path / "socket").is_socket()  # as a service leaves it that was killed
    assert not is_healthy()


def test_a_recipe_without_the_service_starts_no_sandbox() -> None:
    document = yaml.safe_load(rendered(QUICKSTART, target=Target.COMPOSE, is_cpu=True)["compose.yaml"])
    assert "sandbox" not in document["services"]
    assert "sandbox" not in document["volumes"]


def test_pods_that_verify_have_a_closed_second_container_without_secrets_of_the_run() -> None:
    ray_object = documents(NODE, SERVICE, gpus="1x8x80GB")[-1]
    for pod in pods(ray_object)[:2]:
        check_pod(pod)
    spec = ray_object["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for template in (group["template"]["spec"] for group in groups):
        ray, sandbox = template["containers"]
        assert ray["name"].startswith("ray-")
        assert {"name": "sandbox", "mountPath": FOLDER} in ray["volumeMounts"]
        security = sandbox["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in sandbox["volumeMounts"]} == {"sandbox", "sandbox-tmp"}
        assert all("valueFrom" not in variable for variable in sandbox["env"])
        assert set(sandbox["resources"]["limits"]) == {"cpu", "memory"}
        assert not template["automountServiceAccountToken"]
        mounted = {volume["name"]: volume for volume in template["volumes"]}
        assert "emptyDir" in mounted["sandbox"]
        assert "emptyDir" in mounted["sandbox-tmp"]


def test_the_options_of_an_engine_are_those_of_the_compose_file() -> None:
    words = container_options(SandboxSize(slots=2, workers=2), volume="box", runtime="runsc")
    options = dict(zip(words[::2], words[1::2], strict=False))
    assert options["--runtime"] == "runsc"
    assert "--read-only" in words
    flat = " ".join(words)
    for part in ("--network none", "--cap-drop ALL", "--security-opt no-new-privileges", "--user 1000:1000",
                 "--memory 5g --memory-swap 5g", "--pids-limit 640", "--cpus 2", f"--volume box:{FOLDER}",
                 "size=1g", "--entrypoint start-sandbox.sh"):  # fmt: skip
        assert part in flat
    assert trainer_options(volume="box") == ["--volume", f"box:{FOLDER}"]
    ours = yaml.safe_load((DOCKER / "compose.sandbox.yaml").read_text())["services"]["sandbox"]
    assert (ours["pids_limit"], ours["cpus"]) == (640, 2)
    assert ours["mem_limit"].endswith(":-5g}")


def test_the_socket_and_the_size_come_from_the_recipe() -> None:
    recipe = load_recipe(QUICKSTART, [SERVICE]).recipe
    assert socket_of(recipe) == SOCKET
    assert size_for(recipe).slots == max(2, recipe.reward.verifier_workers)
    assert socket_of(load_recipe(QUICKSTART).recipe) == ""
    moved = (SERVICE, "sandbox.settings.socket=/srv/box/s")
    assert socket_of(load_recipe(QUICKSTART, moved).recipe) == "/srv/box/s"
    files = rendered(QUICKSTART, *moved, target=Target.COMPOSE, is_cpu=True)
    services = yaml.safe_load(files["compose.yaml"])["services"]
    assert services["sandbox"]["environment"]["RLVR_SANDBOX_SOCKET"] == "/srv/box/s"
    assert all("sandbox:/srv/box" in service["volumes"] for service in services.values())
    (pod, *_) = pods(documents(NODE, *moved, gpus="1x8x80GB")[-1])
    for container in pod["containers"]:
        assert {"name": "sandbox", "mountPath": "/srv/box"} in container["volumeMounts"]
    assert {"name": "RLVR_SANDBOX_SOCKET", "value": "/srv/box/s"} in pod["containers"][1]["env"]


@pytest.mark.parametrize("target", [Target.COMPOSE, Target.KUBERAY])
def test_the_service_makes_the_key_where_the_recipe_reads_it(target: Target) -> None:
    def environment(*overrides: str) -> dict[str, str]:
        options = (SERVICE, *overrides)
        if target is Target.COMPOSE:
            files = rendered(QUICKSTART, *options, target=target, is_cpu=True)
            return yaml.safe_load(files["compose.yaml"])["services"]["sandbox"]["environment"]
        (pod, *_) = pods(documents(QUICKSTART, *options, is_cpu=True)[-1])
        return {variable["name"]: variable["value"] for variable in pod["containers"][1]["env"]}

    named = f"sandbox.settings.key_file={FOLDER}/secret"
    assert environment(named)["RLVR_SANDBOX_KEY_FILE"] == f"{FOLDER}/secret"
    assert "RLVR_SANDBOX_KEY_FILE" not in environment()
    with pytest.raises(ConfigError, match="is not in '/run/rlvr-sandbox'"):
        environment("sandbox.settings.key_file=/etc/secret")
