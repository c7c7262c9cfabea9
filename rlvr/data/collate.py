"""From rollouts to a Batch: pad on the right, align every column with its token, count the denominators."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlvr.batch import Batch
from rlvr.records import Completion

Row = tuple[int, Completion, float]


def collate_rows(rows: Sequence[Row], *, pad_token_id: int) -> Batch:
    """A Batch of (group index, completion, advantage of each of its tokens), in this order.

    A log-prob that is not finite becomes nan: the engine did not give one, and the loss counts it as missing.

    Raises: ValueError when there is no row.
    """
    if not rows:
        raise ValueError("no rollout has an advantage: there is nothing to learn from")
    width = max(len(c.prompt_token_ids) + len(c.token_ids) for _, c, _ in rows)
    shape = (len(rows), width)
    token_ids = torch.full(shape, pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.bool)
    loss_mask = torch.zeros(shape, dtype=torch.bool)
    behavior = torch.zeros(shape)
    advantage_columns = torch.zeros(shape)
    versions = torch.zeros(shape, dtype=torch.long)
    for row, (_, completion, advantage) in enumerate(rows):
        start = len(completion.prompt_token_ids)
        end = start + len(completion.token_ids)
        token_ids[row, :end] = torch.tensor(completion.prompt_token_ids + completion.token_ids)
        attention_mask[row, :end] = True
        sampled = torch.tensor(completion.sampled_mask, dtype=torch.bool)
        logprobs = torch.tensor(completion.logprobs)
        loss_mask[row, start:end] = sampled
        behavior[row, start:end] = torch.where(logprobs.isfinite(), logprobs, torch.nan)
        behavior[row, start:end][~sampled] = 0.0
        advantage_columns[row, start:end] = advantage
        versions[row, start:end] = torch.tensor(completion.policy_versions)
    group_index = torch.tensor([index for index, _, _ in rows])
    return Batch(
        token_ids=token_ids,
        attention_mask=attention_mask,
        loss_mask=loss_mask,
        behavior_logprobs=behavior,
        advantages=advantage_columns,
        policy_versions=versions,
        group_index=group_index,
        group_num_tokens=group_token_counts(loss_mask, group_index),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=len(rows),
        num_prompts=len(torch.unique(group_index)),
    )


def select_rows(batch: Batch, keep: Sequence[int], *, advantages: Sequence[float]) -> Batch:
    """The rows at `keep` with one advantage each, counted anew: the denominators know of no other row.

    Raises: ValueError when there is no row.
    """
    if not keep:
        raise ValueError("no row is left: there is nothing to learn from")
    rows = batch.rows(torch.tensor(keep))
    return replace(
        rows,
        advantages=torch.where(rows.loss_mask, torch.tensor(advantages)[:, None], 0.0),
        group_num_tokens=group_token_counts(rows.loss_mask, rows.group_index),
        num_loss_tokens=int(rows.loss_mask.sum()),
        num_sequences=len(keep),
        num_prompts=len(torch.unique(rows.group_index)),
    )


def group_token_counts(
    loss_mask: Bool[Tensor, "batch seq"], group_index: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """For each row, the loss tokens of all rows of its group."""
    _, inverse = torch.unique(group_index, return_inverse=True)
    counts = torch.zeros(len(group_index), dtype=torch.long)
    counts.scatter_add_(0, inverse, loss_mask.sum(1))
    return counts[inverse]
