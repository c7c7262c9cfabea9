"""What `rlvr cluster` prints: the hosts with their state, and the ports with who listens there."""

from collections.abc import Sequence
from typing import NamedTuple

from rlvr.deploy.cluster.fleet import Fleet, Member
from rlvr.deploy.cluster.inventory import Host, Inventory
from rlvr.deploy.cluster.node import NodeState, is_head
from rlvr.deploy.cluster.remote import on_all
from rlvr.errors import ClusterError


class Status(NamedTuple):
    """text: the table of hosts. is_complete: every one has joined. has_head: the head's node runs."""

    text: str
    is_complete: bool
    has_head: bool


def status(fleet: Fleet) -> Status:
    """The state of all hosts. A host that does not answer is a row, not an error."""

    def probed(host: Host) -> str:
        try:
            facts = fleet.runtime.probe(host)
            return f"unknown: {facts.problem}" if facts.state is NodeState.UNKNOWN else facts.state.value
        except ClusterError as error:
            return f"unreachable: {str(error).rpartition(': ')[2]}"

    probes = on_all(fleet.inventory.hosts, probed)
    members, lost = [], ""
    has_head = probes[0] == NodeState.RUNNING.value
    if has_head:
        try:
            members = fleet.members()
        except ClusterError as error:
            lost = f"\n{error}"
    states = [_state(_member(members, host), probe) for host, probe in zip(fleet.inventory.hosts, probes, strict=True)]
    text = hosts_table(fleet.inventory, members, states)
    return Status(f"{text}{lost}", all(word.startswith("joined") for word in states), has_head)


def _state(member: Member | None, probe: str) -> str:
    if member is None:
        return "running, not joined" if probe == NodeState.RUNNING.value else probe
    return "draining" if member.is_draining else "joined, busy" if member.is_busy else "joined"


def hosts_table(inventory: Inventory, members: Sequence[Member], states: Sequence[str]) -> str:
    """A row for each host: name, address, role, GPUs and cores that Ray may assign, state."""
    rows = [["host", "address", "role", "GPUs", "CPUs", "state"]]
    for host, state in zip(inventory.hosts, states, strict=True):
        member = _member(members, host)
        sizes = ["-", "-"] if member is None else [f"{member.gpus:g}", f"{member.cpus:g}"]
        rows.append([host.name, host.address, "head" if is_head(inventory, host) else "node", *sizes, state])
    return aligned(rows)


def ports_table(inventory: Inventory) -> str:
    """The ports of every node: who listens, on which address, and who connects."""
    ports = inventory.ports
    every, own = "all interfaces", "the node's address"
    rows = [
        ["port", "listens", "on", "who connects"],
        [f"{ports.first}", "Ray's head (GCS)", every, "all nodes, drivers"],
        [f"{ports.node_manager}", "Ray's raylet", every, "head, nodes, workers"],
        [f"{ports.object_manager}", "Ray's object store", every, "nodes"],
        [f"{ports.agent_http}, {ports.agent_grpc}, {ports.ray_metrics}", "Ray's agent, with ray[default] alone", every,
         "the dashboard"],
        [f"{ports.runtime_env_agent}", "Ray's runtime environment agent", own, "the raylet of the node"],
        [f"{ports.metrics}", "metrics of rlvr, if a run has them", own, "Prometheus"],
        [f"{ports.ray_client}", "Ray's client server, on the head", f"{own}, loopback", "nobody"],
        [f"{ports.rendezvous.start}-{ports.rendezvous.stop - 1}", "rendezvous of transfers and ranks", own,
         "engines, ranks of the learner"],
        [f"{ports.workers.start}-{ports.workers.stop - 1}", "Ray's workers, drivers", every, "nodes, workers, drivers"],
        ["chosen by the system", "NCCL and Gloo, in a run", "the interface in NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME",
         "engines, ranks of the learner"],
    ]  # fmt: skip
    return aligned(rows)


def _member(members: Sequence[Member], host: Host) -> Member | None:
    return next((member for member in members if member.address == host.address), None)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines of text whose columns are aligned. All rows have as many cells as the first."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
