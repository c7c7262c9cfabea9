"""The cluster section: addresses that cannot work, and environment variables that do not leak a secret."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.config.sections.cluster import is_secret
from rlvr.errors import ConfigError

BASE = """\
name: x
model: {tiny: {}}
data: {train: [{source: x.jsonl, verifier: text_match}]}
rollout: {engine: toy}
"""
Fault = Callable[..., str]


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fault:
    monkeypatch.chdir(tmp_path)

    def load(cluster: str, *overrides: str) -> str:
        Path("x.yaml").write_text(f"{BASE}cluster: {cluster}\n", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load_recipe("x.yaml", overrides)
        return str(caught.value)

    return load


def test_an_address_of_ray_client_is_refused_before_anything_starts(fault: Fault):
    said = fault("{backend: ray, address: 'ray://head:10001'}")
    assert said.startswith("x.yaml:5: cluster.address='ray://head:10001' is an address of Ray Client")
    assert "cluster.address=auto" in said
    assert "ray job submit" in said


@pytest.mark.parametrize(
    "variable",
    ["HF_TOKEN: hf_x", "AWS_SECRET_ACCESS_KEY: 9f3b", "MY_PASSWORD: 9f3b", "HTTPS_PROXY: 'http://me:pw@proxy:3128'"],
)
def test_a_secret_is_refused_in_a_recipe_and_its_value_is_not_repeated(fault: Fault, variable: str):
    name, value = variable.split(": ")
    said = fault(f"{{env: {{{variable}}}}}")
    assert f"cluster.env: {name} looks like a secret" in said
    assert f"cluster.env.{name}=null" in said
    assert value.strip("'") not in said


def test_a_name_may_be_left_to_the_environment_and_only_the_name_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_value")
    Path("x.yaml").write_text(f"{BASE}cluster:\n  env:\n    HF_TOKEN:\n    NCCL_NSOCKS_PERTHREAD: 4\n")
    loaded = load_recipe("x.yaml", ["cluster.env.NCCL_DEBUG=INFO", "cluster.env.HTTPS_PROXY=null"])
    assert loaded.recipe.cluster.env == {
        "HF_TOKEN": None,
        "NCCL_NSOCKS_PERTHREAD": "4",
        "NCCL_DEBUG": "INFO",
        "HTTPS_PROXY": None,
    }
    assert "hf_value" not in loaded.to_yaml()
    assert "HF_TOKEN: null" in loaded.to_yaml()
    Path("again.yaml").write_text(loaded.to_yaml(), encoding="utf-8")
    assert load_recipe("again.yaml").recipe == loaded.recipe


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CUDA_VISIBLE_DEVICES", "the placement of learner and engines decides it"),
        ("RAY_AUTH_TOKEN", "started with their own settings of Ray"),
        ("PYTHONPATH", "each node uses its own installation"),
        ("TWO WORDS", "is not the name of an environment variable"),
    ],
)
def test_variables_that_would_break_a_run_are_refused(fault: Fault, name: str, reason: str):
    assert reason in fault(f"{{env: {{{name}: x}}}}")


def test_names_that_only_resemble_a_secret_are_not_one():
    for name in ("TOKENIZERS_PARALLELISM", "NCCL_KEYWORDS", "VLLM_USE_V1", "KEYBOARD"):
        assert not is_secret(name, "1")
    assert not is_secret("HF_ENDPOINT", "https://mirror.example/a@b")
    assert is_secret("WANDB_API_KEY")
