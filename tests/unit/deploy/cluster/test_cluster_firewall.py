"""The firewall rule, the table of ports, and what the commands say without an inventory."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.commands.cluster.hosts import cluster_add, cluster_status, cluster_up
from rlvr.deploy.choices import Firewall
from rlvr.deploy.cluster.firewall import rule, rule_name
from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.cluster.tables import ports_table
from rlvr.errors import ConfigError

NAME = "rlvr_my_run_b4dbeadf"
CHAIN = NAME.upper()


def inventory(*addresses: str, **more: Any) -> Inventory:
    hosts = [{"name": f"h{n}", "ssh": f"ops@h{n}", "address": address} for n, address in enumerate(addresses)]
    values = {"name": "my-run", "image": "i", "shared": "/s", "port": 7000, "hosts": hosts}
    return Inventory.model_validate({**values, **more})


def test_the_rule_lets_the_hosts_of_the_inventory_in_and_drops_others() -> None:
    text = rule(inventory("10.0.0.1", "10.0.0.2"), Firewall.NFT)
    accept = "ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport { 7000-8099, 32768-60999 } accept"
    drop = "tcp dport { 7000-8099, 32768-60999 } drop"
    assert text.index("iif lo accept") < text.index(accept) < text.index(drop)
    assert f"# Remove: nft delete table inet {NAME}\n" in text
    assert "policy accept" in text  # every other port stays as it is


def test_addresses_of_version_6_get_their_own_match() -> None:
    assert "ip6 saddr { fd00::1, fd00::2 } tcp" in rule(inventory("fd00::1", "fd00::2"), Firewall.NFT)
    assert f"[ $t = ip6tables ] && $t -A {CHAIN} -s fd00::1 -p tcp" in rule(inventory("fd00::1"), Firewall.IPTABLES)


@pytest.mark.parametrize("addresses", [("10.0.0.1", "10.0.0.2"), ("fd00::1",)])
def test_nft_reads_the_rule(addresses: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which("nft") is None:
        pytest.skip("nft is not installed")
    path = tmp_path / "rule"
    path.write_text(rule(inventory(*addresses), Firewall.NFT))
    done = subprocess.run(["nft", "--check", "-f", str(path)], capture_output=True, text=True)
    if "not permitted" in done.stderr:
        pytest.skip("nft needs root to check a rule")
    assert done.returncode == 0, done.stderr


def test_the_script_for_iptables_is_a_shell_script_for_both_families(tmp_path: Path) -> None:
    text = rule(inventory("10.0.0.1", "10.0.0.2"), Firewall.IPTABLES)
    path = tmp_path / "rule.sh"
    path.write_text(text)
    assert subprocess.run(["sh", "-n", str(path)]).returncode == 0
    for program in ("iptables", "ip6tables"):  # both replaced by echo
        (tmp_path / program).write_text(f'#!/bin/sh\n[ "$1" != -C ] || exit 1\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    done = subprocess.run(["sh", str(path)], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (
        lines.count(f"iptables -A {CHAIN} -s 10.0.0.2 -p tcp -m multiport --dports 7000:8099,32768:60999 -j ACCEPT")
        == 1
    )
    assert not [line for line in lines if line.startswith("ip6tables") and "ACCEPT" in line]
    assert len([line for line in lines if line.endswith("-j DROP")]) == 2
    assert len([line for line in lines if re.fullmatch(rf"ip6?tables -I INPUT -j {CHAIN}", line)]) == 2


@pytest.mark.parametrize(
    ("options", "more"),
    [
        (["-p", "40022"], []),
        (["-p40022"], []),
        (["-4p", "40022"], []),
        (["-i", "key", "-o", "Port=40022"], []),
        (["-oPort=40022"], []),
        (["-o", "port 40022"], []),
        ([], ["ssh://ops@h:40022"]),
        ([], ["ssh://[fd00::1]:40022"]),
    ],
)
def test_the_port_of_ssh_stays_open_in_every_form_that_ssh_takes(options: list[str], more: list[str]) -> None:
    hosts = [{"name": f"h{n}", "ssh": ssh, "address": f"10.0.0.{n}"} for n, ssh in enumerate([*more, "h"], start=1)]
    made = inventory(hosts=hosts, ssh_options=options)
    nft = rule(made, Firewall.NFT)
    assert nft.index("tcp dport { 22, 40022 } accept") < nft.index(" drop\n")
    iptables = rule(made, Firewall.IPTABLES)
    assert iptables.index(f"-A {CHAIN} -p tcp --dport 40022 -j RETURN") < iptables.index("-j DROP")


def test_an_option_with_another_value_names_no_port() -> None:
    options = ["-o", "ProxyJump=b:40022", "-i", "/home/p", "-p", "99999", "-o", "ConnectTimeout=3"]
    assert inventory("10.0.0.1", ssh_options=options).reachable_ports == (22,)


def test_open_ports_stay_open_and_udp_is_left_alone() -> None:
    made = inventory("10.0.0.1", open_ports=[51820, 40000])
    assert "tcp dport { 22, 40000, 51820 } accept" in rule(made, Firewall.NFT)
    assert f"$t -A {CHAIN} -p tcp --dport 51820 -j RETURN" in rule(made, Firewall.IPTABLES)
    for kind in Firewall:  # WireGuard's default port is in the system's range
        assert not re.search(r"udp.*drop", rule(made, kind), re.IGNORECASE)


@pytest.mark.parametrize("more", [{"open_ports": [7005]}, {"ssh_options": ["-p", "8099"]}])
def test_a_port_of_the_cluster_cannot_be_open_to_everyone(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the cluster's ports are 7000-8099, and"):
        inventory("10.0.0.1", **more)


def test_no_two_clusters_share_a_table_or_a_chain() -> None:
    names = ["production-cluster-east-1", "production-cluster-east-2", "a-b", "a_b", "a.b", "x" * 40]
    found = {rule_name(inventory("10.0.0.1", name=name)) for name in names}
    assert len(found) == len(names)
    assert all(len(name) <= 28 for name in found)  # the limit of iptables


@pytest.mark.parametrize("kind", list(Firewall))
def test_both_rules_begin_with_how_to_load_and_remove_them(kind: Firewall) -> None:
    load, remove, *rest = rule(inventory("10.0.0.1"), kind).splitlines()
    assert load.startswith("# Load on every host, as root: ")
    assert remove.startswith("# Remove: ")
    assert "open_ports" in "".join(line for line in rest if line.startswith("#"))


def test_the_kernel_takes_both_rules_and_forgets_them(tmp_path: Path) -> None:
    programs = ("unshare", "nft", "iptables", "ip6tables")
    if os.geteuid() != 0 or any(shutil.which(program) is None for program in programs):
        pytest.skip("loading a rule needs root and the programs of the firewall")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not permitted here")
    for kind in Firewall:
        path = tmp_path / "rule"
        path.write_text(rule(inventory("10.0.0.1", "10.0.0.2", open_ports=[51820]), kind))
        load, remove = (line.partition(": ")[2] for line in path.read_text().splitlines()[:2])
        load = load.replace("FILE", str(path))
        tables = "nft list tables; iptables -S; ip6tables -S"
        shown = f"set -e; {load}; {load}; echo loaded; {tables}; {remove}; echo removed; {tables}"
        done = subprocess.run(["unshare", "-n", "sh", "-c", shown], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        loaded, removed = done.stdout.split("removed\n")
        assert NAME in loaded.lower(), loaded
        assert NAME not in removed.lower(), removed


def test_the_table_names_every_port_of_the_range() -> None:
    text = ports_table(inventory("10.0.0.1"))
    for port in ("7000 ", "7001 ", "7002 ", "7003, 7004, 7006", "7005 ", "7007 ", "7008 ", "7010-7099", "7100-8099"):
        assert f"\n{port}" in text


def test_status_prints_the_targets_of_prometheus_and_asks_no_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hosts.yaml"
    file.write_text(json.dumps(inventory("10.0.0.1", "10.0.0.2").model_dump(mode="json")))
    cluster_status(file, is_for_prometheus=True)
    (first, second) = yaml.safe_load(capsys.readouterr().out)
    assert first["targets"] == ["10.0.0.1:7007"]
    assert second["labels"]["host"] == inventory("10.0.0.1", "10.0.0.2").hosts[1].name


def test_without_an_inventory_a_command_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no cluster.yaml here; name the inventory with --inventory FILE"):
        cluster_add("a")
    with pytest.raises(ConfigError, match=r"or a recipe to start it on this machine"):
        cluster_up()


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_one_machine_is_started_by_compose_from_the_rendered_file(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlvr.deploy.cluster import one_machine

    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / program
    stub.write_text(f'#!/bin/sh\necho "$*" "${{#RAY_AUTH_TOKEN}}" >>{tmp_path}/calls\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin" if program == "docker" else f"{tmp_path}/bin")
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path / "state"))
    one_machine.up("tiny", ["cluster.backend=ray"])
    folder = tmp_path / "state/clusters/this-machine"
    assert "start-head.sh" in (folder / "compose.yaml").read_text()
    one_machine.status()
    one_machine.down()
    file = f"-f {folder}/compose.yaml"
    prefix = f"compose {file}"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if "version" not in call] == [f"{prefix} {w} 64" for w in ("up -d", "ps", "down")]
    assert not folder.exists()
