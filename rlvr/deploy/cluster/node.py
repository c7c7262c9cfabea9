"""A node on a host: what is known about the host, and what a runtime can do there."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.node_commands import hub_folder
from rlvr.deploy.cluster.remote import Done

HEAD_SCRIPT, NODE_SCRIPT = "start-head.sh", "start-node.sh"


class NodeState(StrEnum):
    """Of the container or process that is a host's node."""

    ABSENT = "not started"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"  # the container runtime there does not answer

    @property
    def is_down(self) -> bool:
        """Whether it is certain that no node runs."""
        return self in (NodeState.ABSENT, NodeState.ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a host reports.

    problem: why no node can run there; "" if one can. image: id of the image; "" for runtime host.
    token: fingerprint of the token with which the node was started.
    busy_ports: ports of the cluster's range on which something listens.
    addresses: of the host's interfaces; empty if it cannot say.
    """

    state: NodeState
    problem: str = ""
    image: str = ""
    token: str = ""
    cpus: int = 0
    gpus: int = 0
    busy_ports: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()


class NodeRuntime(Protocol):
    """Docker, Podman, or processes of the host. All methods raise ClusterError when the host refuses."""

    def probe(self, host: Host) -> Facts:
        """What the host reports; starts nothing."""
        ...

    def prepare(self, host: Host, token: str) -> None:
        """Puts the token on the host, and checks that the node will be able to use it and the shared folder."""
        ...

    def start(self, host: Host, facts: Facts, *, fingerprint: str) -> None:
        """Starts the node. Returns before it has joined."""
        ...

    def stop(self, host: Host, *, grace_s: int) -> None:
        """Stops the node, and removes it and the token; does nothing where there is none."""
        ...

    def log(self, host: Host) -> Done:
        """The last lines that the node wrote."""
        ...


def is_head(inventory: Inventory, host: Host) -> bool:
    """Whether the host runs the head."""
    return host.name == inventory.head.name


def start_script(inventory: Inventory, host: Host) -> str:
    """The script of docker/ that the host's node runs."""
    return HEAD_SCRIPT if is_head(inventory, host) else NODE_SCRIPT


def node_environment(inventory: Inventory, host: Host, facts: Facts) -> dict[str, str]:
    """The variables that the start script reads, and those of the inventory. No secret is among them."""
    found = {
        "RLVR_HEAD": inventory.head_address,
        "RLVR_PORT": str(inventory.port),
        "RLVR_NODE_IP": host.address,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HOME": hub_folder(inventory),
    }
    # The head's script gives away nothing unless it is given numbers; the node's gives away all.
    if is_head(inventory, host) or host.cpus != "auto":
        found["RLVR_CPUS"] = str(facts.cpus if host.cpus == "auto" else host.cpus)
    if is_head(inventory, host) or host.gpus != "auto":
        found["RLVR_GPUS"] = str(facts.gpus if host.gpus == "auto" else host.gpus)
    # A container that comes back after a reboot continues the submitted runs; without one, `rlvr cluster up` does.
    if is_head(inventory, host) and inventory.runtime is not Runtime.HOST:
        found["RLVR_SUBMITTED"] = inventory.shared
    return {**found, **inventory.env, **host.env}


def facts_from(lines: Mapping[str, str], *, inventory: Inventory) -> dict[str, object]:
    """Fields of `Facts` that both runtimes read from the lines `key=value` of their probes."""
    return {
        "cpus": int(lines.get("cpus") or 0),
        "gpus": int(lines.get("gpus") or 0),
        "token": lines.get("token", ""),
        "busy_ports": _in_range(lines.get("listening", ""), inventory),
        "addresses": tuple(lines.get("addresses", "").split()),
        "problem": lines.get("problem", ""),
    }


def key_values(text: str) -> dict[str, str]:
    """The lines `key=value` of a probe; several values of one key are joined.

    >>> key_values("a=1\\nnoise\\nb=x=y\\na=2\\n")
    {'a': '1; 2', 'b': 'x=y'}
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign:
            found[key] = "; ".join(filter(None, (found.get(key, ""), value.strip())))
    return found


def _in_range(text: str, inventory: Inventory) -> tuple[int, ...]:
    """Ports of the cluster in lines of /proc/net/tcp: `0100007F:18EB`."""
    found = {int(word.rpartition(":")[2], 16) for word in text.split()}
    return tuple(sorted(port for port in found if inventory.ports.first <= port <= inventory.ports.last))


# Shell lines that print what every host reports; see `facts_from`.
COMMON_PROBE = """
echo "cpus=$(nproc 2>/dev/null || echo 1)"
echo "gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')"
echo "listening=$(awk 'FNR > 1 && $4 == "0A" { printf "%s ", $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
echo "addresses=$(ip -o addr show 2>/dev/null | awk '{ sub("/.*", "", $4); printf "%s ", $4 }')"
"""
