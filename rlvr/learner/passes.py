"""Passes of models over rows: which rows go together, log-probs without gradient, gradients of the loss's numerator."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlvr.algorithms.build import LossFunction
from rlvr.batch import Batch
from rlvr.config.learner import Layout, LearnerConfig, LearnerDtype
from rlvr.learner.flops import model_cost
from rlvr.learner.metrics import MetricSums
from rlvr.learner.microbatch import plan_micro_batches
from rlvr.learner.peers import Peers
from rlvr.models.logprobs import TokenLogprobs, token_logprobs, usable_layout
from rlvr.models.scoring import score_rows


class Passes:
    """Forward and backward passes of the policy, and forward passes of other models beside it.

    Where the models are sharded, all processes call the same methods in the same order. Those that have no rows (left)
    pass None and keep their peers company.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        config: LearnerConfig,
        loss: LossFunction,
        temperature: float,
        peers: Peers,
    ) -> None:
        self._model = model
        self._config = config
        self._loss = loss
        self._temperature = temperature
        self._peers = peers
        self._cost = model_cost(model)

    @property
    def device(self) -> torch.device:
        """Where the policy's weights are."""
        return next(self._model.parameters()).device

    def plan(self, batch: Batch | None) -> list[list[int]]:
        """Row indices of each micro-batch."""
        if batch is None:
            return []
        return plan_micro_batches(
            batch,
            max_tokens=self._config.micro_batch_tokens,
            layout=usable_layout(self._model, self._config.layout),
            share_prompt_prefix=self._config.share_prompt_prefix,
        )

    def micro_batch(self, batch: Batch, rows: list[int]) -> Batch:
        """These rows, on the policy's device."""
        return batch.rows(torch.tensor(rows)).to(self.device)

    def logprobs(self, model: PreTrainedModel, batch: Batch | None) -> Tensor | None:
        """Log-probs of all rows without gradient, [batch, seq] on the CPU; None for no rows."""
        full = None if batch is None else torch.zeros(batch.token_ids.shape)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            if batch is not None and full is not None:
                for rows in self.plan(batch):
                    micro = self.micro_batch(batch, rows)
                    out = self._forward(model, micro)
                    width = micro.token_ids.shape[1]
                    full[torch.tensor(rows), :width] = out.logprobs.float().cpu()
            self._peers.even_out(model)
        model.train(was_training)
        return full

    def score(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probs of every token but the first of each row, at temperature 1; no rows: keeps its peers company."""
        with self._arithmetic():
            scores = score_rows(self._model, rows)
        with torch.no_grad():
            self._peers.even_out(self._model)
        return scores

    def backward(self, micro: Batch | None, *, sums: MetricSums) -> None:
        """Adds the gradient of one micro-batch to the policy's, and its metrics to `sums`."""
        total: Tensor | None = None
        if micro is not None:
            out = self._forward(self._model, micro)
            loss = self._loss(out.logprobs, entropy=out.entropy, batch=micro)
            total = loss.loss_sum
            count = float(micro.loss_mask.sum())
            entropy_sum = float(out.entropy.detach().sum())
            sums.add(loss.metrics)
            sums.add({"policy/entropy": (entropy_sum, count), "learner/loss_tokens": (count, 1.0)})
            sums.loss_sum += float(total.detach())
            sums.flops += self._cost.of(micro, shares_prompts=self._shares_prompts())
        empty = self._peers.even_out(self._model)
        if empty is not None:
            total = empty if total is None else total + empty.to(total.dtype)
        if total is not None:
            total.backward()

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
                logits_memory_mb=self._config.logits_memory_mb,
                needs_entropy_gradient=self._loss.needs_entropy_gradient,
            )

    def _arithmetic(self) -> AbstractContextManager[object]:
        if self._config.dtype is LearnerDtype.FLOAT32:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _shares_prompts(self) -> bool:
        is_packed = usable_layout(self._model, self._config.layout) is Layout.PACKED
        return is_packed and self._config.share_prompt_prefix
