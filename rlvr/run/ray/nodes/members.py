"""The nodes of a Ray cluster, as JSON.

    python -m rlvr.run.ray.nodes.members list HOST:PORT
    python -m rlvr.run.ray.nodes.members drain HOST:PORT NODE_IP

`rlvr cluster` runs it on the head, in the node's own installation. It asks the head and joins nothing.
"""

import json
import sys
import time
from typing import Any

from ray import exceptions as ray_errors
from ray._raylet import GcsClient  # type: ignore # compiled, without a stub
from ray.core.generated import autoscaler_pb2

pb2: Any = autoscaler_pb2  # generated, without types
_TIMEOUT_S = 15
_DRAIN_S = 3600.0  # Ray only passes this time on; whoever drains a node also stops it


def members(address: str) -> list[dict[str, Any]]:
    """The nodes that are alive: address, cpus, gpus, is_head, is_draining, is_busy (work is placed there).

    Args: address: HOST:PORT of the head.
    """
    found: list[dict[str, Any]] = []
    for node_id, node in _nodes(address).items():
        total, snapshot = dict(node.resources_total), node.state_snapshot
        found.append(
            {
                "node_id": node_id,
                "address": node.node_manager_address,
                "cpus": total.get("CPU", 0.0),
                "gpus": total.get("GPU", 0.0),
                "is_head": "node:__internal_head__" in total,
                "is_draining": snapshot.state == snapshot.DRAINING,
                # Ray keeps the last activity of a node that has become idle
                "is_busy": snapshot.state != snapshot.IDLE and any(map(is_placed_work, snapshot.node_activity)),
            }
        )
    return found


def is_placed_work(activity: str) -> bool:
    """Whether a line of Ray's about a node means that a run has work there. Objects stay in its store after a run.

    >>> is_placed_work("Resource: CPU currently in use.")
    True
    >>> is_placed_work("Resource: object_store_memory currently in use.")
    False
    """
    return activity.startswith("Resource:") and "object_store_memory" not in activity


def drain(address: str, node_ip: str) -> int:
    """Asks Ray to place nothing more on a node; returns the number of nodes with that address.

    Raises: RuntimeError when Ray refuses.
    """
    client: Any = GcsClient(address=address)
    named = [node_id for node_id, node in _nodes(address).items() if node.node_manager_address == node_ip]
    for node_id in named:
        deadline_ms = int((time.time() + _DRAIN_S) * 1000)
        reason = pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # the reason that is never refused
        is_accepted, why = client.drain_node(node_id, reason, "rlvr cluster drain", deadline_ms)
        if not is_accepted:
            raise RuntimeError(f"Ray does not drain {node_ip}: {why}")
    return len(named)


def _nodes(address: str) -> dict[str, Any]:
    client: Any = GcsClient(address=address)
    found = client.get_all_node_info(timeout=_TIMEOUT_S)
    return {node_id.hex(): node for node_id, node in found.items() if node.state == 0}


def main(arguments: list[str]) -> int:
    """The exit code; the answer is one line of JSON on standard output."""
    match arguments:
        case ["list", address]:
            answer: Any = members(address)
        case ["drain", address, node_ip]:
            answer = drain(address, node_ip)
        case _:
            sys.stderr.write("usage: members list HOST:PORT | drain HOST:PORT NODE_IP\n")
            return 2
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (RuntimeError, ValueError, ConnectionError, ray_errors.RayError) as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.exit(1)
