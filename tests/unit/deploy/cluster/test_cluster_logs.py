"""`rlvr cluster logs` over hosts, with a stand-in for ssh that runs the remote command here, as another host."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlvr.cli import app
from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.cluster.logs import ClusterLogs
from rlvr.deploy.cluster.node_commands import FOLDERS
from rlvr.errors import ClusterError, ConfigError
from rlvr.telemetry.log_query import LogQuery

# A host has a state folder of its own; `gone` cannot be reached.
FAKE_SSH = """#!/bin/sh
for last; do :; done
for word; do case "$word" in ops@*) host=${word#*@} ;; esac; done
if [ "$host" = gone ]; then echo "ssh: connect to host gone: No route to host" >&2; exit 255; fi
export RLVR_STATE_DIR="$FAKE_STATE/$host" RAY_TMPDIR="$FAKE_STATE/$host"
exec sh -c "$last"
"""


def record(second: int, role: str, **fields: Any) -> str:
    base = {"time": f"2026-12-01T00:00:{second:02d}.000Z", "level": "INFO", "role": role, "message": f"m{second}"}
    return json.dumps({**base, "step": None, **fields}) + "\n"


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inventory:
    """Hosts a and b, and a run whose directory only a sees."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(FAKE_SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    run = tmp_path / "shared/runs/r"
    (run / "logs").mkdir(parents=True)
    (run / "logs/run.json").write_text('{"run_id": "i1"}')
    (run / "logs/driver.a-1.jsonl").write_text(record(1, "driver", host="a", node="10.0.0.1"))
    event = {"time": "2026-12-01T00:00:04Z", "kind": "engine_lost", "engine": "engine-1", "reason": "exit code 9: boom",
             "place": "node 10.0.0.2, process 3"}  # fmt: skip
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    own = tmp_path / "state/b/logs/r-i1"
    own.mkdir(parents=True)
    (own / "engine-1.b-3.jsonl").write_text(record(2, "engine-1", host="b", node="10.0.0.2"))
    hosts = [{"name": name, "ssh": f"ops@{name}", "address": f"10.0.0.{n}"} for n, name in enumerate("ab", 1)]
    return Inventory.model_validate(
        {"runtime": "host", "venv": sys.prefix, "shared": str(tmp_path / "shared"), "hosts": hosts}
    )


def test_records_of_all_hosts_are_merged_with_the_loss_of_the_actor(inventory: Inventory) -> None:
    logs = ClusterLogs(inventory)
    run = logs.run_dir("")
    assert run == f"{inventory.shared}/runs/r"
    assert [row["message"] for row in logs.read(run, LogQuery()).records] == ["m1", "m2"]
    assert {row["message"] for row in logs.read(run, LogQuery(last=1)).records} == {"m1", "m2"}  # one of each host
    found = logs.read(run, LogQuery(actor="engine-1"))
    assert [row["message"] for row in found.records] == [
        "m2", "engine-1: lost (node 10.0.0.2, process 3): exit code 9: boom",
    ]  # fmt: skip
    assert found.actors == {"driver": "", "engine-1": "lost at 2026-12-01T00:00:04.000Z"}
    assert found.problems == []


def test_a_host_that_is_down_is_named_and_hides_nothing(inventory: Inventory) -> None:
    values = inventory.model_dump()
    values["hosts"] = [*values["hosts"], {"name": "c", "ssh": "ops@gone", "address": "10.0.0.3"}]
    found = ClusterLogs(Inventory.model_validate(values)).read(f"{inventory.shared}/runs/r", LogQuery())
    assert [row["message"] for row in found.records] == ["m1", "m2"]
    (problem,) = found.problems
    assert "host c (ops@gone) cannot be reached by ssh" in problem


def test_the_command_shows_a_host_and_lists_the_actors_of_a_wrong_name(
    inventory: Inventory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hosts.yaml"
    file.write_text(json.dumps(inventory.model_dump(mode="json")))
    app(["cluster", "logs", "r", "--host", "b", "--inventory", str(file)], standalone_mode=False)
    assert capsys.readouterr().out == "2026-12-01T00:00:02.000Z INFO    engine-1@b: m2\n"
    with pytest.raises(ConfigError, match=r"which has driver, engine-1 \(lost at .*\); did you mean engine-1\?"):
        app(["cluster", "logs", "--actor", "engine-7", "--inventory", str(file)], standalone_mode=False)


def test_the_head_shows_the_output_of_ray(inventory: Inventory) -> None:
    own = inventory.model_copy(update={"name": f"r{secrets.token_hex(4)}"})
    place = subprocess.run(
        ["sh", "-c", f'{FOLDERS}\nprintf %s "$place"', "sh", own.name, "a"], capture_output=True, text=True, check=True
    ).stdout
    ray = Path(place) / "ray/session_latest/logs"
    ray.mkdir(parents=True)
    try:
        (ray / "gcs_server.out").write_text("first\nof the head\n")
        shown = list(ClusterLogs(own).node_output([own.head], num_lines=1, since=""))
    finally:
        shutil.rmtree(place)
    assert shown[0] == "host a (ops@a):"
    assert "  of the head" in shown
    assert "  first" not in shown


def test_the_newest_run_is_found_in_a_shared_folder_with_a_space(inventory: Inventory, tmp_path: Path) -> None:
    shared = (tmp_path / "shared").rename(tmp_path / "a shared  folder")
    logs = ClusterLogs(inventory.model_copy(update={"shared": str(shared)}))
    assert logs.run_dir("") == f"{shared}/runs/r"


def test_a_node_that_was_never_started_is_an_error_in_plain_words(inventory: Inventory) -> None:
    own = inventory.model_copy(update={"name": f"r{secrets.token_hex(4)}"})
    with pytest.raises(ClusterError, match=r"^host a \(ops@a\): Ray has not run there; `rlvr cluster up` starts it$"):
        list(ClusterLogs(own).node_output([own.head], num_lines=1, since=""))


def test_the_output_of_nodes_is_an_error_only_if_no_host_has_any(inventory: Inventory, tmp_path: Path) -> None:
    """Docker's stand-in knows a container of host a alone."""
    docker = tmp_path / "bin/docker"
    docker.write_text(
        '#!/bin/sh\ncase "$*" in *rlvr-a*) echo "output of $1" ;;'
        ' *) echo "Error response from daemon: No such container: x" >&2; exit 1 ;; esac\n'
    )
    docker.chmod(0o755)
    values = inventory.model_dump() | {"runtime": "docker", "image": "i"}
    values["hosts"] = [*values["hosts"], {"name": "c", "ssh": "ops@gone", "address": "10.0.0.3"}]
    own = Inventory.model_validate(values)
    logs = ClusterLogs(own)
    assert list(logs.node_output(own.hosts, num_lines=1, since="")) == [
        *["host a (ops@a):", "  output of logs", "  output of exec"],
        "host b (ops@b): Ray has not run there; `rlvr cluster up` starts it",
        "host c (ops@gone) cannot be reached by ssh: ssh: connect to host gone: No route to host",
    ]
    with pytest.raises(ClusterError, match=r"^host b .*\nhost c .*No route to host$"):
        list(logs.node_output(own.hosts[1:], num_lines=1, since=""))


def test_without_a_run_the_command_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^there is no run in runs/latest, and no cluster\.yaml here; name a run dir"
    ):
        app(["cluster", "logs"], standalone_mode=False)
    with pytest.raises(ConfigError, match=rf"^there is no run in {tmp_path}/none; name a run directory"):
        app(["cluster", "logs", "none"], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


def readers_of(folder: str) -> list[int]:
    found: list[int] = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "rlvr.telemetry.log_reader" in words and any(folder in word for word in words):
            found.append(process.pid)
    return found


def test_records_are_followed_on_all_hosts_and_the_readers_end_with_the_command(inventory: Inventory) -> None:
    logs = ClusterLogs(inventory)
    found = logs.follow(f"{inventory.shared}/runs/r", LogQuery(), run_id="i1")
    assert {next(found)["message"], next(found)["message"]} == {"m1", "m2"}
    found.close()  # type: ignore[attr-defined] # a generator
    until = time.monotonic() + 30
    while readers_of(inventory.shared):
        assert time.monotonic() < until, "a reader on a host outlives the command"
        time.sleep(0.2)
