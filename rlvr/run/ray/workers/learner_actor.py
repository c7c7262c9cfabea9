"""The learner's actor; its handle is `rlvr.run.ray.workers.learner_handle`."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from rlvr.config.recipe import Placement, Recipe
from rlvr.errors import Interrupted
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.models.allocator import keep_freed_memory, use_expandable_segments
from rlvr.models.download import ModelDownload
from rlvr.models.dtype_speed import DtypeSpeeds, measure_dtypes
from rlvr.models.policy import Policy, PolicyText
from rlvr.records import Transport, WeightsRef
from rlvr.run.launch.start_learner import learner_device, open_policy, start_learner
from rlvr.run.ray.watch import stacks_here
from rlvr.run.ray.weight_files import read_chunks
from rlvr.run.ray.workers.rank_handle import FarBundle, RankHosts
from rlvr.run.ray.workers.rank_host import threads_of_node
from rlvr.stages.supervised import SupervisedReport
from rlvr.telemetry import logs
from rlvr.telemetry.process import begin_process


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartProgress:
    """The latest step of a running cold start; 0 before the first."""

    step: int = 0
    loss: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The facts that the driver receives when the policy is loaded.

    devices: the ids of the GPUs that it was given. rank_nodes: the addresses of the nodes with more of its ranks.
    """

    text: PolicyText
    place: str
    node_id: str
    address: str
    sees_run_dir: bool
    devices: tuple[str, ...] = ()
    rank_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverThreads:
    """How many threads torch would use in the driver, and on which node that is."""

    node_id: str
    num_threads: int


def threads_here(driver: DriverThreads) -> int:
    """The threads of a learner whose recipe sets none: the driver's on its node, else this node's physical cores.

    Torch's own default is no use in an actor: Ray sets OMP_NUM_THREADS to the cores of the reservation, which is one.
    """
    if ray.get_runtime_context().get_node_id() == driver.node_id:
        return driver.num_threads
    return threads_of_node()


@ray.remote(concurrency_groups={"questions": 2, "weights": 4})  # type: ignore # Ray's stub wants every option
class LearnerActor:
    """Runs in a threaded actor: one thread works, others answer questions and send weights meanwhile."""

    def __init__(self, recipe: Recipe, driver: DriverThreads, far: Sequence[FarBundle] = ()) -> None:
        """Args: far: reservations for ranks on other nodes."""
        keep_freed_memory()
        is_alone = recipe.cluster.learners == 1
        begin_process("learner-0" if is_alone else "learner", node=ray.util.get_node_ip_address())
        if recipe.cluster.placement is not Placement.COLOCATED:  # engines cannot map such memory
            use_expandable_segments()
        self._recipe = recipe
        self._num_threads = recipe.learner.num_threads or threads_here(driver)
        self._policy: Policy | None = None
        self._learner: PolicyLearner | LearnerGroup | None = None
        self._progress = ColdStartProgress()
        self._hosts = RankHosts(recipe, far)
        self._download = ModelDownload(recipe.model)
        self._stop = threading.Event()

    def download(self) -> None:
        """Brings the model's files onto this node and those of other ranks, if the recipe names one of the hub.

        `open` then only reads them.
        """
        self._download.run()
        self._hosts.download()

    @ray.method(concurrency_group="questions")
    def downloaded_bytes(self) -> int:
        """How much of the model has arrived, on all nodes."""
        return self._download.num_bytes() + self._hosts.downloaded_bytes()

    def open(self, run_dir: str) -> Opened:
        """Loads the policy (without weights if several learners will hold them); looks for the run directory.

        Raises: ConfigError when a host of other ranks has too few devices, or does not see the run directory.
        """
        torch.set_num_threads(self._num_threads)
        if self._hosts:
            self._hosts.require(is_on_cuda=learner_device(self._recipe).type == "cuda", run_dir=run_dir)
        self._policy = open_policy(self._recipe, transport=_transport(self._recipe), spans_nodes=bool(self._hosts))
        return Opened(
            text=self._policy.text,
            place=f"node {ray.util.get_node_ip_address()}, process {os.getpid()}",
            node_id=ray.get_runtime_context().get_node_id(),
            address=ray.util.get_node_ip_address(),
            sees_run_dir=not run_dir or Path(run_dir).is_dir(),
            rank_nodes=tuple(self._hosts.addresses()),
            devices=tuple(str(device) for device in ray.get_runtime_context().get_accelerator_ids().get("GPU", ())),
        )

    def measure_dtypes(self) -> DtypeSpeeds:
        """Measures which dtype is faster in this process, on the policy's device."""
        assert self._policy is not None  # the handle opens first
        return measure_dtypes(self._policy.model, learner_device(self._recipe))

    def start(
        self, recipe: Recipe, transport: Transport, faults: str, reference_folder: str, checkpoint: str | None
    ) -> SupervisedReport | None:
        """Builds the learner of a recipe without `auto`; returns the cold start's report if there was one."""
        assert self._policy is not None  # the handle opens first
        self._recipe = recipe
        started = start_learner(
            self._recipe,
            policy=self._policy,
            transport=transport,
            faults=Path(faults),
            reference_folder=Path(reference_folder),
            checkpoint=Path(checkpoint) if checkpoint else None,
            progress=self._note,
            spread=self._hosts.spread() if self._hosts else None,
        )
        self._learner = started.learner
        return started.cold_start

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of the learner."""
        assert self._learner is not None  # the handle starts first
        result = getattr(self._learner, method)(*arguments, **named)
        if isinstance(result, WeightsRef):
            logs.set_step(result.policy_version)
        if method == "publish" and self._recipe.cluster.placement is Placement.COLOCATED:
            self._learner.release_memory()  # the engines wake on the same devices now
        return result

    @ray.method(concurrency_group="weights")
    def read_weights(self, path: str, chunk_bytes: int) -> Iterator[bytes]:
        """A published file in chunks, for a node that does not see it."""
        yield from read_chunks(path, chunk_bytes)

    @ray.method(concurrency_group="questions")
    def progress(self) -> ColdStartProgress:
        """The progress of the cold start."""
        return self._progress

    @ray.method(concurrency_group="questions")
    def stop_cold_start(self) -> None:
        """Makes the cold start end with Interrupted after the current step."""
        self._stop.set()

    @ray.method(concurrency_group="questions")
    def stacks(self) -> str:
        """The stacks of this process's threads."""
        return stacks_here()

    def close(self) -> None:
        """Ends ranks and removes published files."""
        if self._learner is not None:
            self._learner.close()

    def _note(self, step: int, loss: float) -> None:
        self._progress = ColdStartProgress(step=step, loss=loss)
        if self._stop.is_set():
            raise Interrupted(f"stopped in the cold start at step {step}; nothing was saved, --resume starts over")


def _transport(recipe: Recipe) -> Transport:
    return Transport.FILE if recipe.rollout.engine.traits.has_weights else Transport.SHARED
