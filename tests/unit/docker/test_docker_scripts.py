"""The start scripts of docker/, with a `ray` and an `rlvr` that only write down how they were called."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlvr.config.load import load_recipe
from rlvr.ports import PortLayout
from tests.shell import check_shell

FOLDER = Path(__file__).resolve().parents[3] / "docker"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
RAY = """#!/bin/sh
printf '%s\\n' "ray $* mode=${RAY_AUTH_MODE:-none}" >> "$CALLS"
[ "$1" = health-check ] || exit 0
count=$(grep -c health-check "$CALLS")
[ "$count" -gt "${HEAD_SILENT:-0}" ]
"""
RLVR = """#!/bin/sh
printf '%s\\n' "rlvr $*" >> "$CALLS"
exit 7
"""
NVIDIA_SMI = """#!/bin/sh
[ "${GPUS:-}" != lost ] || exit 9
for i in $(seq "${GPUS:-0}"); do echo "GPU $i: NVIDIA H100 (UUID: GPU-$i)"; echo "  MIG 1g.10gb Device 0: (x)"; done
"""
LAYOUT = PortLayout(6379)
PORTS = (
    f"--node-manager-port={LAYOUT.node_manager} --object-manager-port={LAYOUT.object_manager}"
    f" --dashboard-agent-listen-port={LAYOUT.agent_http} --dashboard-agent-grpc-port={LAYOUT.agent_grpc}"
    f" --runtime-env-agent-port={LAYOUT.runtime_env_agent} --metrics-export-port={LAYOUT.ray_metrics}"
    f" --ray-client-server-port={LAYOUT.ray_client} --dashboard-port={LAYOUT.dashboard}"
    f" --min-worker-port={LAYOUT.workers.start} --max-worker-port={LAYOUT.workers.stop - 1}"
)
NODE_RECIPE = "r1-zero-qwen2.5-3b-countdown-node"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in {"ray": RAY, "rlvr": RLVR}.items():
        file = tmp_path / name
        file.write_text(text)
        file.chmod(0o755)
    return tmp_path


def start(place: Path, script: str, *arguments: str, **variables: str) -> tuple[int, list[str], str]:
    """(exit code, what was called, standard error)."""
    calls = place / "calls"
    calls.unlink(missing_ok=True)
    done = subprocess.run(
        ["sh", str(FOLDER / script), *arguments],
        env={
            "PATH": f"{place}{os.pathsep}{FOLDER}{os.pathsep}{os.environ['PATH']}",
            "CALLS": str(calls),
            "RLVR_PAUSE_S": "0",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_clean_posix_shell(script: Path):
    assert script.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
    check_shell(script)


@pytest.mark.parametrize("script", ["start-head.sh", "start-node.sh", "start-learner.sh"])
def test_nothing_starts_without_a_token(place: Path, script: str):
    code, calls, error = start(place, script, "quickstart-cluster", RLVR_HEAD="head:6379")
    assert code != 0
    assert calls == []
    assert "RAY_AUTH_TOKEN" in error


def test_the_head_gives_no_cores_away_and_shows_no_dashboard(place: Path):
    code, calls, _ = start(place, "start-head.sh", RAY_AUTH_TOKEN="t")
    assert code == 0
    assert calls == [
        "ray start --head --block --port=6379 --num-cpus=0 --num-gpus=0 --include-dashboard=false --no-monitor"
        f" {PORTS} --disable-usage-stats --object-store-memory=536870912 mode=token"
    ]


@pytest.mark.parametrize("script", ["start-head.sh", "start-node.sh", "start-learner.sh"])
def test_a_file_with_the_token_is_enough_and_the_ports_follow_the_first(place: Path, script: str):
    _, calls, _ = start(place, script, "tiny", RAY_AUTH_TOKEN_PATH="/t", RLVR_HEAD="h:1", RLVR_PORT="7000")
    started = next(call for call in calls if call.startswith("ray start"))
    assert "--node-manager-port=7001 " in started
    assert "--min-worker-port=7100 --max-worker-port=8099 " in started


def test_a_head_can_be_given_cores_and_gpus(place: Path):
    _, calls, _ = start(place, "start-head.sh", RAY_AUTH_TOKEN_PATH="/t", RLVR_CPUS="8", RLVR_GPUS="2")
    assert "--num-cpus=8 --num-gpus=2 " in calls[0]


def test_a_head_that_comes_back_continues_the_submitted_runs(place: Path):
    """In the background, because the runs wait for the head; the stand-in is quick."""
    python = place / "python"
    python.write_text('#!/bin/sh\nprintf \'%s\\n\' "python $*" >> "$CALLS"\n')
    python.chmod(0o755)
    until = time.monotonic() + 10
    _, calls, _ = start(place, "start-head.sh", RAY_AUTH_TOKEN_PATH="/t", RLVR_SUBMITTED="/shared")
    while len(calls) < 2 and time.monotonic() < until:
        time.sleep(0.02)
        calls = (place / "calls").read_text().splitlines()
    assert sorted(calls)[0] == "python -m rlvr.deploy.submission.host resume /shared"


def test_a_token_never_appears_on_a_command_line(place: Path):
    for script in ("start-head.sh", "start-node.sh", "start-learner.sh"):
        _, calls, _ = start(place, script, "tiny", RAY_AUTH_TOKEN="s3cret", RLVR_HEAD="h:1")
        assert calls
        assert "s3cret" not in "\n".join(calls)


def test_a_head_can_be_given_address_port_and_memory(place: Path):
    _, calls, _ = start(
        place,
        "start-head.sh",
        RAY_AUTH_TOKEN="t",
        RLVR_PORT="7000",
        RLVR_NODE_IP="10.0.0.1",
        RLVR_OBJECT_STORE_BYTES="1000000000",
    )
    assert "--port=7000" in calls[0]
    assert "--node-ip-address=10.0.0.1" in calls[0]
    assert "--object-store-memory=1000000000" in calls[0]


def test_a_node_waits_for_the_head_and_joins_it(place: Path):
    code, calls, _ = start(
        place, "start-node.sh", RAY_AUTH_TOKEN="t", RLVR_HEAD="head:6379", RLVR_CPUS="1", HEAD_SILENT="2"
    )
    assert code == 0
    assert calls == [
        *["ray health-check --address head:6379 mode=token"] * 3,
        f"ray start --block --address=head:6379 --disable-usage-stats {PORTS} --object-store-memory=536870912"
        " --num-cpus=1 mode=token",
    ]


def test_a_head_that_never_answers_is_named_at_the_deadline(place: Path):
    code, calls, error = start(
        place, "start-node.sh", RAY_AUTH_TOKEN="t", RLVR_HEAD="head:6379", RLVR_START_DEADLINE_S="0", HEAD_SILENT="1000"
    )
    assert code == 1
    assert "no head answers at head:6379 within 0 s" in error
    assert not any("ray start" in call for call in calls)


def test_a_node_needs_to_know_its_head(place: Path):
    code, calls, error = start(place, "start-node.sh", RAY_AUTH_TOKEN="t")
    assert code != 0
    assert calls == []
    assert "RLVR_HEAD" in error


def test_the_learner_joins_as_a_node_trains_there_and_ends_as_the_training_does(place: Path):
    code, calls, _ = start(
        place,
        "start-learner.sh",
        "quickstart-cluster",
        "cluster.engines=3",
        "run.steps=2",
        RAY_AUTH_TOKEN="t",
        RLVR_HEAD="head:6379",
        RLVR_CPUS="2",
    )
    assert code == 7
    assert calls[1:] == [
        f"ray start --address=head:6379 --disable-usage-stats {PORTS} --object-store-memory=536870912"
        " --num-cpus=2 mode=token",
        "rlvr train quickstart-cluster cluster.engines=3 run.steps=2 cluster.backend=ray cluster.address=auto",
    ]


def test_the_learner_script_prints_its_usage(place: Path):
    code, calls, error = start(place, "start-learner.sh", RAY_AUTH_TOKEN="t", RLVR_HEAD="h:1")
    assert (code, calls) == (2, [])
    assert "usage: start-learner.sh RECIPE" in error


@pytest.fixture
def gpu_place(place: Path) -> Path:
    """With an `nvidia-smi` that shows $GPUS GPUs, and a Python that has rlvr."""
    for name, text in {"nvidia-smi": NVIDIA_SMI, "python3": f'#!/bin/sh\nexec {sys.executable} "$@"\n'}.items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    return place


def trained(place: Path, *arguments: str, **variables: str) -> tuple[str, list[str]]:
    """(the recipe, the overrides) that `rlvr train` was called with."""
    root = FOLDER.parent
    code, calls, error = start(
        place,
        "start-learner.sh",
        *arguments,
        RAY_AUTH_TOKEN="t",
        RLVR_HEAD="h:1",
        PYTHONPATH=os.pathsep.join(map(str, (root, root / "verifiers", root / "sandboxes"))),
        **variables,
    )
    assert code == 7, error
    _, _, recipe, *overrides = calls[-1].split()
    return recipe, overrides


def test_the_number_of_engines_can_be_given_and_the_command_line_wins(place: Path):
    recipe, overrides = trained(place, "quickstart-cluster", "cluster.engines=5", RLVR_ENGINES="3")
    assert recipe == "quickstart-cluster"
    assert load_recipe(recipe, overrides).recipe.cluster.engines == 5
    _, overrides = trained(place, recipe, RLVR_ENGINES="3")
    assert load_recipe(recipe, overrides).recipe.cluster.engines == 3


@pytest.mark.parametrize(
    ("gpus", "arguments", "expected"),
    [
        ("1", ["quickstart-cluster"],
         "cluster.engines=1 cluster.placement=colocated rollout.engine_args.gpu_memory_utilization=0.4"),
        ("2", ["quickstart-cluster"], "cluster.engines=1"),
        ("8", ["quickstart-cluster"], "cluster.engines=7"),
        ("8", ["quickstart-cluster", "rollout.engine_args.tensor_parallel_size=2"], "cluster.engines=3"),
        ("8", ["quickstart-cluster", "learner.device=cpu"], "cluster.engines=8"),
        ("8", [NODE_RECIPE], "cluster.engines=4"),
        ("6", [NODE_RECIPE], "cluster.engines=2"),
        ("8", ["r1-zero-qwen2.5-1.5b-gsm8k-colocated"], "cluster.engines=8"),
        ("1", ["quickstart-cluster", "cluster.placement=disaggregated"], "cluster.engines=1"),
        ("8", ["quickstart-cluster", "--run-dir", "cluster.engines=9"], "cluster.engines=7"),
        # nothing is added: no GPU, too many learners, engines that are given, an engine without GPUs, no such recipe
        ("0", ["quickstart-cluster"], ""),
        ("2", [NODE_RECIPE], ""),
        ("8", ["quickstart-cluster", "cluster.engines=2"], ""),
        ("8", ["tiny", "rollout.engine=toy"], ""),
        ("8", ["no-such-recipe"], ""),
    ],
)  # fmt: skip
def test_engines_are_fitted_to_the_gpus_of_the_node(gpu_place: Path, gpus: str, arguments: list[str], expected: str):
    recipe, overrides = trained(gpu_place, *arguments, RLVR_ENGINES="auto", GPUS=gpus)
    assert recipe == arguments[0]
    ends = ["cluster.backend=ray", "cluster.address=auto"]
    assert overrides == [*expected.split(), *arguments[1:], *ends]


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("name", ["quickstart-cluster", "r1-zero-qwen2.5-1.5b-gsm8k-colocated"])
def test_what_is_fitted_can_be_placed_on_the_gpus(gpu_place: Path, gpus: int, name: str):
    bundles = pytest.importorskip("rlvr.run.ray.bundles")
    _, overrides = trained(gpu_place, name, RLVR_ENGINES="auto", GPUS=str(gpus))
    recipe = load_recipe(name, overrides).recipe
    plan = bundles.plan_bundles(recipe, num_gpus=gpus)
    cluster = recipe.cluster
    node = {"CPU": 64.0, "GPU": float(gpus)}
    lack = bundles.shortage(plan, nodes=[node], engines=cluster.engines, cpus_per_engine=cluster.cpus_per_engine)
    assert lack == ""


@pytest.mark.parametrize(
    "variables", [{"RLVR_GPUS": "2"}, {"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}]
)
def test_gpus_that_were_chosen_count_and_not_all_there_are(gpu_place: Path, variables: dict[str, str]):
    _, overrides = trained(gpu_place, "quickstart-cluster", RLVR_ENGINES="auto", GPUS="8", **variables)
    assert overrides[0] == "cluster.engines=1"


def test_ray_gets_the_number_of_chosen_gpus(place: Path):
    for script in ("start-node.sh", "start-learner.sh"):
        _, calls, _ = start(place, script, "tiny", RAY_AUTH_TOKEN="t", RLVR_HEAD="h:1", RLVR_GPUS="2")
        assert any("ray start" in call and " --num-gpus=2" in call for call in calls)


def test_a_node_whose_driver_does_not_answer_is_not_healthy(gpu_place: Path):
    proc = gpu_place / "proc"
    (proc / "42").mkdir(parents=True)
    (proc / "42" / "comm").write_text("raylet\n")
    for gpus, expected in (("2", 0), ("lost", 9)):
        code, _, _ = start(gpu_place, "healthy.sh", RLVR_PROC=str(proc), RLVR_HEAD="h:1", GPUS=gpus)
        assert code == expected


def test_a_node_is_healthy_when_its_raylet_runs_and_the_head_answers(place: Path):
    proc = place / "proc"
    (proc / "41").mkdir(parents=True)
    (proc / "41" / "comm").write_text("python3\n")
    code, calls, _ = start(place, "healthy.sh", RLVR_PROC=str(proc), RLVR_HEAD="head:6379")
    assert (code, calls) == (1, [])
    (proc / "42").mkdir()
    (proc / "42" / "comm").write_text("raylet\n")
    code, calls, _ = start(place, "healthy.sh", RLVR_PROC=str(proc), RLVR_HEAD="head:6379")
    assert code == 0
    assert calls == ["ray health-check --address head:6379 mode=token"]
    code, _, _ = start(place, "healthy.sh", RLVR_PROC=str(proc), RLVR_HEAD="head:6379", HEAD_SILENT="9")
    assert code == 1
