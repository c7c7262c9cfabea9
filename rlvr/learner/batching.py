"""How a batch is divided: minibatches, one optimiser step each, and micro-batches, the rows that are run together.

Micro-batches affect memory and speed, never the gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from rlvr.batch import Batch, Learner, StepReport
from rlvr.config.sections.learner import Layout
from rlvr.learner.metrics import merged_reports


def step_through(learner: Learner, batch: Batch, *, num_minibatches: int) -> StepReport:
    """`accumulate` and `apply` for each minibatch; metrics are means over them, norms the largest.

    Mismatch with the engine is measured before the weights move: in later minibatches only against given proximal
    log-probs, since what differs from the engine there is also the step.
    """
    reports: list[StepReport] = []
    for minibatch in split_minibatches(batch, count=num_minibatches):
        learner.accumulate(minibatch)
        report = learner.apply(minibatch.denominators)
        if reports and batch.proximal_logprobs is None:
            kept = {k: v for k, v in report.metrics.items() if not k.startswith("mismatch/")}
            report = replace(report, metrics=kept)
        reports.append(report)
    return merged_reports(reports)


def split_minibatches(batch: Batch, *, count: int) -> list[Batch]:
    """The batch split into `count` parts of whole groups, each with its own denominators: one optimiser step each.

    Fewer parts where there are fewer groups (some were dropped).
    """
    groups = torch.unique(batch.group_index)
    parts: list[Batch] = []
    for chosen in torch.tensor_split(groups, min(count, len(groups))):
        rows = batch.rows(torch.isin(batch.group_index, chosen).nonzero()[:, 0])
        counted = replace(
            rows, num_loss_tokens=int(rows.loss_mask.sum()), num_sequences=len(rows.token_ids), num_prompts=len(chosen)
        )
        parts.append(counted)
    return parts


@dataclass(frozen=True, slots=True)
class _Row:
    """Tokens of a row that are run before its first loss token, and after."""

    prompt: int
    rest: int

    @property
    def length(self) -> int:
        return self.prompt + self.rest


def plan_micro_batches(batch: Batch, *, max_tokens: int, layout: Layout, share_prompt_prefix: bool) -> list[list[int]]:
    """Row indices of each micro-batch, with at most `max_tokens` tokens (but at least one row).

    Packed, the tokens are those that are run: a prompt that rows of a micro-batch share counts once, and so groups stay
    together where they fit; micro-batches are as few and as full as first-fit makes them, the largest pieces first.
    Padded, padding counts, and rows of similar length are grouped. Rows without a loss token are not run and cost
    nothing.
    """
    first = batch.loss_mask.int().argmax(1).tolist()
    stops = (batch.loss_mask.shape[1] - 1 - batch.loss_mask.int().flip(1).argmax(1)).tolist()
    has_loss = batch.loss_mask.any(1).tolist()
    rows = [_Row(first[i], stops[i] - first[i]) if has_loss[i] else _Row(0, 0) for i in range(len(first))]
    if layout is Layout.PADDED:
        return _fill_in_order(rows, max_tokens)
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(batch.group_index.tolist()):
        groups.setdefault(group, []).append(row)

    def cost(members: Sequence[int]) -> int:
        rest = sum(rows[i].rest for i in members)
        prompts = [rows[i].prompt for i in members]
        return rest + (max(prompts) if share_prompt_prefix else sum(prompts))

    pieces = [piece for members in groups.values() for piece in _cut(members, cost, max_tokens)]
    pieces.sort(key=lambda piece: (-cost(piece), piece[0]))
    plan: list[list[int]] = []
    loads: list[int] = []
    for piece in pieces:
        size = cost(piece)
        place = next((k for k, load in enumerate(loads) if load + size <= max_tokens), len(plan))
        if place == len(plan):
            plan.append([])
            loads.append(0)
        plan[place] += piece
        loads[place] += size
    return [sorted(members) for members in plan]


def has_no_gradient(batch: Batch) -> list[bool]:
    """For each row, whether its group has loss tokens and all their advantages are 0.

    For a loss that is scaled by the advantage, such a group counts in the denominators and has no gradient.
    """
    groups = batch.group_index.unique(return_inverse=True)[1]
    count = int(groups.max()) + 1 if len(groups) else 0
    is_lost = torch.zeros(count, dtype=torch.bool)
    is_pulled = torch.zeros(count, dtype=torch.bool)
    is_lost[groups[batch.loss_mask.any(1)]] = True
    is_pulled[groups[((batch.advantages != 0) & batch.loss_mask).any(1)]] = True
    return (is_lost & ~is_pulled)[groups].tolist()


def _cut(members: list[int], cost: Callable[[Sequence[int]], int], max_tokens: int) -> list[list[int]]:
    """A group split into as few pieces as fit, of about equal cost."""
    count = 1
    while True:
        size = -(-len(members) // count)
        pieces = [members[i : i + size] for i in range(0, len(members), size)]
        if size == 1 or all(cost(piece) <= max_tokens for piece in pieces):
            return pieces
        count += 1


def _fill_in_order(rows: Sequence[_Row], max_tokens: int) -> list[list[int]]:
    """Rows from short to long, cut where rows * longest would pass `max_tokens`."""
    plan: list[list[int]] = []
    num_run = 0  # rows of the last micro-batch that are run
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].length, i)):
        if not plan or (num_run + 1) * rows[i].length > max_tokens:
            plan.append([])
            num_run = 0
        plan[-1].append(i)
        num_run += rows[i].length > 0
    return [sorted(members) for members in plan]
