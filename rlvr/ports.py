"""The fixed ports of a cluster's nodes: one layout for the start scripts, the Slurm script and `rlvr cluster`.

    port           the head (Ray's GCS); 6379 unless set
    port+1 .. +6   Ray on every node: node manager, object manager, agents, metrics
    port+7         metrics of rlvr
    port+8         Ray's client server, on the head
    port+9         Ray's dashboard, which is not started
    port+10 .. +99 rendezvous of weight transfers and of the learner's ranks
    port+100 .. +1099  Ray's workers, which are also the actors of a run

`RLVR_PORT` holds the first port in every process of a node that a start script began; where it is unset, rlvr lets the
system choose its own ports.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from rlvr.errors import ConfigError

VARIABLE = "RLVR_PORT"
DEFAULT_FIRST = 6379
SPAN = 1100
LARGEST_FIRST = 65535 - SPAN + 1


@dataclass(frozen=True, slots=True)
class PortLayout:
    """The ports of one node. first: the port of the head.

    >>> PortLayout(6379).range_text
    '6379-7478'
    """

    first: int = DEFAULT_FIRST

    @property
    def last(self) -> int:
        """The last port of the range."""
        return self.first + SPAN - 1

    @property
    def range_text(self) -> str:
        """The whole range as `first-last`."""
        return f"{self.first}-{self.last}"

    @property
    def node_manager(self) -> int:
        """Ray's raylet."""
        return self.first + 1

    @property
    def object_manager(self) -> int:
        """Ray's object store, between nodes."""
        return self.first + 2

    @property
    def agent_http(self) -> int:
        """HTTP of Ray's agent, used with its dashboard."""
        return self.first + 3

    @property
    def agent_grpc(self) -> int:
        """gRPC of Ray's agent."""
        return self.first + 4

    @property
    def runtime_env_agent(self) -> int:
        """Ray's agent for runtime environments."""
        return self.first + 5

    @property
    def ray_metrics(self) -> int:
        """Ray's own metrics."""
        return self.first + 6

    @property
    def metrics(self) -> int:
        """Metrics of rlvr."""
        return self.first + 7

    @property
    def ray_client(self) -> int:
        """Ray's client server, on the head; nothing of rlvr uses it, and Ray has no option without it."""
        return self.first + 8

    @property
    def dashboard(self) -> int:
        """Ray's dashboard, which is not started; its default may lie in the range, and then Ray refuses to start."""
        return self.first + 9

    @property
    def rendezvous(self) -> range:
        """Stores in which the ranks of a weight transfer, or of the learner, meet."""
        return range(self.first + 10, self.first + 100)

    @property
    def workers(self) -> range:
        """Ray's workers."""
        return range(self.first + 100, self.first + SPAN)


def layout_here(environment: Mapping[str, str] | None = None) -> PortLayout | None:
    """The layout of the node that this process belongs to; None if the process was not started with one.

    Raises: ConfigError when `RLVR_PORT` is not a port that leaves room for the range.
    """
    text = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 1024 <= int(text) <= LARGEST_FIRST:
        raise ConfigError(
            f"{VARIABLE}={text!r} must be a port from 1024 to {LARGEST_FIRST}: a node uses it and the {SPAN - 1} above"
        )
    return PortLayout(int(text))


def host_port(address: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets.

    >>> host_port("10.0.0.1", 6379), host_port("fd00::1", 6379)
    ('10.0.0.1:6379', '[fd00::1]:6379')
    """
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
