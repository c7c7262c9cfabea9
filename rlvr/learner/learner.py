"""The learner of one process: gradient accumulation with global denominators, the optimiser step, publication.

    step(batch) = for each minibatch: accumulate(its rows) in micro-batches, then apply(its denominators)

`accumulate` adds numerators only; `apply` divides once. So the gradient does not depend on micro-batches, padding, row
order, or on how many calls of `accumulate` brought the rows. The same class works as one rank of a `LearnerGroup`: then
its parameters are sharded, its rows are a part, and `peers` are the others.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.algorithms.corrections import Correction
from rlvr.batch import Batch, Denominators, StepReport
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.learner import checkpoint
from rlvr.learner.batching import step_through
from rlvr.learner.flops import peak_flops, peak_memory_gb
from rlvr.learner.kernels import prepare_model
from rlvr.learner.loss_traits import reads_proximal, set_correction
from rlvr.learner.metrics import MetricSums, Outcome, note_update
from rlvr.learner.nonfinite import find_offender, judge_nonfinite, keep_micro_batch
from rlvr.learner.optimizer import build_optimizer, learning_rate
from rlvr.learner.passes import Passes
from rlvr.learner.peers import Alone, Peers, total_norm
from rlvr.learner.weights.perturbation import Perturbation, tensor_groups
from rlvr.learner.weights.publication import Publication, WeightFiles
from rlvr.learner.weights.sending import Sender
from rlvr.models import lora
from rlvr.models.allocator import release_cached_memory
from rlvr.models.export import export_policy
from rlvr.models.policy import Policy
from rlvr.records import Transport, WeightsKind, WeightsRef
from rlvr.transfer.chunks import Chunk
from rlvr.transfer.rendezvous import Rendezvous


class PolicyLearner:
    """Implements `rlvr.batch.ProvableLearner` for one process and one device."""

    def __init__(
        self,
        policy: Policy,
        *,
        config: LearnerConfig,
        loss: LossFunction,
        temperature: float,
        transport: Transport,
        reference: PreTrainedModel | None,
        fault_folder: Path,
        published_dtype: torch.dtype = torch.bfloat16,
        published_kind: WeightsKind = WeightsKind.FULL,
        weights_folder: Path | None = None,
        weight_files: WeightFiles | None = None,
        lr_decay: tuple[int, int, float] | None = None,
        peers: Peers | None = None,
    ) -> None:
        """Args:
        temperature: the sampling temperature, at which log-probs are computed.
        reference: frozen model for the KL term; None for no term. If it is the policy's model with adapters, the
            reference is the policy without them.
        fault_folder: where a micro-batch with a non-finite gradient is kept.
        published_dtype: dtype of the engines' copy, if `transport` makes one.
        published_kind: ADAPTER if engines get only the adapters.
        weights_folder: where Transport.FILE creates its folder; None: the result of `weights_file.place_for`.
        weight_files: writes published files in place of that folder.
        lr_decay: (first step, last step, final share of lr) of a linear fall; None keeps lr constant after warm-up.
        peers: the other processes of this optimiser step; None for a single process.
        """
        self.policy = policy
        self.config = config
        self.num_steps = 0
        self._loss = loss
        self._reference = reference
        self._fault_folder = fault_folder
        self._lr_decay = lr_decay
        self._peers: Peers = peers or Alone()
        self._num_nonfinite = 0
        self._publication = Publication(
            transport=transport, dtype=published_dtype, folder=weights_folder, kind=published_kind, files=weight_files
        )
        self._sender = Sender(policy.model)
        self._perturbation = Perturbation(policy.model)
        self._sums = MetricSums()
        self._accumulated: list[Batch] = []
        self._measured: list[Batch] = []
        self._num_rounds = 0
        for model in (policy.model, reference):
            if model is not None:
                prepare_model(model, config=config)
        if config.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._passes = Passes(policy.model, config=config, loss=loss, temperature=temperature, peers=self._peers)
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self._parameters, config=config)

    @property
    def device(self) -> torch.device:
        """The device of the policy's weights."""
        return next(self.policy.model.parameters()).device

    @property
    def policy_version(self) -> int:
        """The version of the latest publication."""
        return self._publication.policy_version

    def set_correction(self, correction: Correction) -> None:
        """Sets the loss's correction for stale or differing engines, from the next rows on.

        Raises: LearnerError when the loss has no correction.
        """
        set_correction(self._loss, correction)

    def annotate(self, batch: Batch) -> Batch:
        """The batch with reference log-probs if there is a reference, and proximal ones if minibatches need them.

        With one optimiser step per training step, the step's own forward pass is that of the proximal policy, also when
        several calls of `accumulate` bring the rows: nothing is computed twice.
        """
        return replace(batch, **self.annotations(batch))

    def annotations(self, batch: Batch | None) -> dict[str, Tensor]:
        """The log-probs that `annotate` adds to the batch.

        None: this rank has no rows, and runs empty passes so that collectives match.
        """
        found: dict[str, Tensor | None] = {}
        if self._reference is not None:
            is_policy = self._reference is self.policy.model
            with lora.disabled(self.policy.model) if is_policy else nullcontext():
                found["ref_logprobs"] = self._passes.logprobs(self._reference, batch)
        if self.config.minibatches_per_step > 1 and reads_proximal(self._loss):
            found["proximal_logprobs"] = self._passes.logprobs(self.policy.model, batch)
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def step(self, batch: Batch) -> StepReport:
        """All minibatches of one training step; metrics are means over them, `policy/grad_norm` the largest."""
        return step_through(self, batch, num_minibatches=self.config.minibatches_per_step)

    def accumulate(self, batch: Batch | None) -> None:
        """Accumulates the numerator's gradient of these rows. None: this rank has no rows.

        Groups whose gradient is exactly 0 (equal rewards under a group baseline) are run forward alone.
        """
        started = time.perf_counter()
        self.policy.model.train()
        plan, forward_only = self._passes.plan_step(batch)
        self._num_rounds += self._run(batch, plan, into=self._accumulated, run=self._passes.backward)
        self._run(batch, forward_only, into=self._measured, run=self._passes.measure)
        self._sums.seconds += time.perf_counter() - started

    def _run(
        self, batch: Batch | None, plan: Sequence[list[int]], *, into: list[Batch], run: Callable[..., None]
    ) -> int:
        """Runs the planned micro-batches, padded to the peer with the most; returns that number."""
        num_rounds = self._peers.most(len(plan))
        for index in range(num_rounds):
            micro = None
            if batch is not None and index < len(plan):
                micro = self._passes.micro_batch(batch, plan[index])
                into.append(micro)
            run(micro, sums=self._sums)
        self._sums.micro_batches += num_rounds
        return num_rounds

    def apply(self, denominators: Denominators) -> StepReport:
        """One optimiser step with the accumulated gradient over its denominator.

        A non-finite gradient is dropped: the weights stay, and the offending micro-batch is saved in `fault_folder`.

        Raises: LearnerError when more than `max_nonfinite_steps` gradients of this run were not finite.
        """
        outcome = self.update(denominators)
        judge_nonfinite(outcome, limit=self.config.max_nonfinite_steps)
        return outcome.report(divisor=self._loss.aggregator.denominator(denominators))

    def update(self, denominators: Denominators) -> Outcome:
        """Like `apply`, with this process's part of the metrics; counts a non-finite gradient without raising."""
        started = time.perf_counter()
        if self._num_rounds == 0:
            # No row had a gradient: the optimiser still steps on zeros, for momentum and decay.
            zeros = self._measured[0] if self._measured else None
            self._passes.backward(zeros, sums=MetricSums())
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        divisor = self._loss.aggregator.denominator(denominators)
        norm = total_norm(gradients) / divisor
        lr = self._learning_rate()
        fault = ""
        if math.isfinite(norm):
            clip = min(1.0, self.config.max_grad_norm / (norm + 1e-6))
            for gradient in gradients:
                gradient.mul_(clip / divisor)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.num_steps += 1
            self._publication.has_changed = True
            note_update(self.num_steps, self.device)
        else:
            self._num_nonfinite += 1
            fault = self._keep_offender()
        self.optimizer.zero_grad(set_to_none=True)
        sums, self._sums, self._num_rounds = self._sums, MetricSums(), 0
        self._accumulated, self._measured = [], []
        sums.resolve()
        sums.seconds += time.perf_counter() - started
        sums.peak_memory_gb = peak_memory_gb(self.device)
        is_bfloat16 = self.config.dtype is LearnerDtype.BFLOAT16_AUTOCAST
        return Outcome(
            grad_norm=norm,
            lr=lr,
            num_steps=self.num_steps,
            num_nonfinite=self._num_nonfinite,
            fault=fault,
            peak_flops=peak_flops(self.device) if is_bfloat16 else 0.0,
            sums=sums,
        )

    def publish(self) -> WeightsRef:
        """The current weights, under a version that counts publications of changed weights; the first is 0.

        While they are perturbed: a trial, under a version below 0.

        Raises: LearnerError when the file of the weights cannot be written.
        """
        if self._perturbation.is_active:
            return self._publication.publish_trial(self.policy.model)
        return self._publication.publish(self.policy.model)

    def meet(self, address: str) -> int:
        """See `rlvr.learner.weights.sending.SendingLearner`, as for the next five."""
        return self._sender.meet(address)

    def join(self, rendezvous: Rendezvous) -> None:
        """Joins the engines as rank 0."""
        self._sender.join(rendezvous)

    def send(self, ref: WeightsRef) -> WeightsRef:
        """Sends the weights of `ref`; returns it with checksums."""
        self._publication.require_current(ref)
        return replace(ref, manifest=self._sender.send(ref.manifest, dtype=getattr(torch, ref.dtype)))

    def next_chunk(self, ref: WeightsRef, is_first: bool, buffer_bytes: int) -> Chunk | WeightsRef:
        """The next chunk of the weights of `ref`, or `ref` with checksums at the end."""
        self._publication.require_current(ref)
        dtype = getattr(torch, ref.dtype)
        found = self._sender.next_chunk(ref.manifest, dtype=dtype, is_first=is_first, buffer_bytes=buffer_bytes)
        return found if isinstance(found, Chunk) else replace(ref, manifest=found)

    def leave(self) -> None:
        """Destroys the communicator."""
        self._sender.leave()

    def write_file(self, ref: WeightsRef) -> WeightsRef | None:
        """The same weights as a file."""
        return self._publication.write_file(self.policy.model, ref)

    def release_memory(self) -> None:
        """Returns cached device memory, for engines that share the device."""
        release_cached_memory()

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row the log-probs (nats, temperature 1) of all tokens but the first, in the learner's arithmetic."""
        return self._passes.score(rows)

    def tensor_groups(self, *, most: int) -> Mapping[str, tuple[str, ...]]:
        """All trained tensors in about `most` groups."""
        return tensor_groups(checkpoint.trained_names(self.policy.model), most=most)

    def perturb(self, names: Sequence[str], *, scale: float) -> None:
        """Adds noise of `scale` times each tensor's root mean square. Raises LearnerError."""
        self._perturbation.begin(names, scale=scale)

    def unperturb(self) -> None:
        """The weights before `perturb`, bit for bit; trials that were published are removed."""
        self._perturbation.end()
        self._publication.end_trials()

    def save(self, folder: Path) -> None:
        """Saves a folder that transformers loads, with the optimiser and the counters."""
        model = self.policy.model
        export_policy(self.policy, folder)
        checkpoint.save_optimizer(folder, optimizer=self.optimizer, model=model)
        counters = checkpoint.Counters(
            policy_version=self.policy_version, num_steps=self.num_steps, num_nonfinite=self._num_nonfinite
        )
        checkpoint.save_counters(folder, counters)

    def start_save(self, folder: Path) -> None:
        """The same as `save`: one learner writes its folder at once."""
        self.save(folder)

    def is_saved(self, *, waits: bool) -> bool:
        """True: nothing is written in the background."""
        return True

    def restore(self, folder: Path) -> None:
        """Restores weights, optimiser and counters from `save`, or from a checkpoint of several learners.

        Raises: CheckpointError.
        """
        counters = checkpoint.read_counters(folder)
        checkpoint.restore_weights(folder, self.policy.model)
        self.restore_progress(folder, counters)

    def restore_progress(self, folder: Path, counters: checkpoint.Counters) -> None:
        """Restores optimiser and counters; the weights are already loaded. Raises CheckpointError."""
        model = self.policy.model
        checkpoint.restore_optimizer(folder, optimizer=self.optimizer, model=model)
        self.num_steps = counters.num_steps
        self._num_nonfinite = counters.num_nonfinite
        self._publication.restore(counters.policy_version)

    def close(self) -> None:
        """Removes published files. Safe to call twice."""
        self._sender.leave()
        self._publication.close()

    def _learning_rate(self) -> float:
        return learning_rate(
            self.num_steps + 1, lr=self.config.lr, warmup_steps=self.config.lr_warmup_steps, decay=self._lr_decay
        )

    def _keep_offender(self) -> str:
        """Where the offending micro-batch was saved; "" if it belongs to another rank."""
        offender = find_offender(self._accumulated, peers=self._peers, norm_of=self._norm_of)
        if offender is None:
            return ""
        return str(keep_micro_batch(offender, self._fault_folder, number=self._num_nonfinite))

    def _norm_of(self, micro: Batch | None) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        self._passes.backward(micro, sums=MetricSums())
        return total_norm(p.grad for p in self._parameters if p.grad is not None)
