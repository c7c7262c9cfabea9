"""Our side of a comparison, called as a run calls it: `build_advantage` and `build_loss` on a recipe's section."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.build import build_advantage, build_loss
from rlvr.batch import Batch
from rlvr.config.sections.algorithm import AdvantageConfig, AlgorithmConfig, RatioBase
from tests.parity.rows import MAX_TOKENS, Row

MAX_COMPLETION_TOKENS = MAX_TOKENS + 3
NOTHING = 1e3  # value outside the loss mask: far from any log-prob, so that a leak shows


@dataclass(frozen=True, slots=True, kw_only=True)
class LossResult:
    """A loss and its gradient with respect to the policy's log-probs and entropies, one list per row of loss tokens."""

    value: float
    logprob_slopes_B_T: list[list[float]]
    entropy_slopes_B_T: list[list[float]]


def our_advantages(config: AdvantageConfig, groups: Sequence[GroupRewards]) -> list[list[float | None]]:
    """One list of advantages per group; None where a rollout leaves the loss."""
    return build_advantage(config)(groups)


def our_loss(config: AlgorithmConfig, rows: Sequence[Row]) -> LossResult:
    """The loss of one optimiser step over these rows, in float64.

    Prompts of 1 to 3 tokens, padding on the right, and a gap (a token from a tool) after every third loss token; what
    lies outside the loss mask is far from any log-prob.
    """
    columns = [_columns(row, index) for index, row in enumerate(rows)]
    width = max(max(c) for c in columns) + 2
    shape = (len(rows), width)

    def placed(values_B_T: Sequence[Sequence[float]], *, outside: float) -> Tensor:
        table = torch.full(shape, outside, dtype=torch.float64)
        for index, (values, where) in enumerate(zip(values_B_T, columns, strict=True)):
            table[index, where] = torch.tensor(values, dtype=torch.float64)
        return table

    uses_proximal = config.correction.ratio_base is not RatioBase.BEHAVIOR
    loss_mask = placed([[1.0] * row.num_tokens for row in rows], outside=0.0).bool()
    tokens_of = {g: sum(r.num_tokens for r in rows if r.group == g) for g in {r.group for r in rows}}
    batch = Batch(
        token_ids=torch.zeros(shape, dtype=torch.long),
        attention_mask=torch.arange(width) <= torch.tensor([max(c) for c in columns])[:, None],
        loss_mask=loss_mask,
        behavior_logprobs=placed([r.behavior_T for r in rows], outside=NOTHING),
        proximal_logprobs=placed([r.proximal_T for r in rows], outside=NOTHING),
        ref_logprobs=placed([r.ref_T for r in rows], outside=-NOTHING),
        advantages=placed([[r.advantage] * r.num_tokens for r in rows], outside=NOTHING),
        group_index=torch.tensor([r.group for r in rows]),
        group_num_tokens=torch.tensor([tokens_of[r.group] for r in rows]),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=len(rows),
        num_prompts=len(tokens_of),
    )
    logprobs = placed([[x.value for x in r.logprobs_T] for r in rows], outside=-NOTHING)
    entropy = placed([[x.value for x in r.entropy_T] for r in rows], outside=NOTHING)
    logprobs.requires_grad_()
    entropy.requires_grad_()
    loss = build_loss(config, max_completion_tokens=MAX_COMPLETION_TOKENS, uses_proximal=uses_proximal)
    value = loss(logprobs, entropy=entropy, batch=batch).loss_sum
    value = value / loss.aggregator.denominator(batch.denominators)
    value.backward()
    return LossResult(
        value=float(value.detach()),
        logprob_slopes_B_T=_slopes(logprobs, columns),
        entropy_slopes_B_T=_slopes(entropy, columns),
    )


def _columns(row: Row, index: int) -> list[int]:
    """The columns of a row's loss tokens."""
    prompt = 1 + index % 3
    return [prompt + t + t // 3 for t in range(row.num_tokens)]


def _slopes(leaf: Tensor, columns: Sequence[Sequence[int]]) -> list[list[float]]:
    """The leaf's gradient on loss tokens. Raises: ValueError when there is one elsewhere."""
    grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    slopes = [grad[index, list(where)].tolist() for index, where in enumerate(columns)]
    inside = torch.zeros_like(leaf, dtype=torch.bool)
    for index, where in enumerate(columns):
        inside[index, list(where)] = True
    if bool((grad[~inside] != 0).any()):
        raise ValueError("the loss has a gradient outside its mask: a masked token moves the policy")
    return slopes
