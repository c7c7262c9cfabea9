"""Broadcasts between a real learner and real vLLM engines in this process, with the run's own fleet and driver.

Only the communicator is replaced (`gloo_communicator`), and Ray is left out: an engine is a member of the fleet itself.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import vllm_cases as cases
from gloo_communicator import LOG_VARIABLE

from rlvr.algorithms.build import build_loss
from rlvr.config.sections.learner import LearnerDtype
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.models.policy import Policy
from rlvr.processes.supervised_fleet import Supervision
from rlvr.protocols import LoadReceipt
from rlvr.records import Transport, WeightsRef
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.run.ray.transfer import Transfer
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.communicator import SUBSTITUTE_VARIABLE
from rlvr.transfer.rendezvous import Rendezvous
from tests.unit.learner.learner_cases import make_batch

BUFFER_BYTES = 200_000  # several chunks for the tiny policy


def prepare(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Sets what the processes of learner and engines inherit."""
    monkeypatch.setenv(SUBSTITUTE_VARIABLE, "gloo_communicator:GlooCommunicator")
    monkeypatch.setenv(LOG_VARIABLE, str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


def sent_bytes(folder: Path) -> int:
    """What rank 0 has sent."""
    return sum(int(line) for file in folder.glob("0-*") for line in file.read_text().splitlines())


class Member:
    """An engine as a member of a fleet; `kill` ends vLLM's processes."""

    def __init__(self, engine: VllmEngine, name: str) -> None:
        self.engine = engine
        self.place = name
        self.node = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def kill(self) -> None:
        for process in self.engine.process_ids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


class Sender:
    """A learner of this process as the driver's RemoteSender."""

    address = "127.0.0.1"

    def __init__(self, learner: PolicyLearner | LearnerGroup) -> None:
        self.learner = learner

    async def meet(self) -> int:
        return await asyncio.to_thread(self.learner.meet, self.address)

    async def join(self, rendezvous: Rendezvous) -> None:
        await asyncio.to_thread(self.learner.join, rendezvous)

    async def send(self, ref: WeightsRef) -> WeightsRef:
        return await asyncio.to_thread(self.learner.send, ref)

    async def next_chunk(self, ref: WeightsRef, *, is_first: bool, buffer_bytes: int) -> Chunk | WeightsRef:
        return await asyncio.to_thread(self.learner.next_chunk, ref, is_first, buffer_bytes)

    async def leave(self) -> None:
        await asyncio.to_thread(self.learner.leave)

    async def write_file(self, ref: WeightsRef) -> WeightsRef | None:
        return await asyncio.to_thread(self.learner.write_file, ref)


def learner_of(
    policy: Policy,
    folder: Path,
    *,
    ranks: int = 1,
    dtype: torch.dtype = torch.float32,
    transport: Transport = Transport.NCCL,
) -> Any:
    """A learner that sends; with ranks its caller closes it."""
    recipe = cases.recipe_of("cold_start.steps=0")
    loss = build_loss(recipe.algorithm, max_completion_tokens=8, uses_proximal=True)
    settings: dict[str, Any] = {
        "config": recipe.learner.model_copy(update={"num_threads": 1, "dtype": LearnerDtype.FLOAT32}),
        "loss": loss,
        "temperature": 1.0,
        "transport": transport,
        "reference": None,
        "fault_folder": folder,
        "published_dtype": dtype,
        "weights_folder": folder,
    }
    if ranks > 1:
        return LearnerGroup(policy, num_ranks=ranks, **settings)
    return PolicyLearner(policy, **settings)


def fleet_of(
    learner: Any,
    engines: dict[str, Callable[[], VllmEngine]],
    *,
    events: list[tuple[str, dict[str, Any]]],
    width: int = 1,
    deadline_s: float = 60.0,
    num_engines: int | None = None,
    buffer_bytes: int = BUFFER_BYTES,
    transport: Transport = Transport.NCCL,
) -> EngineFleet:
    """The run's fleet over these engines, by name; a restart builds another."""

    one_by_one = asyncio.Lock()  # an engine finds its processes among the new children of this one

    async def spawn(name: str) -> Member:
        async with one_by_one:
            engine = engines[name]()
            await engine.start()
            return Member(engine, name)

    def note(kind: str, **fields: Any) -> None:
        events.append((kind, fields))

    transfer = Transfer(
        Sender(learner),
        transport=transport,
        width=width,
        deadline_s=deadline_s,
        on_event=note,
        buffer_bytes=buffer_bytes,
    )
    return EngineFleet(
        spawn,
        num_engines=len(engines) if num_engines is None else num_engines,
        supervision=Supervision(heartbeat_s=1.0, answer_s=60.0, start_s=200.0),
        sync_s=deadline_s,
        loads_after_work=False,
        transfer=transfer,
        on_event=note,
    )


def change(learner: Any, policy: Policy, *, seed: int) -> None:
    """Changes the weights: those of ranks by a step, those of one learner much more than a step does."""
    if isinstance(learner, LearnerGroup):
        learner.step(make_batch(seed=seed))
        return
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.1).add_(0.02 * torch.randn(parameter.shape, generator=generator))
    learner._publication.has_changed = True


def largest_gap(receipt: LoadReceipt, scores: Sequence[Sequence[float]]) -> float:
    """The largest difference of a log-prob between any engine and the learner."""
    return max(
        gap
        for one in receipt.each
        for row, own in zip(one.canary_logprobs, scores, strict=True)
        for gap in cases.differences(row, own)
    )
