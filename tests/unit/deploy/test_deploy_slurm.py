"""The sbatch script under stand-ins for srun, scontrol, ray and rlvr, with three nodes on loopback."""

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from rlvr.deploy.choices import Target
from rlvr.errors import ConfigError
from tests.shell import check_shell
from tests.unit.deploy.deploy_cases import (
    NASTY_LINES,
    NODE,
    QUICKSTART,
    SCONTROL,
    SIZE,
    SRUN,
    arguments_of,
    nasty_recipe,
    put_programs,
    rendered,
)

RAY = """#!/bin/bash
echo "$*" >"ray.$SLURM_NODEID.calls"
stat -c %a "$RAY_AUTH_TOKEN_PATH" >token.mode
wc -c <"$RAY_AUTH_TOKEN_PATH" >token.length
echo "${RAY_AUTH_TOKEN-none}" >token.variable
if [ "$SLURM_NODEID" = "${BROKEN_NODE:-}" ]; then echo "no such device" >&2; exit 3; fi
echo "Ray runtime started."
trap 'echo ended >"ray.$SLURM_NODEID.ended"; exit 0' TERM
while :; do sleep 0.05; done
"""
RLVR = """#!/bin/bash
printf '%s\\0' "$@" >"$CALLS"
cp "$2" recipe.carried 2>/dev/null
[ -n "${ENDLESS:-}" ] || exit 0
mkdir -p "$RLVR_RUN_DIR" && touch "$RLVR_RUN_DIR/recipe.yaml"
trap 'exit 130' TERM
touch running
while :; do sleep 0.05; done
"""
THREE = ("cluster.learners=8", "cluster.engines=16")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    put_programs(tmp_path / "bin", {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "rlvr": RLVR})
    return tmp_path


def script(place: Path, recipe: str = NODE, *overrides: str, **options: object) -> Path:
    file = place / "job.sbatch"
    found = rendered(recipe, *overrides, target=Target.SLURM, **{"parameters": SIZE, **options})
    file.write_text(found["job.sbatch"], encoding="utf-8")
    return file


@contextmanager
def job(place: Path, file: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The script as Slurm starts it."""
    environment = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_SUBMIT_DIR": str(place),
        "RLVR_PAUSE_S": "0.05",
        "RLVR_RUN_DIR": str(place / "my run"),
        "CALLS": str(place / "calls"),
        "WANDB_API_KEY": "k",
        **variables,
    }
    with subprocess.Popen(
        ["bash", str(file)], env=environment, cwd=place, text=True, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def finished(place: Path, file: Path, **variables: str) -> tuple[int, str]:
    """(exit code, standard error)."""
    with job(place, file, **variables) as process:
        _, error = process.communicate(timeout=60)
        return process.returncode, error


def until_it_runs(place: Path) -> None:
    deadline = time.monotonic() + 60
    while not (place / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_run_starts_after_all_nodes_have_joined_and_everything_ends_with_it(place: Path) -> None:
    code, error = finished(place, script(place, NODE, *THREE, gpus="3x8x80GB"))
    assert code == 0, error
    assert "all nodes have joined (3)" in error
    assert "--nodes=3 --ntasks=3 --ntasks-per-node=1" in (place / "srun.calls").read_text()
    head, *others = ((place / f"ray.{rank}.calls").read_text() for rank in range(3))
    assert head.startswith("start --head --port=6379 --node-ip-address=127.0.0.1 ")
    assert all(call.startswith("start --address=127.0.0.1:6379 --block") for call in others)
    assert all("--num-gpus=8" in call and "--min-worker-port=6479" in call for call in (head, *others))
    assert arguments_of(place / "calls")[-2:] == ["--run-dir", str(place / "my run")]
    assert all((place / f"ray.{rank}.ended").exists() for rank in range(3))


def test_the_token_is_in_a_file_of_this_user_and_goes_with_the_job(place: Path) -> None:
    assert finished(place, script(place))[0] == 0
    assert (place / "token.mode").read_text() == "600\n"
    assert (place / "token.length").read_text() == "64\n"
    assert (place / "token.variable").read_text() == "none\n"
    assert stat.S_ISDIR((place / ".rlvr-slurm").stat().st_mode)
    assert list((place / ".rlvr-slurm").iterdir()) == []


def test_ahead_of_the_time_limit_the_run_saves_and_the_job_is_requeued_and_resumes(place: Path) -> None:
    file = script(place)
    assert "#SBATCH --signal=B:USR1@150\n#SBATCH --requeue\n" in file.read_text()
    with job(place, file, ENDLESS="1") as process:
        until_it_runs(place)
        process.send_signal(signal.SIGUSR1)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert (place / "scontrol.calls").read_text() == "requeue 17\n"
    assert finished(place, file, SLURM_RESTART_COUNT="1")[0] == 0
    assert arguments_of(place / "calls")[-1] == "--resume"


@pytest.mark.parametrize(("number", "restarts"), [(signal.SIGTERM, "0"), (signal.SIGUSR1, "3")])
def test_a_cancelled_job_and_one_that_used_its_restarts_save_without_a_requeue(
    place: Path, number: signal.Signals, restarts: str
) -> None:
    with job(place, script(place), ENDLESS="1", SLURM_RESTART_COUNT=restarts) as process:
        until_it_runs(place)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert not (place / "scontrol.calls").exists()
    assert ("RLVR_RUN_DIR=" in error) == (number == signal.SIGUSR1)


def test_a_node_that_does_not_join_ends_the_job_with_its_output(place: Path) -> None:
    code, error = finished(place, script(place, NODE, *THREE, gpus="3x8x80GB"), BROKEN_NODE="2")
    assert code == 1
    assert "no such device" in error
    assert "node 2 of 3 has not joined: failed" in error
    assert not (place / "calls").exists()


def test_a_missing_installation_and_a_missing_variable_are_named(place: Path) -> None:
    (place / "bin" / "rlvr").unlink()
    for name in ("bash", "mkdir", "rm", "od", "tr", "dirname", "uname", "cat", "sleep", "getent", "awk", "setsid"):
        (place / "bin" / name).symlink_to(shutil.which(name) or name)
    code, error = finished(place, script(place), PATH=str(place / "bin"))
    assert code == 2
    assert "rlvr is not on PATH; render with --venv or --container-image" in error
    file = script(place, QUICKSTART, "cluster.env.NCCL_KEY=null", is_cpu=True)
    assert "NCCL_KEY: cluster.env takes it from the environment of sbatch" in finished(place, file)[1]


def test_overrides_and_a_recipe_of_the_user_arrive_unchanged(place: Path) -> None:
    assert finished(place, script(place, NODE, NASTY_LINES))[0] == 0
    assert arguments_of(place / "calls")[:3] == ["train", NODE, NASTY_LINES]
    code, error = finished(place, script(place, str(nasty_recipe(place)), is_cpu=True))
    assert code == 0, error
    assert arguments_of(place / "calls")[1] == str(place / ".rlvr-slurm" / "17" / "recipe.yaml")
    carried = yaml.safe_load((place / "recipe.carried").read_text(encoding="utf-8"))
    original = yaml.safe_load(nasty_recipe(place).read_text(encoding="utf-8"))
    assert carried["description"] == original["description"]
    assert carried["cluster"]["env"] == original["cluster"]["env"]
    assert not (place / "pwned").exists()


def test_containers_and_environments(place: Path) -> None:
    file = script(place, container_image="registry.example/my rlvr:gpu", time="24:00:00", sbatch=("--partition=gpu",))
    assert finished(place, file)[0] == 0
    assert "--container-image=registry.example/my rlvr:gpu --container-mounts=" in (place / "srun.calls").read_text()
    assert "#SBATCH --time=24:00:00\n" in file.read_text()
    assert "#SBATCH --partition=gpu\n" in file.read_text()
    for options, problem in (
        ({"sbatch": ("--x\ntouch pwned",)}, "is not an sbatch option"),
        ({"time": "soon"}, "is not a Slurm time limit"),
        ({"venv": "/v", "container_image": "i"}, "exclude each other"),
    ):
        with pytest.raises(ConfigError, match=problem):
            script(place, **options)


def test_the_script_is_clean_for_the_shell_and_for_shellcheck(place: Path) -> None:
    file = script(place)
    assert subprocess.run(["bash", "-n", str(file)]).returncode == 0
    node = file.read_text().split("<<'END_OF_FILE'\n")[1].split("\nEND_OF_FILE\n")[0]
    assert subprocess.run(["bash", "-n"], input=node, text=True).returncode == 0
    (place / "node.sh").write_text(f"#!/bin/bash\n{node}\n")
    unreachable = "--exclude=SC2317,SC2329"  # functions that only traps call
    check_shell(file, place / "node.sh", options=[unreachable])
