"""Weights and denominators of the four aggregations by hand, and the masks that they may be asked about."""

from dataclasses import replace

import pytest
import torch

from rlvr.algorithms.aggregation import Aggregator, ConstantLength, PromptMean, SequenceMean, TokenMean
from rlvr.batch import Batch

T, F = True, False
AGGREGATORS: dict[str, Aggregator] = {
    "token": TokenMean(),
    "sequence": SequenceMean(),
    "constant": ConstantLength(10),
    "prompt": PromptMean(),
}
LOSS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 4.0, 5.0, 0.0], [0.0, 6.0, 0.0, 0.0]])


def batch() -> Batch:
    """3 rows of 3, 2 and 1 loss tokens; the first two belong to one prompt."""
    mask = torch.tensor([[F, T, T, T], [F, T, T, F], [F, T, F, F]])
    zeros = torch.zeros(3, 4)
    return Batch(
        token_ids=torch.zeros(3, 4, dtype=torch.long),
        attention_mask=torch.tensor([[T, T, T, T], [T, T, T, F], [T, T, F, F]]),
        loss_mask=mask,
        behavior_logprobs=zeros,
        advantages=zeros,
        group_index=torch.tensor([0, 0, 1]),
        group_num_tokens=torch.tensor([5, 5, 1]),
        num_loss_tokens=6,
        num_sequences=3,
        num_prompts=2,
    )


def mean_of(name: str, rows: Batch, loss: torch.Tensor, counts: Batch) -> float:
    aggregator = AGGREGATORS[name]
    total = (aggregator.weights(rows) * loss).sum()
    return float(total) / aggregator.denominator(counts.denominators)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token", (1 + 2 + 3 + 4 + 5 + 6) / 6),
        ("sequence", ((1 + 2 + 3) / 3 + (4 + 5) / 2 + 6 / 1) / 3),
        ("constant", (6 / 10 + 9 / 10 + 6 / 10) / 3),
        ("prompt", ((1 + 2 + 3 + 4 + 5) / 5 + 6 / 1) / 2),
    ],
)
def test_worked_examples(name: str, expected: float):
    assert mean_of(name, batch(), LOSS, batch()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_micro_batches_that_split_a_group_add_up_to_the_whole(name: str):
    whole = mean_of(name, batch(), LOSS, batch())
    rows = [batch().rows(torch.tensor([i])) for i in (2, 0, 1)]
    parts = [
        mean_of(name, row, LOSS[[i], : row.token_ids.shape[1]], batch()) for row, i in zip(rows, (2, 0, 1), strict=True)
    ]
    assert sum(parts) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_weights_are_zero_outside_the_mask_and_finite_on_a_row_without_loss(name: str):
    mask = batch().loss_mask.clone()
    mask[2] = False
    empty = replace(batch(), loss_mask=mask, group_num_tokens=torch.tensor([5, 5, 0]))
    weights = AGGREGATORS[name].weights(empty)
    assert bool(torch.isfinite(weights).all())
    assert torch.equal(weights > 0, mask)


def test_batch_refuses_loss_on_padding_and_on_the_first_token():
    mask = batch().loss_mask.clone()
    mask[1, 3] = True
    with pytest.raises(ValueError, match="padding"):
        replace(batch(), loss_mask=mask)
    mask = batch().loss_mask.clone()
    mask[0, 0] = True
    with pytest.raises(ValueError, match="first token"):
        replace(batch(), loss_mask=mask)
