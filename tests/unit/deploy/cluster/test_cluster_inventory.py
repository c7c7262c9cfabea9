"""The inventory file: what it means, and what its errors say."""

from pathlib import Path

import pytest

from rlvr.deploy.cluster.inventory import Inventory, Runtime, read_inventory, state_folder
from rlvr.errors import ConfigError

TWO = """\
image: rlvr:gpu
shared: /shared
hosts:
  - {name: a, ssh: ops@a.example, address: 10.0.0.1, gpus: 8}
  - {name: b, address: 10.0.0.2}
"""


def read(folder: Path, text: str) -> Inventory:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return read_inventory(path)


def test_the_first_host_is_the_head(tmp_path: Path) -> None:
    inventory = read(tmp_path, TWO)
    assert inventory.head.name == "a"
    assert inventory.head_address == "10.0.0.1:6379"
    assert inventory.runtime is Runtime.DOCKER
    assert (inventory.hosts[0].gpus, inventory.hosts[1].gpus, inventory.hosts[1].ssh) == (8, "auto", "")
    assert (inventory.ports.first, inventory.ports.last) == (6379, 7478)


def test_an_ipv6_head_is_written_in_brackets(tmp_path: Path) -> None:
    text = TWO.replace("10.0.0.1", "'fd00::1'").replace("10.0.0.2", "'fd00::2'")
    assert read(tmp_path, text).head_address == "[fd00::1]:6379"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: b, address: 10.0.0.2", "name: b, address: 10.0.0.1", "address 10.0.0.1 is given 2 times (a, b)"),
        ("name: b", "name: a", "name a is given 2 times (a, a)"),
        ("10.0.0.2", "b.example", "cluster.yaml:5: hosts.1.address: must be an IP address, such as 10.0.0.1"),
        ("10.0.0.2", "'fd00::2'", "address must be IPv4 for all hosts or IPv6 for all"),
        ("10.0.0.2", "127.0.0.1", "a loopback address is reached from its own host alone"),
        ("ssh: ops@a.example", "shh: ops@a.example", "did you mean hosts.0.ssh?"),
        ("ssh: ops@a.example", "ssh: -oProxyCommand=x", "cluster.yaml:4: hosts.0.ssh: must match the pattern"),
        ("shared: /shared", "shared: runs", "must be an absolute path"),
        ("image: rlvr:gpu", "runtime: podman", "runtime=podman needs image"),
        ("image: rlvr:gpu", "runtime: host", "runtime=host needs venv"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nport: 65000", "port: must be at most 64436"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nenv: {HF_TOKEN: x}", "this file is not for secrets"),
    ],
)
def test_an_error_names_the_line_and_what_is_expected(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TWO
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TWO.replace(old, new))
    assert message in str(caught.value)


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TWO.replace("10.0.0.2", "x").replace("gpus: 8", "gpus: many").replace("/shared", "shared"))
    assert len(str(caught.value).splitlines()) >= 3


def test_an_unknown_host_gets_a_suggestion(tmp_path: Path) -> None:
    inventory = read(tmp_path, TWO.replace("name: b", "name: gpu-box"))
    with pytest.raises(ConfigError, match=r"'gpu-bx' is not a host of the inventory.*did you mean gpu-box"):
        inventory.host("gpu-bx")


def test_the_state_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLVR_STATE_DIR", str(tmp_path))
    assert state_folder("x") == tmp_path / "clusters/x"
