"""The learner's actor; its handle is `rlvr.run.ray.workers.learner_handle`."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from rlvr.config.recipe import Recipe
from rlvr.errors import Interrupted
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.models.allocator import keep_freed_memory
from rlvr.models.dtype_speed import DtypeSpeeds, measure_dtypes
from rlvr.models.policy import Policy, PolicyText
from rlvr.records import Transport
from rlvr.run.launch.start_learner import learner_device, open_policy, start_learner
from rlvr.run.ray.watch import stacks_here
from rlvr.run.ray.weight_files import read_chunks
from rlvr.stages.supervised import SupervisedReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartProgress:
    """The latest step of a running cold start; 0 before the first."""

    step: int = 0
    loss: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The facts that the driver receives when the policy is loaded."""

    text: PolicyText
    place: str
    node_id: str
    address: str
    sees_run_dir: bool


@ray.remote(concurrency_groups={"questions": 2})  # type: ignore # Ray's stub wants every option
class LearnerActor:
    """Runs in a threaded actor: one thread works, another answers questions meanwhile."""

    def __init__(self, recipe: Recipe, num_threads: int) -> None:
        keep_freed_memory()
        self._recipe = recipe
        self._num_threads = num_threads
        self._policy: Policy | None = None
        self._learner: PolicyLearner | LearnerGroup | None = None
        self._progress = ColdStartProgress()
        self._stop = threading.Event()

    def open(self, run_dir: str) -> Opened:
        """Loads the policy (without weights if several learners will hold them); looks for the run directory."""
        torch.set_num_threads(self._num_threads)
        self._policy = open_policy(self._recipe, transport=_transport(self._recipe))
        return Opened(
            text=self._policy.text,
            place=f"node {ray.util.get_node_ip_address()}, process {os.getpid()}",
            node_id=ray.get_runtime_context().get_node_id(),
            address=ray.util.get_node_ip_address(),
            sees_run_dir=not run_dir or Path(run_dir).is_dir(),
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
        )
        self._learner = started.learner
        return started.cold_start

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of the learner."""
        assert self._learner is not None  # the handle starts first
        return getattr(self._learner, method)(*arguments, **named)

    @ray.method(concurrency_group="questions")
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
