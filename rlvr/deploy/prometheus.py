"""What Prometheus needs to know about a cluster of hosts: the targets of a scrape.

docker/observability/prometheus.yml reads such files from its folder `targets`, and again when they change.
"""

from collections.abc import Sequence

from rlvr.deploy.cluster.inventory import Inventory
from rlvr.deploy.yaml_text import yaml_file
from rlvr.ports import host_port


def scrape_targets(inventory: Inventory, *, port: int = 0) -> str:
    """The targets of an inventory's hosts, a file for `file_sd_configs`.

    Args: port: run.metrics_port of the run; 0: the one that the cluster reserves for it, port + 7 of the inventory.
    """
    used = port or inventory.ports.metrics
    entries = [
        {"targets": [host_port(host.address, used)], "labels": {"cluster": inventory.name, "host": host.name}}
        for host in inventory.hosts
    ]
    return yaml_file([entries], comments=[f"Metrics of the cluster {inventory.name}: run.metrics_port={used}."])


def local_targets(ports: Sequence[int]) -> str:
    """The targets of runs on this machine, which listen on loopback. Args: ports: run.metrics_port of each run."""
    entries = [{"targets": [host_port("127.0.0.1", port) for port in ports]}]
    return yaml_file([entries], comments=["Metrics of runs on this machine."])
