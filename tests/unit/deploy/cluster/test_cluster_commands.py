"""What the commands of `rlvr cluster` refuse before they contact a host, and one machine without an inventory."""

import json
from pathlib import Path

import pytest
from typer import Exit

from rlvr.cli import app
from rlvr.commands.cluster.hosts import cluster_status
from rlvr.deploy.cluster import one_machine
from rlvr.deploy.cluster.fleet import Fleet
from rlvr.errors import ClusterError, ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a state folder and stand-ins for no program."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_docker(folder: Path) -> None:
    stub = folder / "bin/docker"
    stub.write_text(f'#!/bin/sh\necho "$*" "${{#RAY_AUTH_TOKEN}}" >>{folder}/calls\n')
    stub.chmod(0o755)


def cluster(*words: str) -> None:
    app(["cluster", *words], standalone_mode=False)


@pytest.fixture
def inventory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of an inventory with one host, which must not be contacted."""
    hosts = [{"name": "a", "address": "10.9.0.1"}]
    (folder / "c1.yaml").write_text(json.dumps({"image": "rlvr:gpu", "shared": "/shared", "hosts": hosts}))

    def never(self: Fleet, *_: object, **__: object) -> None:
        raise AssertionError("a host was contacted")

    for name in ("up", "restart", "members"):
        monkeypatch.setattr(Fleet, name, never)
    return "c1.yaml"


def test_up_with_an_inventory_takes_no_recipe(inventory: str) -> None:
    with pytest.raises(
        ConfigError, match=r"takes no recipe; .*`rlvr cluster submit tiny run.steps=3 --inventory c1.yaml`"
    ):
        cluster("up", "tiny", "run.steps=3", "--inventory", inventory)


def test_a_firewall_rule_that_cannot_be_written_stops_up_before_it_starts(inventory: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--output '.*/none/fw.nft' cannot be written: No such file or directory$"):
        cluster("up", "--output", str(folder / "none/fw.nft"), "--inventory", inventory)


def test_a_wrong_host_is_refused_before_a_hint_about_it(inventory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="'zz' is not a host of the inventory"):
        cluster("add", "zz", "--inventory", inventory)
    assert capsys.readouterr().err == ""


def test_a_restart_of_the_head_alone_must_name_it(inventory: str) -> None:
    with pytest.raises(ConfigError, match=r"only the head, a, is in the inventory; name it to restart it"):
        cluster("restart", "--inventory", inventory)


@pytest.mark.parametrize(("status", "asks"), [("running", True), ("exited", False)])
def test_status_asks_only_a_running_head_for_runs(
    status: str, asks: bool, folder: Path, inventory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = folder / "bin/docker"
    stub.write_text(
        f'#!/bin/sh\necho "$*" >>{folder}/calls\ncase "$*" in *Status*) echo {status} ;; *exec*) exit 1 ;; esac\n'
    )
    stub.chmod(0o755)
    monkeypatch.setattr(Fleet, "members", lambda self: [])
    with pytest.raises(Exit):
        cluster_status(Path(inventory))
    assert ("rlvr.deploy.submission.host list" in (folder / "calls").read_text()) is asks


@pytest.mark.parametrize("command", ["status", "down"])
def test_a_folder_without_an_inventory_is_named_when_nothing_was_started_here(command: str, folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^there is no cluster\.yaml here; name the inventory with --inventory FILE$"
    ):
        cluster(command)
    assert not (folder / "state").exists()


def test_a_wrong_recipe_is_named_before_a_missing_program(folder: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        cluster("up", "nosuch")


@pytest.mark.parametrize("option", [("--firewall", "nft"), ("--output", "x")])
def test_one_machine_has_no_firewall_rule(option: tuple[str, str], folder: Path) -> None:
    with pytest.raises(ConfigError, match="--firewall and --output need an inventory"):
        cluster("up", "tiny", "cluster.backend=ray", *option)


def test_containers_of_another_recipe_are_not_forgotten(folder: Path) -> None:
    with_docker(folder)
    one_machine.up("tiny", ["cluster.backend=ray"])
    one_machine.up("tiny", ["cluster.backend=ray", "run.steps=3"])
    file = folder / "state/clusters/this-machine/compose.yaml"
    before = file.read_text()
    with pytest.raises(
        ConfigError, match=r"^containers of rlvr-tiny were started on this machine; run `rlvr cluster down`"
    ):
        one_machine.up("tiny-async", ["cluster.backend=ray"])
    assert file.read_text() == before
    cluster("down")
    one_machine.up("tiny-async", ["cluster.backend=ray"])


def test_a_compose_file_that_cannot_be_written_is_an_error(folder: Path) -> None:
    with_docker(folder)
    (folder / "state/clusters/this-machine/compose.yaml").mkdir(parents=True)
    with pytest.raises(ClusterError, match=r"compose\.yaml cannot be written: Is a directory"):
        one_machine.up("tiny", ["cluster.backend=ray"])
