"""One rank of a learner group: a sharded policy, its learner, and answers to what the parent asks.

It knows nothing of processes and pipes, so the code that starts ranks can place it anywhere.
"""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.batch import Denominators
from rlvr.config.sections.learner import LearnerConfig
from rlvr.errors import TransferError
from rlvr.learner import checkpoint
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.loading import WeightSource, load_folder, load_source
from rlvr.learner.ranks.lockstep import Lockstep
from rlvr.learner.ranks.memory import meet
from rlvr.learner.ranks.messages import Message, batch_of, correction_from_json, ref_to_json
from rlvr.learner.ranks.saving import ShardedSaver
from rlvr.learner.ranks.sharding import gather_into, materialize, release, scatter_from, shard
from rlvr.learner.ranks.signs import signs_of_life
from rlvr.learner.shards import local_part
from rlvr.learner.weights.publication import Publication
from rlvr.learner.weights.rank_files import RankFiles
from rlvr.learner.weights.sending import Sender
from rlvr.learner.weights.wire import published_parts
from rlvr.models import lora, sharded_weights
from rlvr.models.allocator import release_cached_memory
from rlvr.models.policy import Policy
from rlvr.records import TensorEntry, Transport, WeightsKind
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous

_NEVER = timedelta(days=7)  # the parent decides when a rank has hung


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTask:
    """The training task of the ranks, as arguments of `PolicyLearner`.

    weights_folder: where rank 0 writes published weights; None if the parent publishes.
    """

    config: LearnerConfig
    loss: LossFunction
    temperature: float
    fault_folder: Path
    lr_decay: tuple[int, int, float] | None
    published_dtype: torch.dtype
    published_kind: WeightsKind
    weights_folder: Path | None


class RankServer:
    """Answers one request after another; all ranks get the same requests in the same order."""

    def __init__(
        self,
        policy: Policy,
        *,
        reference: PreTrainedModel | None,
        source: WeightSource | None,
        config: LearnerConfig,
        rank: int,
        size: int,
        device_type: str,
        device_index: int,
        meeting: Mapping[str, Any],
        alive: Callable[[], None],
    ) -> None:
        """Joins the other ranks, shards the models and loads them; waits for the others as long as the parent does.

        Args:
            policy: its model holds whole weights in memory that the parent sees, or is on the meta device.
            reference: `policy.model` itself if the reference is the policy without its adapters; on the meta device it
                stays undefined until the operation "reference".
            source: where the weights of a model on the meta device are read.
            device_index: of its device among those that this process sees.
            meeting: where the ranks meet, see `rlvr.learner.ranks.memory.Meeting`.
            alive: called from time to time during work.
        """
        if device_type == "cuda":
            torch.cuda.set_device(device_index)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=meet(meeting, size=size, timeout=_NEVER),
            rank=rank,
            world_size=size,
            timeout=_NEVER,
        )
        self._alive = alive
        self._is_first = rank == 0
        self._policy = policy
        self._reference = reference
        self._peers = Lockstep(alive=alive)
        self._mirror = {} if source else {name: p.detach() for name, p in policy.model.named_parameters()}
        self._saver = ShardedSaver(alive=alive, timeout=_NEVER)
        self._learner: PolicyLearner | None = None
        self._operations: dict[str, Callable[[PolicyLearner, Message], dict[str, Any] | None]] = {
            "annotate": self._annotate,
            "accumulate": self._accumulate,
            "apply": self._apply,
            "correction": self._correct,
            "gather": self._gather,
            "publish": self._publish,
            "perturb": self._perturb,
            "unperturb": self._unperturb,
            "reference": self._load_reference,
            "release_memory": lambda _learner, _request: release_cached_memory(),
            "score": self._score,
            "meet": self._meet,
            "join": self._join,
            "send": self._send,
            "next_chunk": self._next_chunk,
            "leave": self._leave,
            "write_file": self._write_file,
            "save": self._save,
            "saved": self._saved,
            "restore": self._restore,
        }
        mesh = init_device_mesh(device_type, (size,))
        for model in self._models():
            shard(model, mesh=mesh, config=config)
            materialize(model, device=torch.device(device_type))
            self._peers.watch(model)
        if source is not None:
            load_source(policy.model, source, alive=alive)
        self._sender = Sender(policy.model, is_first=self._is_first, alive=alive)

    def begin(self, task: RankTask) -> None:
        """Begins `task`: from the weights that the parent sees, or else from the present ones; with a new optimiser."""
        if self._mirror:
            scatter_from(self._mirror, self._policy.model)
        files = RankFiles(task.weights_folder if self._is_first else None, alive=self._alive)
        self._learner = PolicyLearner(
            self._policy,
            config=task.config,
            loss=task.loss,
            temperature=task.temperature,
            transport=Transport.SHARED if task.weights_folder is None else Transport.FILE,
            reference=self._reference,
            fault_folder=task.fault_folder,
            published_dtype=task.published_dtype,
            published_kind=task.published_kind,
            weight_files=files,
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

    def _publish(self, learner: PolicyLearner, _request: Message) -> dict[str, Any]:
        """Every rank gathers; rank 0 has written the file that its answer describes."""
        ref = learner.publish()
        return {"ref": ref_to_json(ref)} if self._is_first else {}

    def _perturb(self, learner: PolicyLearner, request: Message) -> None:
        learner.perturb(request.body["names"], scale=request.body["scale"])

    def _unperturb(self, learner: PolicyLearner, _request: Message) -> None:
        learner.unperturb()

    def _load_reference(self, _learner: PolicyLearner, request: Message) -> None:
        """Loads the reference from a folder, or from the policy's present weights with adapters merged."""
        assert self._reference is not None
        if request.body["folder"]:
            load_folder(self._reference, Path(request.body["folder"]), alive=self._alive)
            return
        own = dict(self._reference.named_parameters())
        for name, part in published_parts(self._policy.model):
            self._alive()
            local_part(own[name].detach()).copy_(local_part(part))

    def _score(self, learner: PolicyLearner, request: Message) -> dict[str, Any]:
        scores = learner.score(request.body["rows"])
        release(self._policy.model)
        return {"scores": scores}

    def _meet(self, _learner: PolicyLearner, request: Message) -> dict[str, Any]:
        return {"port": self._sender.meet(request.body["address"])}

    def _join(self, _learner: PolicyLearner, request: Message) -> dict[str, Any]:
        values = request.body["rendezvous"]
        try:
            self._sender.join(Rendezvous(**{**values, "names": tuple(values["names"])}))
        except TransferError as error:
            return {"error": str(error)}
        return {"error": ""}

    def _send(self, _learner: PolicyLearner, request: Message) -> dict[str, Any]:
        try:
            sent = self._sender.send(_entries(request), dtype=getattr(torch, request.body["dtype"]))
        except TransferError as error:  # an answer, because the ranks are well
            return {"error": str(error)}
        return {"error": "", "checksums": [entry.checksum for entry in sent]}

    def _next_chunk(self, _learner: PolicyLearner, request: Message) -> dict[str, Any]:
        found = self._sender.next_chunk(
            _entries(request),
            dtype=getattr(torch, request.body["dtype"]),
            is_first=request.body["is_first"],
            buffer_bytes=request.body["buffer_bytes"],
        )
        if isinstance(found, Chunk):
            return {"chunk": found.to_json()}
        return {"chunk": None, "checksums": [entry.checksum for entry in found]}

    def _leave(self, _learner: PolicyLearner, _request: Message) -> None:
        self._sender.leave()

    def _write_file(self, _learner: PolicyLearner, request: Message) -> dict[str, Any]:
        """Rank 0 writes whole weights into the parent's folder, for an engine that starts alone."""
        files = RankFiles(Path(request.body["folder"]) if self._is_first else None, alive=self._alive)
        dtype = getattr(torch, request.body["dtype"])
        publication = Publication(transport=Transport.FILE, dtype=dtype, files=files)
        ref = publication.write_whole(self._policy.model, request.body["version"])
        return {"ref": ref_to_json(ref)} if self._is_first else {}

    def _save(self, learner: PolicyLearner, request: Message) -> None:
        model = self._policy.model
        optimizer = learner.optimizer if request.body["has_optimizer"] else None
        self._saver.start(
            Path(request.body["folder"]),
            weights=checkpoint.sharded_weights_state(model),
            optimizer={} if optimizer is None else checkpoint.sharded_optimizer_state(optimizer, model),
        )

    def _saved(self, _learner: PolicyLearner, request: Message) -> dict[str, Any]:
        if not (request.body["waits"] or self._saver.is_done):
            return {"is_done": False}
        self._saver.finish()
        return {"is_done": True}

    def _restore(self, learner: PolicyLearner, request: Message) -> None:
        folder, model = Path(request.body["folder"]), self._policy.model
        self._saver.finish()
        if lora.has_adapters(model) or sharded_weights.is_sharded(folder):
            checkpoint.restore_weights(folder, model)
        else:
            load_folder(model, folder, alive=self._alive)
        with signs_of_life(self._alive):
            learner.restore_progress(folder, checkpoint.Counters(**request.body["counters"]))

    def _models(self) -> list[PreTrainedModel]:
        if self._reference is None or self._reference is self._policy.model:
            return [self._policy.model]
        return [self._policy.model, self._reference]


def _entries(request: Message) -> list[TensorEntry]:
    return [TensorEntry(name=name, shape=tuple(shape), checksum=None) for name, shape in request.body["announced"]]


def task_message(task: RankTask) -> Message:
    """The request to begin a task; the one message with pickled content, which is the parent's own."""
    pickled = torch.frombuffer(bytearray(pickle.dumps(task)), dtype=torch.uint8)
    return Message(body={"op": "begin"}, tensors={"task": pickled})
