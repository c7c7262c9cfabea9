"""One rank of a learner group: a sharded policy, its learner, and answers to what the parent asks.

It knows nothing of processes and pipes, so the code that starts ranks can place it anywhere.
"""

import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[reportPrivateImportUsage] # its documented place
from torch.distributed.device_mesh import init_device_mesh
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.algorithms.corrections import Correction
from rlvr.batch import Denominators
from rlvr.config.sections.learner import LearnerConfig
from rlvr.errors import CheckpointError
from rlvr.importance_weights import WeightBound, WeightLevel
from rlvr.learner.checkpoint import Counters, save_optimizer
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.lockstep import Lockstep
from rlvr.learner.ranks.messages import Message, batch_of
from rlvr.learner.ranks.sharding import gather_into, release, scatter_from, shard
from rlvr.models.allocator import release_cached_memory
from rlvr.models.policy import Policy
from rlvr.records import Transport

_NEVER = timedelta(days=7)  # the parent decides when a rank has hung


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTask:
    """The training task of the ranks, as arguments of `PolicyLearner`."""

    config: LearnerConfig
    loss: LossFunction
    temperature: float
    fault_folder: Path
    lr_decay: tuple[int, int, float] | None


class RankServer:
    """Answers one request after another; all ranks get the same requests in the same order."""

    def __init__(
        self,
        policy: Policy,
        *,
        reference: PreTrainedModel | None,
        config: LearnerConfig,
        rank: int,
        size: int,
        device_type: str,
        store_file: str,
        alive: Callable[[], None],
    ) -> None:
        """Joins the other ranks and shards the models; waits for the others, for as long as the parent does.

        Args:
            policy: its model holds whole weights in memory that the parent sees.
            reference: whole; `policy.model` itself if the reference is the policy without its adapters.
            alive: called from time to time during work.
        """
        if device_type == "cuda":
            torch.cuda.set_device(rank)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=FileStore(store_file, size),
            rank=rank,
            world_size=size,
            timeout=_NEVER,
        )
        self._alive = alive
        self._is_first = rank == 0
        self._policy = policy
        self._reference = reference
        self._peers = Lockstep(alive=alive)
        self._mirror = {name: p.detach() for name, p in policy.model.named_parameters()}
        self._learner: PolicyLearner | None = None
        self._operations: dict[str, Callable[[PolicyLearner, Message], dict[str, Any] | None]] = {
            "annotate": self._annotate,
            "accumulate": self._accumulate,
            "apply": self._apply,
            "correction": self._correct,
            "gather": self._gather,
            "scatter": self._scatter,
            "release_memory": lambda _learner, _request: release_cached_memory(),
            "score": self._score,
            "save": self._save,
            "restore": self._restore,
        }
        mesh = init_device_mesh(device_type, (size,))
        for model in self._models():
            shard(model, mesh=mesh, config=config)
            self._peers.watch(model)

    def begin(self, task: RankTask) -> None:
        """Begins `task`: from the weights that the parent sees, with a new optimiser."""
        scatter_from(self._mirror, self._policy.model)
        self._learner = PolicyLearner(
            self._policy,
            config=task.config,
            loss=task.loss,
            temperature=task.temperature,
            transport=Transport.SHARED,
            reference=self._reference,
            fault_folder=task.fault_folder,
            lr_decay=task.lr_decay,
            peers=self._peers,
        )

    def answer(self, request: Message) -> Message:
        """Executes the request. Raises: RlvrError for an expected failure."""
        op = request.body["op"]
        if op == "begin":
            self.begin(pickle.loads(request.tensors["task"].numpy().tobytes()))
            return Message(body={"op": "done"})
        if self._learner is None:
            raise ValueError(f"op={op!r} came before 'begin'")
        if op not in self._operations:
            raise ValueError(f"op={op!r} is unknown to a rank")
        result = self._operations[op](self._learner, request) or {}
        tensors = result.pop("tensors", {})
        return Message(body={"op": "done", **result}, tensors=tensors)

    def _annotate(self, learner: PolicyLearner, request: Message) -> dict[str, Any]:
        tensors = learner.annotations(batch_of(request))
        for model in self._models():
            release(model)
        return {"tensors": tensors}

    def _accumulate(self, learner: PolicyLearner, request: Message) -> None:
        learner.accumulate(batch_of(request))
        release(self._policy.model)  # the last pass may have been forward only

    def _apply(self, learner: PolicyLearner, request: Message) -> dict[str, Any]:
        return {"outcome": learner.update(Denominators(**request.body["denominators"])).to_json()}

    def _correct(self, learner: PolicyLearner, request: Message) -> None:
        learner.set_correction(correction_from_json(request.body["correction"]))

    def _gather(self, _learner: PolicyLearner, _request: Message) -> None:
        gather_into(self._mirror, self._policy.model, is_writer=self._is_first, alive=self._alive)

    def _scatter(self, _learner: PolicyLearner, _request: Message) -> None:
        scatter_from(self._mirror, self._policy.model)

    def _score(self, learner: PolicyLearner, request: Message) -> dict[str, Any]:
        scores = learner.score(request.body["rows"])
        release(self._policy.model)
        return {"scores": scores}

    def _save(self, learner: PolicyLearner, request: Message) -> None:
        folder, model = Path(request.body["folder"]), self._policy.model
        try:
            save_optimizer(folder, optimizer=learner.optimizer, model=model, is_writer=self._is_first)
        except OSError as error:
            raise CheckpointError(f"the optimiser's state could not be written to {folder}: {error}") from error

    def _restore(self, learner: PolicyLearner, request: Message) -> None:
        scatter_from(self._mirror, self._policy.model)
        learner.restore_progress(Path(request.body["folder"]), Counters(**request.body["counters"]))

    def _models(self) -> list[PreTrainedModel]:
        if self._reference is None or self._reference is self._policy.model:
            return [self._policy.model]
        return [self._policy.model, self._reference]


def task_message(task: RankTask) -> Message:
    """The request to begin a task; the one message with pickled content, which is the parent's own."""
    pickled = torch.frombuffer(bytearray(pickle.dumps(task)), dtype=torch.uint8)
    return Message(body={"op": "begin"}, tensors={"task": pickled})


def correction_to_json(correction: Correction) -> dict[str, Any]:
    """Values for JSON."""
    return asdict(correction)


def correction_from_json(values: dict[str, Any]) -> Correction:
    """The Correction that `correction_to_json` wrote.

    >>> strict = Correction(level=WeightLevel.TOKEN, bound=WeightBound.MASK, weight_max=1.5)
    >>> correction_from_json(correction_to_json(strict)) == strict
    True
    """
    assert {f.name for f in fields(Correction)} == set(values)
    enums = {"level": WeightLevel(values["level"]), "bound": WeightBound(values["bound"])}
    return Correction(**{**values, **enums})
