"""A cluster that need not exist: nodes, GPUs and their memory, with the rates that a plan for it assumes."""

import re
from dataclasses import dataclass

from rlvr.errors import ConfigError

_SPEC = re.compile(r"(?:(?P<nodes>\d+)x)?(?P<gpus>\d+)x(?P<gb>\d+(?:\.\d+)?)(?:GB|gb|G|g)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Bytes per second, estimates for nodes of H100s; none was measured.

    nvlink, network: of a collective within a node, and between nodes (400 Gbit/s). pcie: between host and device.
    device: a copy within a GPU. file: written to shared memory by one process. stream: to another node through Ray.
    """

    nvlink: float = 250e9
    network: float = 40e9
    pcie: float = 20e9
    device: float = 1200e9
    file: float = 2e9
    stream: float = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Equal nodes with equal GPUs. gpu_gb: memory of each GPU as its vendor states it."""

    nodes: int
    gpus_per_node: int
    gpu_gb: float
    rates: Rates = Rates()

    @property
    def gpu_bytes(self) -> int:
        """Memory that programs can have: an H100 of "80 GB" has 79.6 GiB, an H200 of "141 GB" has 139.8."""
        return round(self.gpu_gb * 0.99 * 2**30)

    @property
    def num_gpus(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus_per_node

    def __str__(self) -> str:
        return f"{self.nodes}x{self.gpus_per_node}x{self.gpu_gb:g}GB"


def parse_hardware(text: str) -> Hardware:
    """NODESxGPUSxMEMORY or GPUSxMEMORY, the memory of one GPU in GB. Raises ConfigError.

    >>> parse_hardware("2x8x80GB").num_gpus, str(parse_hardware("4x141"))
    (16, '1x4x141GB')
    """
    found = _SPEC.fullmatch(text.strip())
    values = found.groupdict() if found else {}
    nodes, gpus, memory = int(values.get("nodes") or 1), int(values.get("gpus") or 0), float(values.get("gb") or 0)
    if not (nodes and gpus and memory):
        raise ConfigError(
            f"--gpus {text!r} is not a cluster size; write NODESxGPUSxMEMORY or GPUSxMEMORY, such as 2x8x80GB: two "
            "nodes with 8 GPUs of 80 GB each"
        )
    return Hardware(nodes=nodes, gpus_per_node=gpus, gpu_gb=memory)
