"""From groups and their advantages to a Batch: pad on the right, align every column with its token."""

from collections.abc import Mapping, Sequence

import torch

from rlvr.batch import Batch
from rlvr.records import Completion, Group

Row = tuple[int, Completion, float]


def collate(
    groups: Sequence[Group], *, advantages: Mapping[str, float], pad_token_id: int
) -> Batch:
    """One row for each rollout that has an advantage, in group order; the others leave the loss here.

    Args:
        advantages: by completion_id; the same on every token of the completion.

    Returns: a Batch whose denominators count exactly its rows.

    Raises: ValueError when no rollout has an advantage.
    """
    rows: list[Row] = []
    for index, group in enumerate(groups):
        for rollout in group.rollouts:
            advantage = advantages.get(rollout.completion.completion_id)
            if advantage is not None and any(rollout.completion.sampled_mask):
                rows.append((index, rollout.completion, advantage))
    return collate_rows(rows, pad_token_id=pad_token_id)


def collate_rows(rows: Sequence[Row], *, pad_token_id: int) -> Batch:
    """A Batch of (group index, completion, advantage of each of its tokens), in this order.

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
        loss_mask[row, start:end] = torch.tensor(completion.sampled_mask)
        behavior[row, start:end] = torch.tensor(completion.logprobs)
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
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=len(rows),
        num_prompts=len(torch.unique(group_index)),
    )
