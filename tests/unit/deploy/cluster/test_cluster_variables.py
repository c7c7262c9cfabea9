"""Variables of nodes that the inventory must not set, because the ports, the token and the checks depend on them."""

from pathlib import Path

import pytest

from rlvr.deploy.cluster.inventory import read_inventory
from rlvr.errors import ConfigError

ONE = """\
image: rlvr:gpu
shared: /shared
env: {NCCL_DEBUG: INFO}
hosts:
  - {name: a, address: 10.0.0.1, env: {NCCL_SOCKET_IFNAME: eth0}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NCCL_DEBUG: INFO", "RLVR_PORT: '3'", "yaml:3: env: `rlvr cluster` sets RLVR_PORT itself; set `port` instead"),
        ("NCCL_SOCKET_IFNAME: eth0", "RLVR_NODE_IP: 127.0.0.1", "sets RLVR_NODE_IP itself; set `address` instead"),
        ("NCCL_SOCKET_IFNAME: eth0", "RLVR_GPUS: '1'", "sets RLVR_GPUS itself; set `gpus` instead"),
        ("NCCL_SOCKET_IFNAME: eth0", "RLVR_SUBMITTED: /x", "sets RLVR_SUBMITTED itself; remove it"),
        ("NCCL_SOCKET_IFNAME: eth0", "RAY_AUTH_MODE: none", "sets RAY_AUTH_MODE itself; remove it"),
        ("NCCL_SOCKET_IFNAME: eth0", "PATH: /bin", "sets PATH itself; remove it"),
        ("NCCL_SOCKET_IFNAME", "'A=B'", "'A=B' is not the name of an environment variable"),
        ("eth0", '"a\\0"', "NCCL_SOCKET_IFNAME: must contain no control characters"),
        ("NCCL_SOCKET_IFNAME", "-i", "'-i' is not the name of an environment variable"),
        ("image: rlvr:gpu", "image: rlvr:gpu\nname: this-machine", "'this-machine' is reserved"),
        ("image: rlvr:gpu\nshared: /shared\nenv: {NCCL_DEBUG: INFO}",
         "runtime: host\nvenv: /v\nshared: /shared\nenv: {RAY_TMPDIR: /x}", "runtime=host sets RAY_TMPDIR itself"),
    ],
)  # fmt: skip
def test_a_variable_that_is_managed_or_has_no_valid_name_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(ONE)
    assert read_inventory(path).env == {"NCCL_DEBUG": "INFO"}
    assert old in ONE
    path.write_text(ONE.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_inventory(path)
    assert message in str(caught.value)
