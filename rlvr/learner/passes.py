"""Passes of models over rows: micro-batches, log-probs without gradient, gradients of the loss's numerator."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.batch import Batch
from rlvr.config.sections.learner import Layout, LearnerConfig, LearnerDtype
from rlvr.errors import LearnerError
from rlvr.learner.batching import has_no_gradient, plan_micro_batches
from rlvr.learner.flops import model_cost
from rlvr.learner.metrics import MetricSums
from rlvr.learner.peers import Peers
from rlvr.models.logprobs import TokenLogprobs, token_logprobs, usable_layout
from rlvr.models.scoring import score_rows


class Passes:
    """Forward and backward passes of the policy, and forward passes of other models.

    If the models are sharded, all processes call the same methods in the same order. Those without rows pass None and
    run empty passes so that collectives match.
    """

    def __init__(
        self, model: PreTrainedModel, *, config: LearnerConfig, loss: LossFunction, temperature: float, peers: Peers
    ) -> None:
        if config.dtype is LearnerDtype.AUTO:
            raise LearnerError(
                "learner.dtype=auto must be chosen before the learner is built: see rlvr.run.launch.choose_dtypes"
            )
        self._model = model
        self._config = config
        self._loss = loss
        self._temperature = temperature
        self._peers = peers
        self._cost = model_cost(model)

    @property
    def device(self) -> torch.device:
        """The device of the policy's weights."""
        return next(self._model.parameters()).device

    def plan(self, batch: Batch | None) -> list[list[int]]:
        """Row indices of each micro-batch."""
        return [] if batch is None else self._plan(batch, list(range(len(batch.token_ids))))

    def plan_step(self, batch: Batch | None) -> tuple[list[list[int]], list[list[int]]]:
        """Row indices of the micro-batches that need a backward pass, and of those that need only a forward pass.

        The second kind holds the groups whose gradient is exactly 0 (`has_no_gradient`): they are run only for their
        metrics, which is a third of the work.
        """
        if batch is None:
            return [], []
        if not self._loss.is_zero_without_advantage:
            return self.plan(batch), []
        is_forward_only = has_no_gradient(batch)
        kinds: list[list[list[int]]] = []
        for kind in (False, True):
            rows = [row for row, found in enumerate(is_forward_only) if found is kind]
            kinds.append(self._plan(batch, rows) if rows else [])
        return kinds[0], kinds[1]

    def _plan(self, batch: Batch, rows: Sequence[int]) -> list[list[int]]:
        planned = plan_micro_batches(
            batch.rows(torch.tensor(rows)),
            max_tokens=self._config.micro_batch_tokens,
            layout=usable_layout(self._model, self._config.layout),
            share_prompt_prefix=self._config.share_prompt_prefix,
        )
        return [[rows[index] for index in micro] for micro in planned]

    def micro_batch(self, batch: Batch, rows: list[int]) -> Batch:
        """These rows, on the host: how they are packed is decided there while the device works on earlier ones."""
        return batch.rows(torch.tensor(rows))

    def logprobs(self, model: PreTrainedModel, batch: Batch | None) -> Tensor | None:
        """Log-probs of all rows without gradient, [batch, seq] on the CPU; None for no rows."""
        full = None if batch is None else torch.zeros(batch.token_ids.shape)
        found: list[tuple[list[int], Tensor]] = []
        was_training = model.training
        model.eval()
        with torch.no_grad():
            if batch is not None and full is not None:
                for rows in self.plan(batch):
                    found.append((rows, self._forward(model, self.micro_batch(batch, rows)).logprobs))
                for rows, logprobs in found:
                    full[torch.tensor(rows), : logprobs.shape[1]] = logprobs.float().cpu()
            self._even_out(model)
        model.train(was_training)
        return full

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of every token but the first of each row, at temperature 1.

        Without rows it runs empty passes so that collectives match.
        """
        with self._arithmetic():
            scores = score_rows(self._model, rows)
        with torch.no_grad():
            self._even_out(self._model)
        return scores

    def backward(self, micro: Batch | None, *, sums: MetricSums) -> None:
        """Adds the gradient of one micro-batch to the policy's, and its metrics to `sums`."""
        total = None if micro is None else self._numerator(micro, sums=sums, is_forward_only=False)
        empty = self._even_out(self._model)
        if empty is not None:
            total = empty if total is None else total + empty.to(total.dtype)
        if total is not None:
            total.backward()

    @torch.no_grad()
    def measure(self, micro: Batch | None, *, sums: MetricSums) -> None:
        """Adds the metrics of one micro-batch whose gradient is 0 to `sums`, with a forward pass only."""
        if micro is not None:
            self._numerator(micro, sums=sums, is_forward_only=True)
        self._even_out(self._model)

    def _numerator(self, micro: Batch, *, sums: MetricSums, is_forward_only: bool) -> Tensor:
        """The loss's numerator over these rows; adds its metrics to `sums`. Nothing is read from the device."""
        out = self._forward(self._model, micro)
        loss = self._loss(out.logprobs, entropy=out.entropy, batch=micro.to(self.device))
        count = float(micro.loss_mask.sum())
        sums.add(loss.metrics)
        sums.add(
            {
                "policy/entropy": (out.entropy.detach().sum().double(), count),
                "learner/loss_tokens": (count, 1.0),
                "learner/forward_only_rate": (count if is_forward_only else 0.0, count),
            }
        )
        sums.loss_sum = sums.loss_sum + loss.loss_sum.detach().double()
        sums.flops += self._cost.of(micro, shares_prompts=self._shares_prompts(), is_forward_only=is_forward_only)
        return loss.loss_sum

    def _forward(self, model: PreTrainedModel, micro: Batch) -> TokenLogprobs:
        with self._arithmetic():
            return token_logprobs(
                model,
                token_ids=micro.token_ids,
                attention_mask=micro.attention_mask,
                loss_mask=micro.loss_mask,
                group_index=micro.group_index,
                temperature=self._temperature,
                layout=self._config.layout,
                share_prompt_prefix=self._config.share_prompt_prefix,
                logits_memory_mb=self._config.logits_memory_on(self.device.type),
                needs_entropy_gradient=self._loss.needs_entropy_gradient,
            )

    def _even_out(self, model: PreTrainedModel) -> Tensor | None:
        """Empty passes in the same arithmetic, because ranks may have gathered weights in bfloat16."""
        with self._arithmetic():
            return self._peers.even_out(model)

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self._config.dtype is LearnerDtype.FLOAT32:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _shares_prompts(self) -> bool:
        is_packed = usable_layout(self._model, self._config.layout) is Layout.PACKED
        return is_packed and self._config.share_prompt_prefix
