"""The start scripts of docker/, with a `ray` and an `rlvr` that only write down how they were called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docker"
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


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in {"ray": RAY, "rlvr": RLVR}.items():
        file = tmp_path / name
        file.write_text(text)
        file.chmod(0o755)
    return tmp_path


def start(
    place: Path, script: str, *arguments: str, **variables: str
) -> tuple[int, list[str], str]:
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
    if shutil.which("shellcheck") is None:
        pytest.skip("parsed, but shellcheck is not installed (apt install shellcheck)")
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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
        "ray start --head --block --port=6379 --num-cpus=0 --num-gpus=0 --include-dashboard=false"
        " --disable-usage-stats --object-store-memory=536870912 mode=token"
    ]


def test_a_token_never_stands_on_a_command_line(place: Path):
    for script in ("start-head.sh", "start-node.sh", "start-learner.sh"):
        _, calls, _ = start(place, script, "tiny", RAY_AUTH_TOKEN="s3cret", RLVR_HEAD="h:1")
        assert calls
        assert "s3cret" not in "\n".join(calls)


def test_a_head_can_be_given_address_port_and_memory(place: Path):
    _, calls, _ = start(
        place, "start-head.sh", RAY_AUTH_TOKEN="t", RLVR_PORT="7000", RLVR_NODE_IP="10.0.0.1",
        RLVR_OBJECT_STORE_BYTES="1000000000",
    )  # fmt: skip
    assert "--port=7000" in calls[0]
    assert "--node-ip-address=10.0.0.1" in calls[0]
    assert "--object-store-memory=1000000000" in calls[0]


def test_a_node_waits_for_the_head_and_joins_it(place: Path):
    code, calls, _ = start(
        place, "start-node.sh", RAY_AUTH_TOKEN="t", RLVR_HEAD="head:6379", RLVR_CPUS="1", HEAD_SILENT="2",
    )  # fmt: skip
    assert code == 0
    assert calls == [
        *["ray health-check --address head:6379 mode=token"] * 3,
        "ray start --block --address=head:6379 --disable-usage-stats --object-store-memory=536870912"
        " --num-cpus=1 mode=token",
    ]


def test_a_head_that_never_answers_is_named_at_the_deadline(place: Path):
    code, calls, error = start(
        place, "start-node.sh", RAY_AUTH_TOKEN="t", RLVR_HEAD="head:6379", RLVR_START_DEADLINE_S="0",
        HEAD_SILENT="1000",
    )  # fmt: skip
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
        place, "start-learner.sh", "quickstart-cluster", "cluster.engines=3", "run.steps=2",
        RAY_AUTH_TOKEN="t", RLVR_HEAD="head:6379", RLVR_CPUS="2",
    )  # fmt: skip
    assert code == 7
    assert calls[1:] == [
        "ray start --address=head:6379 --disable-usage-stats --object-store-memory=536870912 --num-cpus=2 mode=token",
        "rlvr train quickstart-cluster cluster.engines=3 run.steps=2 cluster.backend=ray cluster.address=auto",
    ]


def test_the_learner_says_how_it_is_used(place: Path):
    code, calls, error = start(place, "start-learner.sh", RAY_AUTH_TOKEN="t", RLVR_HEAD="h:1")
    assert (code, calls) == (2, [])
    assert "usage: start-learner.sh RECIPE" in error


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
    code, _, _ = start(
        place, "healthy.sh", RLVR_PROC=str(proc), RLVR_HEAD="head:6379", HEAD_SILENT="9"
    )
    assert code == 1
