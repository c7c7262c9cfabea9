"""The actor that runs ranks of the learner on another node; its handles are `rlvr.run.ray.workers.rank_handle`.

    learner actor: RankPool --- frames ---> RankHost, one per node and reservation --- pipes ---> rank processes

The host only starts the processes and passes frames on, so a rank is the same process wherever it runs. It ends with
the host, and Ray ends the host with the learner's actor, which owns it.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import ray
import torch

from rlvr.config.recipe import ModelConfig
from rlvr.errors import LearnerError
from rlvr.learner.ranks.process import RankProcess
from rlvr.models.download import ModelDownload
from rlvr.processes import frames
from rlvr.processes.child import move
from rlvr.run.ray.watch import stacks_here
from rlvr.telemetry.process import begin_process

MOST_RANKS = 16  # of a host: threads of the actor
_POLL_S = 1.0
_GRACE_S = 1.0
ENDED = "ended"  # the last frame of a rank: how it ended and its last lines


@ray.remote(concurrency_groups={"ranks": MOST_RANKS, "questions": 2})  # type: ignore # Ray's stub wants every option
class RankHost:
    """One thread downloads and starts ranks, and lives as long as they do; one thread per rank passes its frames on."""

    def __init__(self, model: ModelConfig) -> None:
        begin_process("learner-host", node=ray.util.get_node_ip_address())
        self._download = ModelDownload(model)
        self._ranks: dict[int, RankProcess] = {}

    def download(self) -> None:
        """Brings the model's files onto this node, if the recipe names one of the hub."""
        self._download.run()

    @ray.method(concurrency_group="questions")
    def downloaded_bytes(self) -> int:
        """How much of the model has arrived."""
        return self._download.num_bytes()

    def require(self, num_ranks: int, *, is_on_cuda: bool, run_dir: str) -> str:
        """What keeps this host from running `num_ranks` ranks; "" if nothing does.

        Either it has too few CUDA devices, or it does not see the run directory.
        """
        num_devices = torch.cuda.device_count() if is_on_cuda else num_ranks
        if num_devices < num_ranks:
            return f"{_here()} has {num_devices} CUDA devices, {num_ranks} learners were to run there"
        if run_dir and not Path(run_dir).is_dir():
            return f"{_here()} does not see the run directory {run_dir}"
        return ""

    def address(self) -> str:
        """Of this node."""
        return ray.util.get_node_ip_address()

    def num_threads(self) -> int:
        """How many threads all ranks of this node can use."""
        return threads_of_node()

    def start(self, rank: int, num_threads: int, device_index: int) -> int:
        """Starts a rank; returns its process id."""
        self._ranks[rank] = RankProcess(
            rank,
            num_threads=num_threads,
            device_index=device_index,
            interface=interface_of(ray.util.get_node_ip_address()),
        )
        return self._ranks[rank].pid

    @ray.method(concurrency_group="ranks")
    def exchange(self, rank: int, request: bytes) -> Iterator[bytes]:
        """Sends a frame to a rank; yields its frames as they come, up to its answer, or how it ended."""
        process = self._ranks[rank]
        process.send(request)
        while True:
            readable = move([process], _POLL_S)[0]
            if readable and not process.read():
                how = process.wait(_GRACE_S) or "it closed its pipe"
                yield frames.encode({"op": ENDED, "how": how, "tail": process.tail()})
                return
            while (frame := process.next_frame()) is not None:
                yield frames.encode(frame.body, frame.blob)
                if frame.body["op"] in ("done", "failed"):
                    return

    @ray.method(concurrency_group="questions")
    def wait(self, rank: int, timeout_s: float) -> str | None:
        """How a rank ended; None when it still runs after the timeout."""
        return self._ranks[rank].wait(timeout_s)

    @ray.method(concurrency_group="questions")
    def ask_for_stack(self, rank: int) -> bool:
        """Has a rank print its stack; False when it does not."""
        return self._ranks[rank].ask_for_stack()

    @ray.method(concurrency_group="questions")
    def tail(self, rank: int) -> str:
        """The last lines of a rank's standard error."""
        return self._ranks[rank].tail()

    @ray.method(concurrency_group="questions")
    def stacks(self) -> str:
        """The stacks of this process's threads."""
        return stacks_here()


@functools.cache
def interface_of(address: str) -> str:
    """The network interface with this address. Raises LearnerError when there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            return name
    raise LearnerError(
        f"no network interface of this node has the address {address}, under which Ray knows it; start its Ray with "
        "--node-ip-address and an address that the other nodes reach"
    )


def threads_of_node() -> int:
    """The physical cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def _here() -> str:
    return f"node {ray.util.get_node_ip_address()}"
