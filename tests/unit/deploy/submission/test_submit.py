"""Submitting a run: a stand-in for ssh, this machine as the head host, and a socket as the head."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlvr.commands.cluster import hosts
from rlvr.commands.cluster.app import cluster_app
from rlvr.deploy.cluster.fleet import Fleet
from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.submission.run_folder import Phase, RunFolder
from rlvr.deploy.submission.submit import Runs, runs_of
from rlvr.errors import ClusterError, ConfigError

FAKE_SSH = """#!/bin/sh
for last; do :; done
if [ -e "$(dirname "$0")/down" ]; then echo "ssh: connect to host a port 22: No route to host" >&2; exit 255; fi
echo "$last" >>"$(dirname "$0")/log"
case "$last" in *"host follow"*) if [ -e "$(dirname "$0")/cut" ]; then echo "step 1"; exit 255; fi ;; esac
exec sh -c "$last"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(FAKE_SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    return program.parent


@pytest.fixture
def inventory(tmp_path: Path, ssh: Path) -> Iterator[Inventory]:
    """Its head accepts connections; the node manager beside it does not, so that a run waits for it."""
    (tmp_path / "shared").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as head:
        made = Inventory.model_validate(
            {
                "runtime": "host",
                "venv": str(Path(sys.executable).parents[1]),
                "shared": str(tmp_path / "shared"),
                "port": head.getsockname()[1],
                "hosts": [{"name": "a", "ssh": "ops@a", "address": "127.0.0.1"}],
            }
        )
        yield made
        for row in Runs(made).rows():
            Runs(made).stop(row["name"])


@pytest.mark.slow
def test_a_run_is_submitted_listed_followed_stopped_and_resumed(inventory: Inventory, ssh: Path, tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tiny\nname: mine\nrun: {steps: 7}\n")
    runs = Runs(inventory)
    file = tmp_path / "cluster.yaml"
    file.write_text(inventory.model_dump_json())
    words = ["submit", str(recipe), "rollout.engine=toy", "cold_start.steps=0", "--run-dir", "runs/first"]
    done = CliRunner().invoke(cluster_app, [*words, "--inventory", str(file)])
    assert (done.exit_code, done.stdout) == (0, "first\n"), done.output
    assert f"run directory  {inventory.shared}/runs/first" in done.stderr
    for action in ("follow", "stop", "resume"):
        assert f"rlvr cluster {action} first --inventory {file}" in done.stderr
    folder = RunFolder(Path(inventory.shared) / "submitted/first")
    spec = folder.spec()
    assert spec.train[0] == str(folder.recipe)  # the user's file is not on the host
    assert spec.train[-2:] == ("cluster.backend=ray", "cluster.address=auto")
    assert "engine: toy" in folder.recipe.read_text()
    assert runs_of(inventory)[0][:2] == ("first", "waiting, step 0 of 7")

    with pytest.raises(ConfigError, match="named 'first' was submitted before"):
        runs.submit("tiny", [], run_dir="runs/first")
    assert runs.stop("first")["phase"] == Phase.STOPPED
    shown: list[bytes] = []
    assert runs.follow("first", show=shown.append) == 1  # nothing was trained
    assert b"waiting for Ray's head" in b"".join(shown)
    assert runs.resume("first")["phase"] == "waiting"
    (ssh / "cut").touch()
    with pytest.raises(ClusterError, match=r"connection ended before the run did, .* code 255 and the line 'step 1'"):
        runs.follow("first", show=shown.append)
    assert [row["name"] for row in runs.suspend_all()] == ["first"]
    assert runs.rows()[0]["phase"] == Phase.SUSPENDED
    assert [row["name"] for row in runs.resume_all()] == ["first"]
    with pytest.raises(ConfigError, match=r"no submitted run 'frist'; the newest are first"):
        runs.stop("frist")


def test_what_the_head_host_lacks_is_found_before_anything_starts(inventory: Inventory):
    with pytest.raises(ConfigError, match=r"(?s)cannot start on the head host: .*nowhere\.jsonl"):
        Runs(inventory).submit("tiny", ["data.train.0.source=nowhere.jsonl"])
    with pytest.raises(
        ConfigError, match=r"cluster.env takes RLVR_TEST_ABSENT from the environment of the head's node"
    ):
        Runs(inventory).submit("tiny", ["cluster.env.RLVR_TEST_ABSENT=null"])
    (taken := Path(inventory.shared) / "runs/old").mkdir(parents=True)
    (taken / "recipe.yaml").touch()
    with pytest.raises(ConfigError, match="runs/old' holds a run already"):
        Runs(inventory).submit("tiny", [], run_dir="runs/old")
    assert Runs(inventory).rows() == []


def test_a_wrong_recipe_or_folder_reaches_no_host(inventory: Inventory, ssh: Path):
    with pytest.raises(ConfigError, match=r"learner\.lr"):
        Runs(inventory).submit("tiny", ["learner.lr=fast"])
    with pytest.raises(ConfigError, match="must be below the folder that the hosts share"):
        Runs(inventory).submit("tiny", [], run_dir="/elsewhere/run")
    assert not (ssh / "log").exists()


def test_a_cluster_that_is_not_up_and_a_host_that_is_away(inventory: Inventory, ssh: Path):
    down = inventory.model_copy(update={"port": 1})
    with pytest.raises(ClusterError, match=r"cluster is not up: .* at 127.0.0.1:1; run `rlvr cluster up`"):
        Runs(down).submit("tiny", [])
    (ssh / "down").touch()
    with pytest.raises(ClusterError, match=r"host a \(ops@a\) cannot be reached by ssh: .*No route to host"):
        Runs(inventory).submit("tiny", [])
    with pytest.raises(ClusterError, match=r"host a \(ops@a\) cannot be reached by ssh: .*No route to host"):
        Runs(inventory).follow("r", show=lambda _: None)
    (ssh / "down").unlink()
    absent = inventory.model_copy(update={"venv": "/absent"})
    with pytest.raises(ClusterError, match=r"host a .*the node of the cluster did not answer: .*/absent/bin/python"):
        Runs(absent).follow("r", show=lambda _: None)
    with pytest.raises(ConfigError, match="there is no submitted run 'r'"):
        Runs(inventory).follow("r", show=lambda _: None)


def test_a_character_that_comes_in_two_parts_is_shown_as_one(
    inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def follow(_: Runs, __: str, *, show: Callable[[bytes], object]) -> int:
        for byte in "é\n".encode():
            show(bytes([byte]))
        return 0

    monkeypatch.setattr(Runs, "follow", follow)
    (file := tmp_path / "cluster.yaml").write_text(inventory.model_dump_json())
    assert CliRunner().invoke(cluster_app, ["follow", "r", "--inventory", str(file)]).stdout == "é\n"


@pytest.mark.parametrize("words", [["submit", "tiny"], ["follow", "r"], ["stop", "r"], ["resume", "r"], ["doctor"]])
def test_a_command_without_an_inventory_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
):
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(cluster_app, words).exception
    assert str(error) == "there is no cluster.yaml here; name the inventory with --inventory FILE"


def test_nodes_start_and_stop_whatever_became_of_the_runs(monkeypatch: pytest.MonkeyPatch, inventory: Inventory):
    said: list[str] = []
    fleet = Fleet(inventory, said.append)
    row = {"exit_code": 130, "message": "", "problem": ""}
    runs = [
        {**row, "name": "a", "phase": "suspended"},
        {**row, "name": "b", "phase": "suspended", "exit_code": 1, "message": "it failed"},
        {**row, "name": "c", "phase": "running", "problem": "c has not ended"},
    ]
    monkeypatch.setattr(Runs, "suspend_all", lambda _: runs)
    hosts._suspend_runs(fleet)
    assert said[1:] == [
        "run a has saved; it continues with the next `rlvr cluster up`",
        "run b: suspended: it failed",
        "run c was not suspended: c has not ended",
    ]

    def refuse(_: Runs) -> list[dict[str, Any]]:
        raise ConfigError("the file is damaged")

    said.clear()
    monkeypatch.setattr(Runs, "resume_all", refuse)
    hosts._continue_runs(fleet)
    assert said == ["submitted runs were not continued: the file is damaged"]
