"""The rules of `rlvr cluster doctor` that namespaces cannot show, and what a recipe needs."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from rlvr.commands.cluster.app import cluster_app
from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.doctor.between import Answers, Clock, cluster_findings
from rlvr.deploy.doctor.machine import Needs, host_findings
from rlvr.deploy.doctor.needs import needs_of

INVENTORY = Inventory.model_validate(
    {
        "image": "rlvr:gpu",
        "shared": "/shared",
        "hosts": [{"name": "a", "address": "10.0.0.1"}, {"name": "b", "ssh": "b", "address": "10.0.0.2"}],
    }
)
GIB = 1 << 30
GPU = {"name": "H100", "memory": "81559", "driver": "550.1"}


def facts(**changes: Any) -> dict[str, Any]:
    folder = {"path": "/x", "size": 1000 * GIB, "free": 500 * GIB, "problem": ""}
    sound = {
        "fingerprint": {"python": "3.11.2", "torch": "2.13.0"},
        "gpus": [GPU],
        "torch_cuda": "12.8",
        "addresses": {"lo": ["127.0.0.1"], "eth0": ["192.168.0.1"], "eth1": ["10.0.0.1", "10.0.0.2"]},
        "has_address": True,
        "limits": {"nofile": 65536, "memlock": -1},
        "has_infiniband": False,
        "env": {},
        "shm": {**folder, "size": 64 * GIB},
        "tmp": folder,
        "shared": {**folder, "user": 1000},
        "hub": {**folder, "is_writable": True, "has_model": None},
    }
    return {**sound, **changes}


def between(answers: Answers) -> list[tuple[str, str]]:
    return [(f.host, f.what) for f in cluster_findings(answers, inventory=INVENTORY, needs=Needs())]


def alone(**changes: Any) -> list[tuple[str, str]]:
    found = host_findings(INVENTORY.head, facts(**changes), inventory=INVENTORY, needs=Needs())
    return [(finding.what, finding.fix) for finding in found]


def test_sound_hosts_have_no_findings():
    assert alone() == []
    assert between(Answers(facts={"a": facts(), "b": facts()}, images={"a": "1", "b": "1"})) == []


def test_a_recipe_decides_how_much_shared_memory_and_which_model_are_needed():
    needs = needs_of("r1-zero-qwen2.5-3b-countdown-node", ["cluster.env.NCCL_SOCKET_IFNAME=eth0"])
    on_gpus = needs.for_devices(has_gpus=True)
    assert on_gpus.gpus == 8
    assert on_gpus.model == "Qwen/Qwen2.5-3B"
    assert on_gpus.shm >= 24 * GIB
    assert needs.disk > 3 * 12 * 10**9
    small = facts(shm={"path": "/dev/shm", "size": 16 * GIB, "free": 0, "problem": ""})
    (finding, other) = host_findings(INVENTORY.head, small, inventory=INVENTORY, needs=on_gpus)
    assert "/dev/shm has 16.0 GiB, and the recipe's weights need" in finding.what
    assert f"set `shm: {on_gpus.shm // GIB}g` in the inventory" in finding.fix
    assert other.what == "NCCL_SOCKET_IFNAME=eth0 means eth0, which does not have 10.0.0.1"
    assert "NCCL_SOCKET_IFNAME=eth1" in other.fix


def test_a_folder_of_another_user_is_named_with_the_user_of_the_node():
    (found,) = alone(shared={**facts()["shared"], "problem": "Permission denied"})
    assert found == (
        "the shared folder /shared cannot be written by user 1000: Permission denied",
        "mount it there, and run `chown 1000 /shared` where it is served",
    )


def test_other_versions_are_compared_with_the_head():
    other = facts(fingerprint={"python": "3.12.1", "torch": "2.13.0"})
    assert between(Answers(facts={"a": facts(), "b": other})) == [("b", "python is 3.12.1, a has 3.11.2")]


def test_another_kind_of_gpu_is_found():
    answers = Answers(facts={"a": facts(), "b": facts(gpus=[{**GPU, "name": "A100"}])})
    assert between(answers) == [("b", "the GPU is A100, most hosts have H100")]


def test_a_clock_is_compared_within_the_error_of_the_measurement():
    """2 s are allowed, and half of each round trip: 0.3 + 0.1 s."""
    sound = Answers(clocks={"a": Clock(100.0, 0.1), "b": Clock(102.3, 0.3)})
    off = Answers(clocks={"a": Clock(100.0, 0.1), "b": Clock(102.5, 0.3)})
    assert between(sound) == []
    ((host, what),) = between(off)
    assert (host, what) == ("b", "its clock is 2.5 s ahead of that of a (measured to 0.40 s, allowed 2 s)")


def test_locks_that_do_not_hold_between_hosts_are_found():
    answers = Answers(facts={"a": facts(), "b": facts()}, reached={"b": {"ports": [], "unseen": [], "unlocked": ["a"]}})
    assert between(answers) == [("b", "locks that a holds in /shared do not hold here")]


def test_ports_in_use_belong_to_the_cluster_where_its_nodes_run():
    ray = [6379, 6380, 6381]
    up = {"a": {"busy": ray, "open": [6382], "lock": ""}, "b": {"busy": ray[1:], "open": [6382], "lock": ""}}
    assert between(Answers(served=up)) == []
    alone_up = {**up, "b": {"busy": [], "open": ray[1:], "lock": ""}}
    assert between(Answers(served=alone_up)) == [("b", "the cluster is up, but has no node here")]
    blocked = {"a": {"ports": [("b", 6380, "no answer"), ("b", 7000, "no answer")], "unseen": [], "unlocked": []}}
    assert between(Answers(served=up, reached=blocked)) == [
        ("a", "it cannot reach b (10.0.0.2) on port 6380: no answer")  # 7000 could not be listened on
    ]


def test_a_host_without_the_container_engine_or_the_image_is_found():
    answers = Answers(engines={"a": "27.0", "b": "27.0"}, images={"a": "sha256:1", "b": ""})
    assert between(answers) == [("b", "there is no image rlvr:gpu")]
    assert between(Answers(engines={"a": "27.0", "b": ""})) == [
        ("a", "there is no image rlvr:gpu"), ("b", "docker does not work there")
    ]  # fmt: skip


def test_a_wrong_inventory_or_recipe_ends_the_command_before_any_host_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cluster_app, ["doctor"])
    assert "cluster.yaml" in str(done.exception)
    (tmp_path / "cluster.yaml").write_text(INVENTORY.model_dump_json())
    done = CliRunner().invoke(cluster_app, ["doctor", "no-such-recipe"])
    assert "no recipe 'no-such-recipe'" in str(done.exception)


def test_listeners_end_with_the_examination_even_if_somebody_still_reads_them(tmp_path: Path):
    """A container engine goes on reading when the command that started it has been killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = {"host": "a", "address": "127.0.0.1", "shared": str(tmp_path), "nonce": "n", "ports": [port]}
    probe = [sys.executable, "-m", "rlvr.deploy.doctor.probe"]
    (tmp_path / ".rlvr-doctor-n").mkdir()
    given = os.environ | {"RLVR_PROBE": json.dumps(request)}
    with (
        (tmp_path / "read").open("wb") as output,
        subprocess.Popen([*probe, "serve"], env=given, stdout=output) as serving,
    ):
        try:
            until = time.monotonic() + 30
            while b"open" not in (tmp_path / "read").read_bytes() and time.monotonic() < until:
                time.sleep(0.05)
            assert json.loads((tmp_path / "read").read_bytes().splitlines()[0])["open"] == [port]
            subprocess.run([*probe, "clean"], input=json.dumps(request).encode(), check=True, stdout=subprocess.DEVNULL)
            assert serving.wait(timeout=10) == 0
        finally:
            serving.kill()
