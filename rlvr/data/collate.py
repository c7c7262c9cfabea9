"""From rollouts to a Batch: pad on the right, align every column with its token, count the denominators."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlvr.batch import Batch
from rlvr.records import Completion

Row = tuple[int, Completion, float]


def collate_rows(rows: Sequence[Row], *, pad_token_id: int) -> Batch:
    """A Batch of (group index, completion, advantage of each of its tokens), in this order.

    A non-finite log-prob becomes nan: the engine did not return one, and the loss counts it as missing.

    Raises: ValueError when there is no row.
    """
    if not rows:
        raise ValueError("no rollout has an advantage: there is nothing to learn from")
    prompt_lengths = np.array([len(c.prompt_token_ids) for _, c, _ in rows])[:, None]
    lengths = prompt_lengths + np.array([len(c.token_ids) for _, c, _ in rows])[:, None]
    column = np.arange(lengths.max())
    attention_mask = column < lengths
    completion_mask = attention_mask & (column >= prompt_lengths)

    token_ids = _filled(
        attention_mask,
        (ids for _, c, _ in rows for ids in (c.prompt_token_ids, c.token_ids)),
        empty=np.int64(pad_token_id),
    )
    loss_mask = _filled(completion_mask, (c.sampled_mask for _, c, _ in rows), empty=np.False_)
    logprobs = _filled(completion_mask, (c.logprobs for _, c, _ in rows), empty=np.float32(0))
    advantages = torch.tensor([advantage for _, _, advantage in rows])[:, None]
    group_index = torch.tensor([index for index, _, _ in rows])
    return Batch(
        token_ids=token_ids,
        attention_mask=torch.from_numpy(attention_mask),
        loss_mask=loss_mask,
        behavior_logprobs=torch.where(loss_mask, torch.where(logprobs.isfinite(), logprobs, torch.nan), 0.0),
        advantages=torch.where(torch.from_numpy(completion_mask), advantages, 0.0),
        group_index=group_index,
        group_num_tokens=group_token_counts(loss_mask, group_index),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=len(rows),
        num_prompts=len(torch.unique(group_index)),
    )


def _filled(
    where: "np.ndarray[Any, np.dtype[np.bool_]]", values: Iterable[Iterable[Any]], *, empty: np.generic
) -> Tensor:
    """The rows' values in order at the True places of `where`; elsewhere `empty`, whose dtype the result has."""
    table = np.full(where.shape, empty)
    table[where] = np.fromiter(chain.from_iterable(values), table.dtype, int(where.sum()))
    return torch.from_numpy(table)


def select_rows(batch: Batch, keep: Sequence[int], *, advantages: Sequence[float]) -> Batch:
    """The rows at `keep` with one advantage each, and denominators counted over these rows alone.

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
    """For each row, the number of loss tokens in all rows of its group."""
    _, inverse = torch.unique(group_index, return_inverse=True)
    counts = torch.zeros(len(group_index), dtype=torch.long)
    counts.scatter_add_(0, inverse, loss_mask.sum(1))
    return counts[inverse]
