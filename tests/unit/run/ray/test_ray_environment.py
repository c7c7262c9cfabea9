"""Which environment variables the workers get, which of them Ray may see, and how a submitted job's are merged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
from ray import cloudpickle
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.runtime_env.runtime_env import _merge_runtime_env

from rlvr.config.sections.cluster import ClusterConfig
from rlvr.errors import ConfigError
from rlvr.run.ray import environment
from rlvr.run.ray.environment import as_driver_of_job, outside_of_job, private_variables, runtime_env, setup_hook


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HOME", "HTTPS_PROXY", "https_proxy", "MY_TOKEN", RAY_JOB_CONFIG_JSON_ENV_VAR):
        monkeypatch.delenv(name, raising=False)


def submitted(monkeypatch: pytest.MonkeyPatch, job: dict[str, object]) -> dict[str, object]:
    """Imitates the process of a submitted job: its variables are set here, and Ray's names its environment."""
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps({"runtime_env": job, "metadata": {}}))
    for name, value in job.get("env_vars", {}).items():  # type: ignore[attr-defined] # a mapping
        monkeypatch.setenv(name, value)
    return job


def test_a_job_with_variables_packages_and_a_folder_is_merged_with_the_runs_environment(
    monkeypatch: pytest.MonkeyPatch,
):
    variables = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "/job", "MINE": "yes"}
    job = submitted(monkeypatch, {"env_vars": variables, "working_dir": "gcs://x.zip", "pip": ["tabulate"]})
    ours = {"env_vars": runtime_env(ClusterConfig())["env_vars"]}
    assert _merge_runtime_env(job, ours) is None  # what Ray does by itself: it refuses  # type: ignore[arg-type]
    with as_driver_of_job():
        override = os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] == "1"
    merged = _merge_runtime_env(job, ours, override=override)  # type: ignore[arg-type] # mappings will do
    assert merged is not None
    assert (merged["working_dir"], merged["pip"]) == ("gcs://x.zip", ["tabulate"])
    assert merged["env_vars"]["MINE"] == "yes"
    assert merged["env_vars"]["HF_HUB_OFFLINE"] == "1"
    assert merged["env_vars"]["PYTHONPATH"].split(os.pathsep)[-1] == "/job"
    assert "RAY_OVERRIDE_JOB_RUNTIME_ENV" not in os.environ


def test_a_job_with_a_setup_hook_is_refused_because_the_run_has_one(monkeypatch: pytest.MonkeyPatch):
    submitted(monkeypatch, {"worker_process_setup_hook": "my.hook"})
    with (
        pytest.raises(ConfigError, match=r"submitted with worker_process_setup_hook.*cluster\.env"),
        as_driver_of_job(),
    ):
        pass


def test_a_private_ray_inside_a_job_does_not_get_the_jobs_files(monkeypatch: pytest.MonkeyPatch):
    submitted(monkeypatch, {"working_dir": "gcs://x.zip"})
    with outside_of_job():
        assert RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ
    assert RAY_JOB_CONFIG_JSON_ENV_VAR in os.environ


def test_what_may_be_private_is_not_in_the_environment_that_ray_shows_and_logs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret1")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret2@proxy:3128")
    monkeypatch.setenv("MY_TOKEN", "secret3")
    config = ClusterConfig(env={"MY_TOKEN": None, "NCCL_DEBUG": "INFO", "HF_TOKEN": None})
    assert private_variables(config) == {
        "HF_TOKEN": "hf_secret1",
        "HTTPS_PROXY": "http://me:secret2@proxy:3128",
        "MY_TOKEN": "secret3",
        "NCCL_DEBUG": "INFO",
        **{k: v for k, v in os.environ.items() if k in ("HTTP_PROXY", "NO_PROXY", "http_proxy", "no_proxy")},
        **{k: v for k, v in os.environ.items() if k == "HF_ENDPOINT"},
    }
    shown = runtime_env(config)["env_vars"]
    assert not [value for value in shown.values() if "secret" in value]
    assert not {"HF_TOKEN", "MY_TOKEN", "HTTPS_PROXY"} & set(shown)


def test_a_secret_may_be_in_a_file_and_in_no_variable_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "key").write_text("secret4\n")
    (tmp_path / "hub").write_text("hf_secret5\n")
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "hub"))
    found = private_variables(ClusterConfig(env={"WANDB_API_KEY": None}))
    assert (found["WANDB_API_KEY"], found["HF_TOKEN"]) == ("secret4", "hf_secret5")
    monkeypatch.setenv("WANDB_API_KEY", "from the variable")
    assert private_variables(ClusterConfig(env={"WANDB_API_KEY": None}))["WANDB_API_KEY"] == "from the variable"


def test_a_secret_file_that_cannot_be_read_is_refused_unless_it_is_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "HF_TOKEN" not in private_variables(ClusterConfig())
    with pytest.raises(ConfigError, match=r"HF_TOKEN_PATH=.*none: the value of HF_TOKEN cannot be read"):
        private_variables(ClusterConfig(env={"HF_TOKEN": None}))


def test_a_value_of_the_recipe_replaces_what_is_set_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    config = ClusterConfig(env={"HF_ENDPOINT": "https://mirror.example"})
    assert private_variables(config)["HF_ENDPOINT"] == "https://mirror.example"


def test_a_variable_that_is_left_to_this_process_and_not_set_here_is_refused_by_name():
    message = (
        r"cluster\.env takes MY_TOKEN from .*it is not set; export it, or name a file with the value in MY_TOKEN_FILE"
    )
    with pytest.raises(ConfigError, match=message):
        runtime_env(ClusterConfig(env={"MY_TOKEN": None, "NCCL_DEBUG": "INFO"}))


def test_the_hook_sets_variables_in_a_process_that_cannot_import_rlvr(tmp_path: Path):
    here, elsewhere = tmp_path / "cache", tmp_path / "not-on-this-node"
    here.mkdir()
    hook = setup_hook({"MY_TOKEN": "s", "A": "1"}, {"HF_HOME": str(elsewhere), "HF_HUB_CACHE": str(here), "A": "2"})
    (tmp_path / "hook").write_bytes(cloudpickle.dumps(hook))  # type: ignore[reportPrivateImportUsage] # as Ray does
    program = (
        "import os, pickle, sys; sys.modules['rlvr'] = None\n"
        "pickle.load(open('hook', 'rb'))()\n"
        "print(*(os.environ[name] for name in ('MY_TOKEN', 'A', 'HF_HOME', 'HF_HUB_CACHE')))"
    )
    own = {"HF_HOME": "/of/this/node", "HF_HUB_CACHE": "/of/this/node"}
    environ = {"PATH": os.environ["PATH"], **own}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["s", "1", "/of/this/node", str(here)]


def test_a_node_without_a_cache_of_its_own_uses_the_drivers_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", "")  # restored after the test
    del os.environ["HF_HOME"]
    setup_hook({}, {"HF_HOME": "/not/yet/there"})()
    assert os.environ["HF_HOME"] == "/not/yet/there"


def test_a_process_that_is_no_job_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_OVERRIDE_JOB_RUNTIME_ENV", raising=False)
    assert environment.submitted_job() == {}
    with as_driver_of_job():
        assert "RAY_OVERRIDE_JOB_RUNTIME_ENV" not in os.environ
