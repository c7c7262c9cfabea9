"""`rlvr cluster` on three hosts, as network namespaces on two networks: a private one, and one with an outsider."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
pytest.importorskip("ray")
VENV = Path(sys.prefix)
RLVR = VENV / "bin/rlvr"
SSH = """#!/bin/sh
for last; do :; done
while [ "$1" != -- ]; do shift; done
exec nsenter --net="/run/netns/${2#*@}" sh -c "$last"
"""
CONNECT = """
import json, socket, sys
found = []
for port in json.loads(sys.argv[2]):
    with socket.socket() as s:
        s.settimeout(0.5)
        if s.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(json.dumps(found))
"""


def shell(text: str) -> str:
    done = subprocess.run(text, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{text}: {done.stderr}")
    return done.stdout


class Machines:
    """Namespaces NAMEa, NAMEb, NAMEc with 10.78.0.N and 192.0.2.N, and NAMEo, which has 192.0.2.9 alone."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"f{secrets.token_hex(2)}"
        self.folder = folder
        self.env = dict(os.environ) | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "RLVR_STATE_DIR": str(folder / "state"),
        }

    def make(self) -> None:
        switch = f"{self.mark}s"
        shell(f"ip netns add {switch}")
        for net in (0, 1):
            shell(f"ip -n {switch} link add br{net} type bridge && ip -n {switch} link set br{net} up")
        for number, host in enumerate("abco", start=1):
            name = f"{self.mark}{host}"
            shell(f"ip netns add {name} && ip -n {name} link set lo up")
            for net, prefix in enumerate(("10.78.0", "192.0.2")):
                if host == "o" and net == 0:
                    continue
                shell(f"ip link add e{net} netns {name} type veth peer name {host}{net} netns {switch}")
                shell(f"ip -n {switch} link set {host}{net} master br{net} up && ip -n {name} link set e{net} up")
                shell(f"ip -n {name} addr add {prefix}.{9 if host == 'o' else number}/24 dev e{net}")

    def inventory(self, names: str) -> None:
        """Writes the inventory of these hosts."""
        hosts = "".join(
            f"  - {{name: {n}, ssh: ops@{self.mark}{n}, address: 10.78.0.{' abc'.index(n)}, cpus: 1}}\n" for n in names
        )
        (self.folder / "cluster.yaml").write_text(
            f"name: {self.mark}\nruntime: host\nvenv: {VENV}\nshared: {self.folder}\n"
            f"env: {{RLVR_OBJECT_STORE_BYTES: '100000000'}}\nhosts:\n{hosts}"
        )

    def rlvr(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`rlvr cluster WORDS`."""
        return subprocess.run(
            [RLVR, "cluster", *words], cwd=self.folder, env=self.env | more, capture_output=True, text=True, timeout=320
        )

    def open_ports(self, number: int) -> list[int]:
        """Ports of a host that the outsider can connect to."""
        program = shell(
            f"ip netns exec {self.mark}o {sys.executable} -c '{CONNECT}' 192.0.2.{number} '[6379, 6380, 6381]'"
        )
        return json.loads(program)

    def processes(self) -> list[int]:
        """Every process in the namespaces."""
        return [int(pid) for host in "abco" for pid in shell(f"ip netns pids {self.mark}{host}").split()]

    def remove(self) -> None:
        for host in "abcos":
            name = f"{self.mark}{host}"
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    if os.geteuid() != 0 or any(shutil.which(program) is None for program in ("ip", "nsenter", "setsid")):
        pytest.skip("network namespaces need root, iproute2 and util-linux")
    if not (VENV / "bin/ray").exists() or not RLVR.exists():
        pytest.skip("the environment of the tests has no programs `ray` and `rlvr` to start nodes with")
    made = Machines(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    try:
        try:
            made.make()
        except RuntimeError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield made
    finally:
        made.remove()


def test_hosts_join_leave_and_are_closed_to_others(machines: Machines, tmp_path: Path):
    machines.inventory("ab")
    up = machines.rlvr("up", "--output", str(tmp_path / "rule"))
    assert up.returncode == 0, up.stderr
    assert up.stdout.count("joined") == 2
    assert machines.open_ports(1) == [6379, 6380, 6381]

    if shutil.which("nft") is not None:
        for host in "ab":
            shell(f"ip netns exec {machines.mark}{host} nft -f {tmp_path}/rule")
        assert [machines.open_ports(1), machines.open_ports(2)] == [[], []]

    other = machines.rlvr("status", RLVR_STATE_DIR=str(tmp_path / "elsewhere"))
    assert other.returncode == 1
    assert "joined" not in other.stdout

    machines.inventory("abc")
    for host in "ab" if shutil.which("nft") else "":  # the rule that lets the third host in
        remove = (tmp_path / "rule").read_text().splitlines()[1].removeprefix("# Remove: ")
        shell(f"ip netns exec {machines.mark}{host} {remove}")
    added = machines.rlvr("add", "c")
    assert added.returncode == 0, added.stderr
    assert machines.rlvr("status").stdout.count("joined") == 3

    left = machines.rlvr("drain", "b")
    assert left.returncode == 0, left.stderr
    status = machines.rlvr("status")
    assert status.returncode == 1
    assert "not started" in next(line for line in status.stdout.splitlines() if line.startswith("b "))

    assert machines.rlvr("down").returncode == 0
    assert machines.processes() == []
    assert not (tmp_path / f"state/clusters/{machines.mark}").exists()
