"""The loop's handle of the learner: the same methods, run in an actor. Every call has a deadline."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray import exceptions as ray_errors

from rlvr.algorithms.corrections import Correction
from rlvr.batch import Batch, Denominators, StepReport
from rlvr.config.recipe import Recipe
from rlvr.config.sections.cluster import ClusterConfig
from rlvr.errors import LearnerError
from rlvr.models.dtype_speed import DtypeSpeeds
from rlvr.records import Transport, WeightsRef
from rlvr.run.launch.backend import RunContext
from rlvr.run.launch.local import record_cold_start
from rlvr.run.ray.calls import Calls
from rlvr.run.ray.connect import end_actor
from rlvr.run.ray.watch import WaitBoard
from rlvr.run.ray.weight_files import WeightSource
from rlvr.run.ray.workers.fleet_weights import GRACE_S
from rlvr.run.ray.workers.learner_actor import DriverThreads, LearnerActor, Opened
from rlvr.run.ray.workers.rank_handle import FarBundle
from rlvr.run.step.failures import LearnerLost
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous

_POLL_S = 0.3
_DOWNLOAD_POLL_S = 2.0
_LINE_EVERY_S = 30.0


class LearnerHandle:
    """Implements `rlvr.batch.ProvableLearner` with an actor that it starts and ends."""

    def __init__(
        self, recipe: Recipe, *, options: dict[str, Any], board: WaitBoard, far: Sequence[FarBundle] = ()
    ) -> None:
        """Args: far: reservations for ranks on other nodes, whose hosts the actor starts."""
        self._recipe = recipe
        self._deadlines = recipe.cluster
        start: Any = LearnerActor
        driver = DriverThreads(node_id=ray.get_runtime_context().get_node_id(), num_threads=torch.get_num_threads())
        self._calls = Calls(
            start.options(**options).remote(recipe, driver, far),
            name="the learner",
            owner="the run",
            board=board,
            lost=lambda reason: LearnerLost(f"the learner's process is gone: {reason}"),
        )
        self.opened: Opened | None = None

    def download(self, say: Callable[[str], None]) -> None:
        """Waits until the model's files are on the learners' nodes; a download may take as long as it makes progress.

        Raises: LearnerError when nothing arrives for cluster.start_deadline_s.
        """
        running = self._calls.actor.download.remote()
        limit_s = self._deadlines.start_deadline_s
        watch_download(
            lambda seconds: bool(ray.wait([running], timeout=seconds)[0]),
            num_bytes=lambda: self._calls.now("downloaded_bytes", what="its download", deadline_s=limit_s),
            name=self._recipe.model.path,
            silence_s=limit_s,
            say=say,
        )
        try:
            ray.get(running)
        except ray_errors.RayError as error:
            raise self._calls.meaning(error) from error

    def open(self, run_dir: Path) -> Opened:
        """Waits until the policy is loaded."""
        self.opened = self._calls.now(
            "open", str(run_dir), what="loading the policy", deadline_s=self._deadlines.start_deadline_s
        )
        assert self.opened is not None
        return self.opened

    def measure_dtypes(self) -> DtypeSpeeds:
        """Measures which dtype is faster there."""
        return self._ask("measure_dtypes", what="the measurement of dtypes")

    def start(self, context: RunContext, *, transport: Transport) -> None:
        """Waits for the cold start, or for the checkpoint to be restored. Args: transport: of the weights."""
        self._recipe = context.recipe
        checkpoint = str(context.resumed.folder.resolve()) if context.resumed else None
        actor = self._calls.actor
        running = actor.start.remote(
            context.recipe, transport, str(context.faults.resolve()), str(context.reference.resolve()), checkpoint
        )
        shown = 0
        is_stop_sent = False
        while not ray.wait([running], timeout=_POLL_S)[0]:
            progress = self._ask("progress", what="the cold start's progress")
            if progress.step > shown:
                shown = progress.step
                context.console.cold_start(shown, self._recipe.cold_start.steps, progress.loss)
            if context.stop.requested and not is_stop_sent:
                is_stop_sent = True
                self._ask("stop_cold_start", what="the cold start to stop")
        try:
            report: Any = ray.get(running)
        except ray_errors.RayError as error:
            raise self._calls.meaning(error) from error
        record_cold_start(context, report)

    @property
    def source(self) -> WeightSource:
        """Where engines on other nodes fetch published weights."""
        assert self.opened is not None
        return WeightSource(actor=self._calls.actor, node_id=self.opened.node_id)

    def annotate(self, batch: Batch) -> Batch:
        """The batch with the proximal and reference log-probs that the algorithm needs."""
        return self._work("annotate", batch)

    def accumulate(self, batch: Batch) -> None:
        """Adds the un-normalised gradient of these rows."""
        self._work("accumulate", batch)

    def apply(self, denominators: Denominators) -> StepReport:
        """Applies the accumulated gradient, divided by the denominators."""
        return self._work("apply", denominators)

    def step(self, batch: Batch) -> StepReport:
        """Trains on all minibatches of one step."""
        return self._work("step", batch)

    def publish(self) -> WeightsRef:
        """A reference by which engines load the current weights."""
        return self._work("publish", deadline_s=self._deadlines.sync_deadline_s)

    @property
    def sender(self) -> "LearnerSender":
        """The learner as the sender of weights."""
        assert self.opened is not None
        return LearnerSender(self._calls, address=self.opened.address, deadlines=self._deadlines)

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probs (nats) of each row's tokens after the first."""
        return self._work("score", rows)

    def tensor_groups(self, *, most: int) -> Mapping[str, tuple[str, ...]]:
        """The trained tensors in about `most` groups."""
        return self._work("tensor_groups", most=most)

    def perturb(self, names: Sequence[str], *, scale: float) -> None:
        """Adds noise to these tensors; `publish` then gives a trial."""
        self._work("perturb", names, scale=scale)

    def unperturb(self) -> None:
        """Restores the weights from before `perturb`, bit for bit."""
        self._work("unperturb")

    def start_save(self, folder: Path) -> None:
        """Saves to a folder on a file system that driver and learner share; see `rlvr.batch.Learner`."""
        self._work("start_save", folder.resolve())

    def is_saved(self, *, waits: bool) -> bool:
        """Whether everything is written. Each question has the deadline of a step, but not the writing."""
        while not self._work("is_saved", waits=False):
            if not waits:
                return False
            time.sleep(_POLL_S)
        return True

    def restore(self, folder: Path) -> None:
        """Reads what `start_save` wrote."""
        self._work("restore", folder.resolve())

    def set_correction(self, correction: Correction) -> None:
        """Sets the loss's correction from the next rows on."""
        self._work("set_correction", correction)

    def close(self) -> None:
        """Closes the learner if it answers, and ends the actor."""
        closing = self._calls.actor.close.remote()
        ray.wait([closing], timeout=10.0)
        end_actor(self._calls.actor)

    def _work(self, method: str, *arguments: Any, deadline_s: float | None = None, **named: Any) -> Any:
        return self._calls.now(
            "call",
            method,
            *arguments,
            what=f"Learner.{method}",
            deadline_s=deadline_s or self._deadlines.step_deadline_s,
            **named,
        )

    def _ask(self, method: str, *, what: str) -> Any:
        return self._calls.now(method, what=what, deadline_s=self._deadlines.step_deadline_s)


class LearnerSender:
    """Implements `rlvr.run.ray.transfer.RemoteSender` by calls that do not block the event loop."""

    def __init__(self, calls: Calls, *, address: str, deadlines: ClusterConfig) -> None:
        self.address = address
        self._calls = calls
        self._deadlines = deadlines

    async def meet(self) -> int:
        """Opens the store of the next group."""
        return await self._ask("meet", self.address, what="a place where engines meet it")

    async def join(self, rendezvous: Rendezvous) -> None:
        """Waits for the engines."""
        await self._ask("join", rendezvous, what="it to join the transfer of weights")

    async def send(self, ref: WeightsRef) -> WeightsRef:
        """Sends the weights of `ref`."""
        return await self._ask("send", ref, what=f"the weights of version {ref.policy_version} to be sent")

    async def next_chunk(self, ref: WeightsRef, *, is_first: bool, buffer_bytes: int) -> Chunk | WeightsRef:
        """The next chunk for engines on the learner's GPU."""
        what = f"a chunk of the weights of version {ref.policy_version}"
        return await self._ask("next_chunk", ref, is_first, buffer_bytes, what=what)

    async def leave(self) -> None:
        """Leaves the group."""
        await self._ask("leave", what="it to leave the transfer of weights")

    async def write_file(self, ref: WeightsRef) -> WeightsRef | None:
        """The same weights as a file; waits for the end of a training step."""
        what = f"the file of version {ref.policy_version}"
        limit_s = self._deadlines.step_deadline_s + self._deadlines.sync_deadline_s
        return await self._calls.later("call", "write_file", ref, what=what, deadline_s=limit_s)

    async def _ask(self, method: str, *arguments: Any, what: str) -> Any:
        """The learner keeps the deadline itself; it may begin late, when it is writing a file for an engine."""
        limit_s = 2 * self._deadlines.sync_deadline_s + GRACE_S
        return await self._calls.later("call", method, *arguments, what=what, deadline_s=limit_s)


def watch_download(
    is_done: Callable[[float], bool],
    *,
    num_bytes: Callable[[], int],
    name: str,
    silence_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Waits for a download, and says now and then how much has arrived.

    Args:
        is_done: waits at most that many seconds for the end.
        silence_s: how long the number of bytes may stay the same.

    Raises: LearnerError after `silence_s` without another byte.
    """
    most, grew, said = 0, clock(), clock()
    while not is_done(_DOWNLOAD_POLL_S):
        arrived, now = num_bytes(), clock()
        if arrived > most:
            most, grew = arrived, now
        if now - grew > silence_s:
            raise LearnerError(
                f"the download of {name} has made no progress for cluster.start_deadline_s={silence_s:g} s, at "
                f"{most / 2**30:.2f} GiB; check the network of the learner's node (HF_ENDPOINT, proxies: cluster.env), "
                f"or fetch it there beforehand: hf download {name}"
            )
        if arrived and now - said >= _LINE_EVERY_S:
            said = now
            say(f"downloading {name} on the learner's node: {arrived / 2**30:.2f} GiB so far")
