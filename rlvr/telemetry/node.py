"""The numbers of a node: processors, memory, shared memory, the run directory's disk, GPUs."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from rlvr.telemetry.nvml import Nvml

_SHARED = Path("/dev/shm")


class NodeNumbers:
    """Reads the node's state. What the system does not show is left out.

    In a container, processors and memory are those of the host, /dev/shm and the disk are the container's.
    """

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir
        self._nvml = Nvml()
        psutil.cpu_percent()  # the first reading has nothing to compare with

    def __call__(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """(name, labels, value) of each number."""
        yield "node_cpus", {}, psutil.cpu_count() or 1
        yield "node_cpu_usage_ratio", {}, psutil.cpu_percent() / 100
        yield "node_load1", {}, os.getloadavg()[0]
        memory = psutil.virtual_memory()
        yield "node_memory_size_bytes", {}, memory.total
        yield "node_memory_available_bytes", {}, memory.available
        for name, place in (("shm", _SHARED), ("disk", Path(self._run_dir))):
            with suppress(OSError):  # the node has no such folder
                usage = shutil.disk_usage(place)
                yield f"node_{name}_size_bytes", {}, usage.total
                yield f"node_{name}_free_bytes", {}, usage.free
        for gpu in self._nvml.gpus():
            labels = {"gpu": str(gpu.index)}
            yield "node_gpu_memory_size_bytes", labels, gpu.memory_size
            yield "node_gpu_memory_used_bytes", labels, gpu.memory_used
            if gpu.utilization is not None:
                yield "node_gpu_utilization_ratio", labels, gpu.utilization
