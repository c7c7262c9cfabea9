"""The compose file: the services of docker/compose.yaml and docker/compose.gpu.yaml, sized for the recipe."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.deploy.choices import Target
from rlvr.errors import ConfigError
from tests.unit.deploy.deploy_cases import NASTY_LINES, NODE, QUICKSTART, SIZE, VALUES, nasty_recipe, rendered

DOCKER = Path(__file__).resolve().parents[3] / "docker"


def compose(recipe: str, *overrides: str, **options: Any) -> dict[str, Any]:
    return yaml.safe_load(rendered(recipe, *overrides, target=Target.COMPOSE, **options)["compose.yaml"])


def test_services_are_guarded_like_those_of_the_repository() -> None:
    ours = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    found = compose(QUICKSTART, is_cpu=True)["services"]
    assert set(found) == set(ours)
    for name, service in found.items():
        for key in ("entrypoint", "cap_drop", "security_opt", "init", "healthcheck", "ulimits", "networks", "restart"):
            assert service[key] == ours[name][key], (name, key)
        assert set(service["volumes"]) == set(ours[name]["volumes"])
        assert service["secrets"] == ours[name]["secrets"]
        assert service["environment"].items() >= {"RAY_AUTH_TOKEN_PATH": "/run/secrets/ray_token"}.items()
        assert "RAY_AUTH_TOKEN" not in service["environment"]
        assert "ports" not in service
    assert found["worker"]["deploy"]["replicas"] == 2


def test_one_node_has_the_gpus() -> None:
    found = compose(NODE, "cluster.engines=2", parameters=SIZE)
    assert set(found["services"]) == {"head", "learner"}
    learner = found["services"]["learner"]
    (device,) = learner["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 6, "capabilities": ["gpu"]}
    gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
    assert learner["ulimits"].items() >= gpu["x-gpu-node"]["ulimits"].items()
    assert set(learner["volumes"]) > set(gpu["x-gpu-node"]["volumes"])
    assert learner["shm_size"] == "24gb"


def test_a_recipe_for_several_machines_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs 2 nodes of 8 GPUs; use --target kuberay or slurm"):
        compose(NODE, "cluster.engines=12", parameters=SIZE)


def test_values_arrive_unchanged(tmp_path: Path) -> None:
    """Compose replaces $NAME, and $$ by $."""
    found = compose(str(nasty_recipe(tmp_path)), is_cpu=True)
    environment = found["services"]["learner"]["environment"]
    assert {name: environment[name].replace("$$", "$") for name in VALUES} == VALUES
    assert environment["WANDB_API_KEY_FILE"] == "/run/secrets/WANDB_API_KEY"
    assert "WANDB_API_KEY" not in environment
    assert found["secrets"]["WANDB_API_KEY"] == {"environment": "WANDB_API_KEY"}
    assert found["services"]["learner"]["secrets"] == ["ray_token", "WANDB_API_KEY"]
    assert found["services"]["worker"]["secrets"] == ["ray_token"]
    carried = yaml.safe_load(found["configs"]["recipe"]["content"].replace("$$", "$"))
    assert {name: carried["cluster"]["env"][name] for name in VALUES} == VALUES
    words = compose(QUICKSTART, NASTY_LINES, is_cpu=True)["services"]["learner"]["command"]
    assert words[1].replace("$$", "$") == NASTY_LINES
