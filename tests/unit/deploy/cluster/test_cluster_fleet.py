"""Starting, draining, restarting and stopping nodes, with stand-ins for ssh and Docker."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.deploy.cluster import fleet as fleets
from rlvr.deploy.cluster.containers import Containers
from rlvr.deploy.cluster.fleet import Fleet
from rlvr.deploy.cluster.inventory import Inventory, state_folder
from rlvr.deploy.cluster.node import Facts
from rlvr.deploy.cluster.tables import status
from rlvr.errors import ClusterError, ConfigError
from tests.unit.deploy.cluster.cluster_cases import Hosts


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(fleets, "_POLL_S", 0.01)
    # The address of a host is one of this machine's in no test.
    monkeypatch.setattr(
        Containers, "probe", lambda self, host: replace(_probe(self, host), addresses=(), busy_ports=())
    )
    return Hosts(tmp_path, monkeypatch)


_probe = Containers.probe


def fleet(inventory: Inventory, *, join_s: float = 5.0) -> tuple[Fleet, list[str]]:
    said: list[str] = []
    return Fleet(inventory, said.append, join_s=join_s, idle_s=0.0), said


def test_up_starts_the_head_first_and_everything_joins(hosts: Hosts) -> None:
    running, said = fleet(hosts.inventory("abc"))
    running.up()
    assert hosts.started()[0] == "a"
    assert sorted(hosts.started()) == ["a", "b", "c"]
    assert said == ["starting a, b, c"]
    text, is_complete, has_head = status(running)
    assert (is_complete, has_head) == (True, True)
    assert [line.split() for line in text.splitlines()[1:3]] == [
        ["a", "10.9.0.1", "head", "0", "4", "joined"],
        ["b", "10.9.0.2", "node", "0", "4", "joined"],
    ]


def test_up_again_starts_only_what_is_missing(hosts: Hosts) -> None:
    running, said = fleet(hosts.inventory())
    running.up()
    (hosts.folder / "rlvr-b.state").unlink()
    running.up()
    running.up()
    assert hosts.started() == ["a", "b", "b"]
    assert said == ["starting a, b", "starting b"]


def test_the_token_is_on_no_command_line_and_every_host_gets_it(hosts: Hosts) -> None:
    fleet(hosts.inventory())[0].up()
    token = (state_folder("rlvr") / "token").read_text()
    assert token not in "\n".join(hosts.calls)
    assert [(hosts.folder / f"{name}.token").read_text() for name in "ab"] == [token, token]
    started = next(call for call in hosts.calls if "run -d" in call)
    assert "/token:/run/rlvr/token:ro" in started
    assert "-e RAY_AUTH_TOKEN_PATH=/run/rlvr/token" in started


def test_an_unreachable_host_is_named_and_nothing_is_started(hosts: Hosts) -> None:
    hosts.set("b.down", "")
    with pytest.raises(ClusterError, match=r"^host b \(ops@b\) cannot be reached by ssh: .*No route to host$"):
        fleet(hosts.inventory("abc"))[0].up()
    assert hosts.started() == []


def test_an_image_that_one_host_lacks_comes_with_the_command_that_copies_it(hosts: Hosts) -> None:
    (hosts.folder / "b.image").unlink()
    with pytest.raises(ClusterError) as caught:
        fleet(hosts.inventory())[0].up()
    assert str(caught.value).splitlines() == [
        "host b (ops@b): there is no image rlvr:gpu; copy it with `docker save rlvr:gpu | ssh ops@b docker load`, or "
        "pull it there",
        "nothing was started",
    ]
    assert hosts.started() == []


def test_different_images_are_refused(hosts: Hosts) -> None:
    hosts.set("b.image", "sha256:2222222222222222")
    with pytest.raises(ClusterError, match=r"not the same on all hosts \(a: 111111111111; b: 222222222222\)"):
        fleet(hosts.inventory())[0].up()


def test_a_node_with_another_token_is_refused(hosts: Hosts) -> None:
    fleet(hosts.inventory())[0].up()
    (state_folder("rlvr") / "token").unlink()
    with pytest.raises(ClusterError, match="a node of cluster 'rlvr' runs there with another token") as caught:
        fleet(hosts.inventory("abc"))[0].up()
    assert str(caught.value).endswith("nothing was started")
    assert sorted(hosts.started()) == ["a", "b"]


def test_a_port_in_use_and_a_foreign_address_are_named(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Containers.probe
    found = {"addresses": ("127.0.0.1", "10.9.0.9"), "busy_ports": (6380,)}
    monkeypatch.setattr(Containers, "probe", lambda self, host: replace(probe(self, host), **found))
    with pytest.raises(ClusterError) as caught:
        fleet(hosts.inventory("a"))[0].up()
    assert "host a (ops@a) does not have the address 10.9.0.1; it has 10.9.0.9" in str(caught.value)
    assert "another program listens on port 6380, which the cluster needs (6379-7478)" in str(caught.value)


def test_a_host_that_cannot_use_the_shared_folder_says_so(hosts: Hosts) -> None:
    hosts.set("b.refuses", "the user 1000 of the image cannot write to the shared folder /shared")
    with pytest.raises(ClusterError, match=r"cannot write to the shared folder /shared\nnothing was started"):
        fleet(hosts.inventory())[0].up()


def test_a_node_that_ends_is_reported_with_its_own_last_line(hosts: Hosts) -> None:
    hosts.set("b.becomes", "exited")
    with pytest.raises(ClusterError) as caught:
        fleet(hosts.inventory())[0].up()
    assert "host b (ops@b): the node ended; its log ends with: rlvr: no head answers at h:1" in str(caught.value)
    assert "what was started is left running" in str(caught.value)


def test_a_container_that_does_not_start_leaves_the_rest_running(hosts: Hosts) -> None:
    hosts.set("b.fails", "no space left on device")
    with pytest.raises(ClusterError, match=r"host b .*the container does not start: Error: no space left on device"):
        fleet(hosts.inventory())[0].up()
    (hosts.folder / "b.fails").unlink()
    fleet(hosts.inventory())[0].up()
    assert hosts.started() == ["a", "b", "b"]


def test_a_host_is_added_to_a_running_cluster_alone(hosts: Hosts) -> None:
    inventory = hosts.inventory("abc")
    with pytest.raises(ClusterError, match="the head does not run; start it with `rlvr cluster up`"):
        fleet(inventory)[0].up([inventory.host("c")])
    fleet(hosts.inventory())[0].up()
    fleet(inventory)[0].up([inventory.host("c")])
    assert sorted(hosts.started()) == ["a", "b", "c"]


def test_a_host_leaves_when_it_is_idle(hosts: Hosts) -> None:
    running, said = fleet(hosts.inventory())
    running.up()
    running.drain(running.inventory.host("b"), limit_s=5)
    assert (hosts.folder / "draining").read_text() == "10.9.0.2"
    assert not (hosts.folder / "rlvr-b.state").exists()
    assert said[1:] == ["draining b", "b has left"]


def test_a_host_with_work_stays_unless_it_is_forced(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory())
    running.up()
    hosts.busy("10.9.0.2")
    with pytest.raises(ClusterError, match=r"host b .*still has work of a run after 0 s"):
        running.drain(running.inventory.host("b"), limit_s=0)
    assert (hosts.folder / "rlvr-b.state").exists()
    running.drain(running.inventory.host("b"), limit_s=0, is_forced=True)
    assert not (hosts.folder / "rlvr-b.state").exists()


def test_the_head_is_not_drained(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory())
    with pytest.raises(ConfigError, match="a is the head"):
        running.drain(running.inventory.head, limit_s=0)


def test_a_rolling_restart_takes_one_host_after_another(hosts: Hosts) -> None:
    running, said = fleet(hosts.inventory("abc"))
    running.up()
    running.restart(running.inventory.hosts[1:], drain_s=0)
    assert said[1:] == [
        *["draining b", "starting b", "b has rejoined"],
        *["draining c", "starting c", "c has rejoined"],
    ]
    assert hosts.started()[3:] == ["b", "c"]


def test_a_restart_ends_at_the_host_that_does_not_come_back(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory("abc"))
    running.up()
    hosts.set("b.becomes", "exited")
    with pytest.raises(ClusterError, match=r"host b .*the node ended"):
        running.restart(running.inventory.hosts[1:], drain_s=0)
    assert hosts.started()[3:] == ["b"]


def test_down_leaves_nothing(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory())
    running.up()
    running.down()
    assert not list(hosts.folder.glob("*.state"))
    assert not state_folder("rlvr").exists()


def test_down_asks_for_force_while_a_run_uses_the_cluster(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory())
    running.up()
    hosts.busy("10.9.0.2")
    with pytest.raises(ClusterError, match=r"a run uses the cluster \(b\)"):
        running.down()
    assert len(list(hosts.folder.glob("*.state"))) == 2
    running.down(is_forced=True)
    assert not list(hosts.folder.glob("*.state"))


@pytest.mark.parametrize("what", ["a.silent", "a.down", "a.broken"])
def test_down_asks_for_force_when_the_head_cannot_say_whether_a_run_uses_the_cluster(hosts: Hosts, what: str) -> None:
    running, _ = fleet(hosts.inventory())
    running.up()
    hosts.busy("10.9.0.2")
    hosts.set(what, "")
    if what == "a.broken":
        hosts.set("a.silent", "")
    with pytest.raises(
        ClusterError, match=r"(?s)^cannot tell whether a run .*host a \(ops@a\).*nothing was stopped.*force"
    ):
        running.down()
    assert len(list(hosts.folder.glob("*.state"))) == 2
    if what == "a.silent":
        running.down(is_forced=True)
        assert not list(hosts.folder.glob("*.state"))
        return
    with pytest.raises(ClusterError, match=r"\nthe other hosts were stopped \(b\)$"):
        running.down(is_forced=True)
    assert [path.name for path in hosts.folder.glob("*.state")] == ["rlvr-a.state"]
    assert (state_folder("rlvr") / "token").exists()


@pytest.mark.parametrize("state", ["", "exited"])
def test_down_needs_no_force_where_no_head_runs(hosts: Hosts, state: str) -> None:
    running, said = fleet(hosts.inventory())
    running.up()
    (hosts.folder / "rlvr-a.state").unlink()
    hosts.set("a.silent", "")
    if state:
        hosts.set("rlvr-a.state", state)
    running.down()
    assert not list(hosts.folder.glob("*.state"))
    assert said[-1] == "stopped a, b"


def test_a_runtime_that_does_not_answer_is_no_missing_node(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory())
    running.up()
    hosts.set("b.broken", "")
    hosts.set("rlvr-b.state", "exited")
    rows = status(running).text.splitlines()
    assert rows[2].endswith("unknown: docker does not work there: Cannot connect to the Docker daemon")
    with pytest.raises(ClusterError, match="docker does not work there"):
        running.up()
    assert sorted(hosts.started()) == ["a", "b"]


def test_down_says_when_it_stopped_nothing(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory("a"))
    running.up()
    hosts.set("a.down", "")
    with pytest.raises(ClusterError, match=r"cannot be reached.*\nno host was stopped$"):
        running.down(is_forced=True)


def test_two_clusters_of_one_name_do_not_share_a_token(hosts: Hosts) -> None:
    first, _ = fleet(hosts.inventory("a"))
    first.up()
    token = (state_folder("rlvr") / "token").read_text()
    other, _ = fleet(hosts.inventory(hosts=[{"name": "b", "ssh": "ops@b", "address": "10.9.0.7"}]))
    for command in (
        other.up,
        lambda: other.down(is_forced=True),
        lambda: other.restart(other.inventory.hosts, drain_s=0),
    ):
        with pytest.raises(
            ClusterError, match=r"^cluster name 'rlvr' is in use for hosts a \(10\.9\.0\.1\); give this"
        ):
            command()
    first.up()
    fleet(hosts.inventory("abc"))[0].up()  # it shares a host
    assert (state_folder("rlvr") / "token").read_text() == token
    fleet(hosts.inventory("abc"))[0].down()
    assert not state_folder("rlvr").exists()
    other.up()
    other.down()


def test_an_answer_of_another_release_is_named(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory("a"))
    running.up()
    hosts.set("members.py", "print('[{\"node\": 1}]')")
    with pytest.raises(ClusterError, match="does it run this release of rlvr"):
        running.members()


def test_down_waits_for_a_run_that_has_just_ended(hosts: Hosts) -> None:
    """Ray reports work for some seconds longer."""
    running, _ = fleet(hosts.inventory())
    running.up()
    hosts.busy("10.9.0.2")
    threading.Timer(0.5, hosts.busy).start()
    replace(running, idle_s=10.0).down()
    assert not list(hosts.folder.glob("*.state"))


def test_down_stops_the_others_when_a_host_does_not_answer(hosts: Hosts) -> None:
    running, _ = fleet(hosts.inventory())
    running.up()
    hosts.set("b.down", "")
    with pytest.raises(ClusterError, match=r"host b .*cannot be reached.*\nthe other hosts were stopped \(a\)"):
        running.down()
    assert not (hosts.folder / "rlvr-a.state").exists()
    assert (state_folder("rlvr") / "token").exists()
    assert status(running)[0].splitlines()[2].endswith("unreachable: No route to host")


def test_the_options_of_a_container_follow_the_host_and_the_inventory(hosts: Hosts) -> None:
    inventory = hosts.inventory(
        options=["--ulimit", "nofile=20000:20000"], env={"NCCL_SOCKET_IFNAME": "eth1"}, shm="24g"
    )
    facts = Facts(state=fleets.NodeState.ABSENT, cpus=16, gpus=8)
    words = Containers(inventory, fleet(inventory)[0].remote).options(inventory.head, facts, "mark")
    text = " ".join(words)
    for part in (
        "--network host", "--init", "--shm-size 24g", "--gpus all", "--ulimit memlock=-1:-1",
        "--ulimit nofile=20000:20000", "-e NCCL_SOCKET_IFNAME=eth1", "-e RLVR_CPUS=16 -e RLVR_GPUS=8",
        "-e RLVR_NODE_IP=10.9.0.1", f"-v {hosts.shared}:{hosts.shared}", f"-e HF_HOME={hosts.shared}/huggingface",
    ):  # fmt: skip
        assert part in text
    assert "nofile=65536" not in text
    assert words[-3:] == ["--entrypoint", "start-head.sh", "rlvr:gpu"]
    on_b = Containers(inventory, fleet(inventory)[0].remote).options(inventory.hosts[1], facts, "mark")
    assert on_b[-2] == "start-node.sh"
    assert "RLVR_CPUS" not in " ".join(on_b)  # Ray finds them


def test_podman_gets_devices_and_a_host_another_network(hosts: Hosts) -> None:
    inventory = hosts.inventory(runtime="podman", hosts=[
        {"name": "a", "address": "10.9.0.1", "gpus": 2, "options": ["--network", "ns:/run/netns/x"]}
    ])  # fmt: skip
    facts = Facts(state=fleets.NodeState.ABSENT, cpus=16)
    words = Containers(inventory, fleet(inventory)[0].remote).options(inventory.head, facts, "mark")
    text = " ".join(words)
    assert "--device nvidia.com/gpu=0 --device nvidia.com/gpu=1" in text
    assert "--network host" not in text


def test_each_node_has_a_closed_sandbox_next_to_it_and_shares_its_socket_alone(hosts: Hosts) -> None:
    """The sandbox starts first, has neither the token nor the cluster's network, and goes with its node."""
    inventory = hosts.inventory(sandbox_slots=4, options=["--ulimit", "nofile=20000:20000", "-v", "/data:/data"])
    running, _ = fleet(inventory)
    running.up()
    starts = [call for call in hosts.calls if call.startswith("b: run -d")]
    sandbox, node = starts
    assert sandbox.startswith("b: run -d --name rlvr-b-sandbox --restart unless-stopped ")
    assert " --ulimit=nofile=20000:20000 --network none --read-only " in sandbox
    assert sandbox.endswith(" --entrypoint start-sandbox.sh rlvr:gpu")
    for secret in ("token", "/data", str(hosts.shared)):
        assert secret not in sandbox
    for start in starts:
        assert " --volume rlvr-b-sandbox:/run/rlvr-sandbox " in start
    assert "/run/rlvr/token:ro" in node
    running.down()
    assert not list(hosts.folder.glob("*sandbox*"))
    with pytest.raises(ValueError, match="sandbox_slots needs containers"):
        hosts.inventory(sandbox_slots=1, runtime="host", venv="/v")


def test_what_an_ended_node_left_is_removed_before_its_ports_are_checked(hosts: Hosts) -> None:
    """A head whose bookkeeping was killed leaves agents of Ray that listen on the cluster's ports."""
    running, said = fleet(hosts.inventory())
    running.up()
    hosts.set("rlvr-a.state", "exited")
    hosts.set("calls", "")
    running.up()
    assert said[-2:] == ["removing what is left of the node of a", "starting a"]
    order = [call[3:].split()[0:2] for call in hosts.calls if call.startswith("a: ")]
    assert order.index(["stop", "-t"]) < order.index(["run", "-d"])
