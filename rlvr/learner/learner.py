"""The learner of one process: gradient accumulation with global denominators, AdamW, publication.

    step(batch) = for each minibatch: accumulate(its rows) in micro-batches, then apply(its denominators)

`accumulate` adds numerators only; `apply` divides once. So the gradient does not depend on micro-batches, padding, row
order, or on how many calls of `accumulate` brought the rows.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.batch import Batch, Denominators, StepReport
from rlvr.config.recipe import LearnerConfig, LearnerDtype
from rlvr.errors import LearnerError
from rlvr.learner import checkpoint
from rlvr.learner.metrics import MetricSums
from rlvr.learner.microbatch import plan_micro_batches, split_minibatches
from rlvr.models.checksum import tensor_checksum
from rlvr.models.logprobs import TokenLogprobs, token_logprobs
from rlvr.models.policy import Policy
from rlvr.records import TensorEntry, Transport, WeightsKind, WeightsRef

logger = logging.getLogger(__name__)


class PolicyLearner:
    """Implements `rlvr.batch.Learner` for one process and one device."""

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
        lr_decay: tuple[int, int, float] | None = None,
    ) -> None:
        """Args:
        temperature: the one that completions are sampled at; log-probs are taken under it.
        transport: with IN_PLACE_COPY the engine computes in another precision, so ratios start from the learner's own
            proximal log-probs.
        reference: frozen model for the KL term; None when there is none.
        fault_folder: where a micro-batch with a non-finite gradient is kept.
        lr_decay: (first step, last step, final share of lr) of a linear fall; None keeps lr constant after warm-up.
        """
        self.policy = policy
        self.config = config
        self.policy_version = 0
        self.num_steps = 0
        self._loss = loss
        self._temperature = temperature
        self._transport = transport
        self._reference = reference
        self._fault_folder = fault_folder
        self._lr_decay = lr_decay
        self._num_nonfinite = 0
        self._changed = True
        self._published: WeightsRef | None = None
        self._sums = MetricSums()
        self._accumulated: list[Batch] = []
        if config.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @property
    def device(self) -> torch.device:
        """Where the policy's weights are."""
        return next(self.policy.model.parameters()).device

    def annotate(self, batch: Batch) -> Batch:
        """The batch with reference log-probs where there is a reference, proximal ones where minibatches need them.

        With one minibatch the proximal policy is the one of the step's own forward pass: nothing is computed twice.
        """
        if self._reference is not None:
            batch = replace(batch, ref_logprobs=self._logprobs(self._reference, batch))
        if self._transport is Transport.IN_PLACE_COPY and self.config.minibatches_per_step > 1:
            batch = replace(batch, proximal_logprobs=self._logprobs(self.policy.model, batch))
        return batch

    def step(self, batch: Batch) -> StepReport:
        """All minibatches of one training step; metrics are means over them, `policy/grad_norm` the largest."""
        reports: list[StepReport] = []
        for minibatch in split_minibatches(batch, count=self.config.minibatches_per_step):
            self.accumulate(minibatch)
            report = self.apply(minibatch.denominators)
            if reports and batch.proximal_logprobs is None:
                # The weights have moved: what differs from the engine now is the step, not the mismatch.
                report = replace(report, metrics=_without_mismatch(report.metrics))
            reports.append(report)
        return _merge(reports)

    def accumulate(self, batch: Batch) -> None:
        """Adds the numerator's gradient of these rows to what is already there."""
        self.policy.model.train()
        for rows in self._plan(batch):
            micro = batch.rows(torch.tensor(rows)).to(self.device)
            self._accumulated.append(micro)
            self._backward(micro, sums=self._sums)

    def apply(self, denominators: Denominators) -> StepReport:
        """One optimiser step with the accumulated gradient over its denominator.

        A non-finite gradient is dropped: the weights stay, the micro-batch at fault is kept in `fault_folder`.

        Raises: LearnerError when more than `max_nonfinite_steps` gradients of this run were not finite.
        """
        divisor = self._loss.aggregator.denominator(denominators)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / divisor
        metrics = self._sums.means(loss_divisor=divisor)
        metrics["policy/grad_norm"] = norm
        metrics["learner/lr"] = self._learning_rate()
        skipped = not math.isfinite(norm)
        if skipped:
            self._report_nonfinite(norm)
        else:
            clip = min(1.0, self.config.max_grad_norm / (norm + 1e-6))
            for gradient in gradients:
                gradient.mul_(clip / divisor)
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            self.optimizer.step()
            self.num_steps += 1
            self._changed = True
        self.optimizer.zero_grad(set_to_none=True)
        self._sums = MetricSums()
        self._accumulated = []
        metrics["learner/nonfinite_steps"] = float(self._num_nonfinite)
        return StepReport(metrics=metrics, skipped=skipped)

    def publish(self) -> WeightsRef:
        """The present weights, under a version that counts publications of changed weights; the first is 0.

        The manifest holds checksums of the bfloat16 bytes that an engine's copy must hold.
        """
        if self._published is not None and not self._changed:
            return self._published
        if self._published is not None:
            self.policy_version += 1
        manifest: tuple[TensorEntry, ...] = ()
        dtype = "float32"
        if self._transport is Transport.IN_PLACE_COPY:
            dtype = "bfloat16"
            manifest = tuple(
                TensorEntry(
                    name=name, shape=tuple(p.shape), checksum=tensor_checksum(p.detach().bfloat16())
                )
                for name, p in self.policy.model.named_parameters()
            )
        self._changed = False
        self._published = WeightsRef(
            policy_version=self.policy_version,
            kind=WeightsKind.FULL,
            transport=self._transport,
            uri="memory:learner",
            dtype=dtype,
            manifest=manifest,
        )
        return self._published

    def save(self, folder: Path) -> None:
        """A folder that transformers loads, with the optimiser and the counters beside it."""
        checkpoint.save(
            folder,
            policy=self.policy,
            optimizer=self.optimizer,
            counters={
                "policy_version": self.policy_version,
                "num_steps": self.num_steps,
                "num_nonfinite": self._num_nonfinite,
            },
        )

    def restore(self, folder: Path) -> None:
        """Weights, optimiser and counters from `save`. Raises CheckpointError."""
        counters = checkpoint.restore(folder, policy=self.policy, optimizer=self.optimizer)
        self.policy_version = counters["policy_version"]
        self.num_steps = counters["num_steps"]
        self._num_nonfinite = counters["num_nonfinite"]
        self._published = None

    def _plan(self, batch: Batch) -> list[list[int]]:
        return plan_micro_batches(
            batch,
            max_tokens=self.config.micro_batch_tokens,
            share_prompt_prefix=self.config.share_prompt_prefix,
        )

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self.config.dtype is LearnerDtype.FLOAT32:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _backward(self, micro: Batch, *, sums: MetricSums) -> None:
        out = self._forward(self.policy.model, micro)
        if self._transport is Transport.IN_PLACE_COPY and micro.proximal_logprobs is None:
            micro = replace(micro, proximal_logprobs=out.logprobs.detach())
        loss = self._loss(out.logprobs, batch=micro)
        loss.loss_sum.backward()
        count = float(micro.loss_mask.sum())
        sums.add(loss.metrics)
        sums.add({"policy/entropy": (out.entropy_sum, count), "learner/loss_tokens": (count, 1.0)})
        sums.loss_sum += float(loss.loss_sum.detach())

    def _forward(self, model: PreTrainedModel, micro: Batch) -> TokenLogprobs:
        with self._arithmetic():
            return token_logprobs(
                model,
                token_ids=micro.token_ids,
                attention_mask=micro.attention_mask,
                loss_mask=micro.loss_mask,
                group_index=micro.group_index,
                temperature=self._temperature,
                share_prompt_prefix=self.config.share_prompt_prefix,
            )

    def _logprobs(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Log-probs of all rows without gradient, [batch, seq] on the batch's device."""
        full = torch.zeros(batch.token_ids.shape)
        was_training = model.training
        model.eval()
        for rows in self._plan(batch):
            micro = batch.rows(torch.tensor(rows)).to(self.device)
            with torch.no_grad():
                out = self._forward(model, micro)
            full[torch.tensor(rows), : micro.token_ids.shape[1]] = out.logprobs.float().cpu()
        model.train(was_training)
        return full

    def _learning_rate(self) -> float:
        warmup = self.config.lr_warmup_steps
        lr = self.config.lr * min(1.0, (self.num_steps + 1) / warmup if warmup else 1.0)
        if self._lr_decay is not None:
            first, last, final = self._lr_decay
            progress = min(1.0, max(0.0, (self.num_steps + 1 - first) / max(1, last - first)))
            lr *= 1.0 - (1.0 - final) * progress
        return lr

    def _report_nonfinite(self, norm: float) -> None:
        self._num_nonfinite += 1
        kept = self._keep_offender()
        message = (
            f"the gradient of optimiser step {self.num_steps + 1} is not finite (norm {norm}); the step was skipped, "
            f"the weights are unchanged, and the micro-batch at fault is in {kept}"
        )
        if self._num_nonfinite > self.config.max_nonfinite_steps:
            raise LearnerError(
                f"{message}. This was number {self._num_nonfinite}, and learner.max_nonfinite_steps is "
                f"{self.config.max_nonfinite_steps}: lower learner.lr, or look at the saved micro-batch"
            )
        logger.warning(message)

    def _keep_offender(self) -> Path:
        """Runs the micro-batches once more, one by one, and saves the first whose own gradient is not finite."""
        self._fault_folder.mkdir(parents=True, exist_ok=True)
        path = self._fault_folder / f"nonfinite_{self._num_nonfinite:03d}.safetensors"
        offender = self._accumulated[-1]
        for micro in self._accumulated:
            self.optimizer.zero_grad(set_to_none=True)
            self._backward(micro, sums=MetricSums())
            norm = torch.nn.utils.get_total_norm(
                p.grad for p in self._parameters if p.grad is not None
            )
            if not bool(torch.isfinite(norm)):
                offender = micro
                break
        save_file(_tensors(offender), path)
        return path


def _tensors(batch: Batch) -> dict[str, Tensor]:
    names = (
        "token_ids",
        "attention_mask",
        "loss_mask",
        "behavior_logprobs",
        "advantages",
        "group_index",
    )
    return {name: getattr(batch, name).cpu().contiguous() for name in names}


def _without_mismatch(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("mismatch/")}


def _merge(reports: Iterable[StepReport]) -> StepReport:
    reports = list(reports)
    names = {name for report in reports for name in report.metrics}
    merged: dict[str, float] = {}
    for name in sorted(names):
        values = [report.metrics[name] for report in reports if name in report.metrics]
        largest = name.rpartition("/")[2].startswith("max_") or name in (
            "policy/grad_norm",
            "learner/nonfinite_steps",
        )
        merged[name] = max(values) if largest else sum(values) / len(values)
    merged["learner/loss_tokens"] = sum(
        report.metrics.get("learner/loss_tokens", 0.0) for report in reports
    )
    return StepReport(metrics=merged, skipped=all(report.skipped for report in reports))
