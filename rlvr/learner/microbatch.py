"""Which rows are run together. It decides memory and speed, never the gradient."""

from dataclasses import replace

import torch

from rlvr.batch import Batch


def plan_micro_batches(
    batch: Batch, *, max_tokens: int, share_prompt_prefix: bool
) -> list[list[int]]:
    """Row indices of each micro-batch, so that its padded tokens stay within `max_tokens` (one row at the least).

    Rows of one group stay together where they fit, and with `share_prompt_prefix` their prompt counts once. Groups of
    similar completion length come together, so that little is padded.
    """
    prompt = batch.loss_mask.int().argmax(1).tolist()
    total = batch.attention_mask.sum(1).tolist()
    by_group: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group_index.tolist()):
        by_group.setdefault(group, []).append(row)

    def cost(groups: list[list[int]]) -> int:
        rows = [row for group in groups for row in group]
        prompt_width = max(prompt[row] for row in rows)
        completion_width = max(total[row] - prompt[row] for row in rows)
        num_prompts = len(groups) if share_prompt_prefix else len(rows)
        return num_prompts * prompt_width + len(rows) * completion_width

    pieces: list[list[int]] = []
    for rows in by_group.values():
        size = len(rows)
        while size > 1 and cost([rows[:size]]) > max_tokens:
            size -= 1
        pieces.extend(rows[i : i + size] for i in range(0, len(rows), size))
    pieces.sort(key=lambda rows: (max(total[row] - prompt[row] for row in rows), rows[0]))
    plan: list[list[list[int]]] = []
    for piece in pieces:
        if plan and cost([*plan[-1], piece]) <= max_tokens:
            plan[-1].append(piece)
        else:
            plan.append([piece])
    return [[row for piece in pieces for row in piece] for pieces in plan]


def split_minibatches(batch: Batch, *, count: int) -> list[Batch]:
    """The batch in `count` parts of whole groups, each with denominators of its own: one optimiser step each.

    Fewer parts where there are fewer groups (some were dropped).
    """
    groups = torch.unique(batch.group_index)
    parts: list[Batch] = []
    for chosen in torch.tensor_split(groups, min(count, len(groups))):
        rows = batch.rows(torch.isin(batch.group_index, chosen).nonzero()[:, 0])
        counted = replace(
            rows,
            num_loss_tokens=int(rows.loss_mask.sum()),
            num_sequences=len(rows.token_ids),
            num_prompts=len(chosen),
        )
        parts.append(counted)
    return parts
