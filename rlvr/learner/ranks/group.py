"""A learner over several ranks: processes that each hold a shard of the policy and work on part of the rows.

    parent (this class)                          ranks 0 .. R-1 (`rlvr.learner.ranks.server`, one process each)
    annotate, accumulate:  each rank its rows -> passes in lockstep, gradients summed into shards
    apply:                 the denominators   -> one optimiser step on the shards; sums of metrics come back
    save, restore:         a folder           -> each rank writes or reads its own part
    publish                                   -> see below

Where the engine is in another process (Transport.FILE), the weights are in the ranks alone: the parent's model may be
on the meta device, each rank reads its own part of the weights, and rank 0 writes the published files.
Where the engine is in the parent's process, it reads `policy.model`, so the parent keeps the whole model: in shared
memory, from which the ranks start (a cold start is kept) and which rank 0 refreshes at `publish` and `restore`.
The result of a step does not depend on the number of ranks (up to rounding), nor does a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.algorithms.corrections import Correction
from rlvr.batch import Batch, Denominators, StepReport
from rlvr.config.sections.learner import LearnerConfig
from rlvr.errors import ConfigError
from rlvr.learner import checkpoint
from rlvr.learner.batching import has_no_gradient, step_through
from rlvr.learner.loss_traits import reads_proximal, set_correction
from rlvr.learner.metrics import merged_outcome, outcome_from_json
from rlvr.learner.nonfinite import judge_nonfinite
from rlvr.learner.ranks.loading import WeightSource
from rlvr.learner.ranks.memory import Meeting
from rlvr.learner.ranks.messages import Message, batch_message, correction_to_json, ref_from_json
from rlvr.learner.ranks.rows import split_over_ranks
from rlvr.learner.ranks.sends import SendsFromRanks
from rlvr.learner.ranks.server import RankTask, task_message
from rlvr.learner.ranks.start import Spread, start_ranks
from rlvr.learner.weights.perturbation import require_perturbable, tensor_groups
from rlvr.learner.weights.publication import Publication, bytes_of_files
from rlvr.learner.weights.weights_file import WeightsFolder
from rlvr.models.allocator import release_cached_memory
from rlvr.models.export import export_outline
from rlvr.models.policy import Policy
from rlvr.records import Transport, WeightsKind, WeightsRef

SILENCE_S = 600.0


class LearnerGroup(SendsFromRanks):
    """Implements `rlvr.batch.ProvableLearner` over ranks that it starts and stops; a context manager."""

    def __init__(
        self,
        policy: Policy,
        *,
        num_ranks: int,
        config: LearnerConfig,
        loss: LossFunction,
        temperature: float,
        transport: Transport,
        reference: PreTrainedModel | None,
        fault_folder: Path,
        published_dtype: torch.dtype = torch.bfloat16,
        published_kind: WeightsKind = WeightsKind.FULL,
        weights_folder: Path | None = None,
        lr_decay: tuple[int, int, float] | None = None,
        source: WeightSource | None = None,
        device_type: str = "",
        silence_s: float = SILENCE_S,
        spread: Spread | None = None,
    ) -> None:
        """Starts the ranks and waits for them; they end with the calling thread. Arguments as `PolicyLearner`'s, and:

        Args:
            policy: its model is on the meta device exactly if there is a `source`.
            reference: sharded over the ranks; drop your own after this call to free its memory. On the meta device it
                is undefined until `load_reference`.
            source: where the ranks read the weights.
            device_type: of the ranks; "" for that of the policy.
            silence_s: a working rank without a sign of life for this long is considered hung (not at start-up).
            spread: ranks of other nodes, where there is a `source`; None if all run on this one.

        Raises: ConfigError when there are fewer CUDA devices than ranks here; LearnerError when a rank does not start.
        """
        device_type = device_type or next(policy.model.parameters()).device.type
        num_near = num_ranks - (len(spread.far) if spread else 0)
        if device_type == "cuda" and torch.cuda.device_count() < num_near:
            raise ConfigError(
                f"cluster.learners={num_near} on one node needs that many CUDA devices, and this node has "
                f"{torch.cuda.device_count()}; lower it, or set learner.device=cpu"
            )
        self.policy = policy
        self.config = config
        self.num_ranks = num_ranks
        self._transport = transport
        self._published_dtype = published_dtype
        self._published_kind = published_kind
        self._weights_folder = weights_folder
        self._files = WeightsFolder(weights_folder)
        self._publication = self._new_publication()
        self._ref: WeightsRef | None = None
        self._is_perturbed = False
        self._has_reference = reference is not None
        # Settings that a cold start switched on are not shared; each rank switches them on itself.
        policy.model.gradient_checkpointing_disable()
        policy.model.disable_input_require_grads()
        self._has_mirror = source is None
        self._meeting = Meeting(spread.address if spread else "")
        try:
            self._pool, self._memory = start_ranks(
                policy,
                reference=reference,
                source=source,
                config=config,
                num_ranks=num_ranks,
                device_type=device_type,
                meeting=self._meeting,
                silence_s=silence_s,
                spread=spread,
            )
            self.begin(config=config, loss=loss, temperature=temperature, fault_folder=fault_folder, lr_decay=lr_decay)
        except BaseException:
            self._files.close()
            self._meeting.close()
            raise

    def begin(
        self,
        *,
        config: LearnerConfig,
        loss: LossFunction,
        temperature: float,
        fault_folder: Path,
        lr_decay: tuple[int, int, float] | None = None,
    ) -> None:
        """Starts another stage with the same ranks, with a new optimiser: from the weights in `policy.model`, or from
        the ranks' own if they alone have them.

        Arithmetic (`config.dtype`), transport and reference stay those of the constructor; counters begin at 0.
        """
        self.config = config
        self._loss = loss
        self._publication.close()
        self._publication = self._new_publication()
        self._files.close()
        self._files = WeightsFolder(self._weights_folder)
        self._ref = None
        self._num_steps = 0
        self._num_nonfinite = 0
        self._restored_version = 0
        folder = None
        if self._transport is Transport.FILE:
            model, dtype, kind = self.policy.model, self._published_dtype, self._published_kind
            folder = self._files.make(bytes_of_files(model, dtype=dtype, kind=kind)).absolute()
        self._push_weights()
        task = RankTask(
            config=config,
            loss=loss,
            temperature=temperature,
            fault_folder=fault_folder.absolute(),
            lr_decay=lr_decay,
            published_dtype=self._published_dtype,
            published_kind=self._published_kind,
            weights_folder=folder,
        )
        self._pool.call([task_message(task)] * self.num_ranks, what="begin")
        self._is_mirrored = True

    def __enter__(self) -> "LearnerGroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def policy_version(self) -> int:
        """The version of the latest publication."""
        if self._transport is Transport.FILE:
            return self._restored_version if self._ref is None else self._ref.policy_version
        return self._publication.policy_version

    @property
    def num_steps(self) -> int:
        """Optimiser steps taken."""
        return self._num_steps

    @property
    def pids(self) -> list[int]:
        """Process ids by rank."""
        return self._pool.pids

    def set_correction(self, correction: Correction) -> None:
        """Sets every rank's correction for stale or differing engines, from the next rows on.

        Raises: LearnerError when the loss has no correction.
        """
        set_correction(self._loss, correction)
        self._ask("correction", {"correction": correction_to_json(correction)})

    def annotate(self, batch: Batch) -> Batch:
        """The batch with reference and proximal log-probs where they are needed; see `PolicyLearner.annotate`."""
        reads = self.config.minibatches_per_step > 1 and reads_proximal(self._loss)
        if not (self._has_reference or reads):
            return batch
        shares = split_over_ranks(batch, self.num_ranks)
        answers = self._pool.call(_row_messages("annotate", batch, shares), what="annotate")
        found: dict[str, Tensor] = {}
        for rows, answer in zip(shares, answers, strict=True):
            for name, part in answer.tensors.items():
                if name not in found:
                    found[name] = torch.zeros(batch.token_ids.shape, dtype=part.dtype)
                found[name][torch.tensor(rows), : part.shape[1]] = part
        return replace(batch, **found)

    def step(self, batch: Batch) -> StepReport:
        """All minibatches of one training step; metrics are means over them, `policy/grad_norm` the largest."""
        return step_through(self, batch, num_minibatches=self.config.minibatches_per_step)

    def accumulate(self, batch: Batch) -> None:
        """Accumulates the numerator's gradient of these rows, each rank its share."""
        is_forward_only = has_no_gradient(batch) if self._loss.is_zero_without_advantage else ()
        shares = split_over_ranks(batch, self.num_ranks, is_forward_only=is_forward_only)
        self._pool.call(_row_messages("accumulate", batch, shares), what="accumulate")

    def apply(self, denominators: Denominators) -> StepReport:
        """One optimiser step with the accumulated gradient over its denominator; see `PolicyLearner.apply`.

        Raises: LearnerError when too many gradients of this run were not finite, or when a rank failed.
        """
        answers = self._ask("apply", {"denominators": asdict(denominators)})
        outcome = merged_outcome([outcome_from_json(a.body["outcome"]) for a in answers])
        self._num_steps, self._num_nonfinite = outcome.num_steps, outcome.num_nonfinite
        if not outcome.is_skipped:
            self._publication.has_changed = True
            self._is_mirrored = False
        judge_nonfinite(outcome, limit=self.config.max_nonfinite_steps)
        divisor = self._loss.aggregator.denominator(denominators)
        return outcome.report(divisor=divisor, num_processes=self.num_ranks)

    def load_reference(self, folder: Path | None) -> None:
        """Loads a reference that was on the meta device: from a folder, or from the policy's present weights.

        Raises: CheckpointError when the folder cannot be read.
        """
        self._ask("reference", {"folder": "" if folder is None else str(folder.absolute())})

    def publish(self) -> WeightsRef:
        """The current weights: in a file that rank 0 wrote, or in `policy.model`, or only announced if they are sent.

        See `PolicyLearner.publish`.
        """
        if self._transport is Transport.FILE:
            ref = ref_from_json(self._ask("publish", {})[0].body["ref"])
            if self._is_perturbed:
                return ref
            if self._ref is None or ref != self._ref:
                self._ref = ref
            return self._ref
        if not self._transport.is_sent:
            self._mirror()
        if self._is_perturbed:
            return self._publication.publish_trial(self.policy.model)
        return self._publication.publish(self.policy.model)

    def release_memory(self) -> None:
        """Returns cached device memory of this process and of every rank, for engines that share the devices."""
        release_cached_memory()
        self._ask("release_memory", {})

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row the log-probs of all tokens but the first; each rank computes its part of the rows."""
        requests = [
            Message(body={"op": "score", "rows": [list(row) for row in rows[rank :: self.num_ranks]]})
            for rank in range(self.num_ranks)
        ]
        scores: list[list[float]] = [[]] * len(rows)
        for rank, answer in enumerate(self._pool.call(requests, what="score")):
            scores[rank :: self.num_ranks] = answer.body["scores"]
        return scores

    def tensor_groups(self, *, most: int) -> Mapping[str, tuple[str, ...]]:
        """All trained tensors in about `most` groups."""
        return tensor_groups(checkpoint.trained_names(self.policy.model), most=most)

    def perturb(self, names: Sequence[str], *, scale: float) -> None:
        """Adds noise of `scale` times each tensor's root mean square, in the ranks. Raises LearnerError."""
        known = {name for name, _ in self.policy.model.named_parameters()}
        require_perturbable(names, known, is_active=self._is_perturbed)
        self._ask("perturb", {"names": list(names), "scale": scale})
        self._is_perturbed = True
        self._is_mirrored = False

    def unperturb(self) -> None:
        """The weights before `perturb`, bit for bit; trials that were published are removed."""
        if self._is_perturbed:
            self._ask("unperturb", {})
            self._is_perturbed = False
            self._is_mirrored = False
        self._publication.end_trials()

    def save(self, folder: Path) -> None:
        """Saves a folder that any number of learners can restore; returns when it is written. See `start_save`."""
        self.start_save(folder)
        self.is_saved(waits=True)

    def start_save(self, folder: Path) -> None:
        """Copies the state to the CPU, from where the ranks write it to `folder` in the background.

        Waits for the checkpoint before. Raises CheckpointError when that could not be written.
        """
        export_outline(self.policy, folder)
        counters = checkpoint.Counters(
            policy_version=self.policy_version, num_steps=self._num_steps, num_nonfinite=self._num_nonfinite
        )
        checkpoint.save_counters(folder, counters)
        self._ask("save", {"folder": str(folder.absolute()), "has_optimizer": True})

    def is_saved(self, *, waits: bool) -> bool:
        """Whether the ranks have written what `start_save` began. Args: waits: until they have.

        Raises: CheckpointError when they could not.
        """
        return all(answer.body["is_done"] for answer in self._ask("saved", {"waits": waits}))

    def save_weights(self, folder: Path) -> None:
        """Saves a folder that `load_policy` and `load_reference` read: the weights without the optimiser's state."""
        export_outline(self.policy, folder)
        self._ask("save", {"folder": str(folder.absolute()), "has_optimizer": False})
        self.is_saved(waits=True)

    def restore(self, folder: Path) -> None:
        """Restores weights, optimiser and counters saved by any number of learners. Raises CheckpointError."""
        counters = checkpoint.read_counters(folder)
        checkpoint.require_same(folder, self.policy.model)
        self._ask("restore", {"folder": str(folder.absolute()), "counters": asdict(counters)})
        self._num_steps, self._num_nonfinite = counters.num_steps, counters.num_nonfinite
        self._restored_version = counters.policy_version
        self._ref = None
        self._publication.restore(counters.policy_version)
        self._is_mirrored = False
        self._mirror()

    def close(self) -> None:
        """Stops the ranks; the policy's weights stay as last published. Safe to call twice."""
        self._publication.close()
        self._pool.close()
        self._files.close()
        self._meeting.close()

    def _ask(self, op: str, values: Mapping[str, Any]) -> list[Message]:
        return self._pool.call([Message(body={"op": op, **values})] * self.num_ranks, what=op)

    def _new_publication(self) -> Publication:
        return Publication(
            transport=self._transport,
            dtype=self._published_dtype,
            folder=self._weights_folder,
            kind=self._published_kind,
        )

    def _push_weights(self) -> None:
        """Copies the weights of `policy.model` into the shared memory; on the CPU they already live there."""
        if self._has_mirror:
            for own, window in self._memory:
                if own.data_ptr() != window.data_ptr():
                    window.copy_(own.detach())

    def _mirror(self) -> None:
        """Copies the ranks' weights into `policy.model`, if engines read it."""
        if self._is_mirrored or not self._has_mirror:
            return
        self._ask("gather", {})
        with torch.no_grad():
            for own, window in self._memory:  # on the CPU they are one and the same
                if own.data_ptr() != window.data_ptr() and own.requires_grad:
                    own.copy_(window)
        self._is_mirrored = True


def _row_messages(op: str, batch: Batch, shares: Sequence[Sequence[int]]) -> list[Message]:
    return [batch_message(op, batch.rows(torch.tensor(rows)) if rows else None) for rows in shares]
