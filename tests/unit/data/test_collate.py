"""Rows on their way into a batch: alignment, denominators, log-probs that are missing."""

import math
from collections.abc import Sequence

import pytest
import torch

from rlvr.data.collate import Row, collate_rows, select_rows
from rlvr.records import Completion, FinishReason


def row(
    group: int,
    *,
    prompt: Sequence[int] = (1, 2),
    tokens: Sequence[int] = (5, 6, 7),
    logprobs: Sequence[float] | None = None,
    mask: Sequence[bool] | None = None,
) -> Row:
    completion = Completion(
        completion_id="c",
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=tuple(prompt),
        token_ids=tuple(tokens),
        logprobs=tuple(logprobs or [-1.0] * len(tokens)),
        sampled_mask=tuple(mask or [True] * len(tokens)),
        text="",
        finish_reason=FinishReason.STOP,
        policy_versions=tuple(range(len(tokens))),
    )
    return (group, completion, 0.0)


def test_every_column_is_aligned_with_its_token():
    batch = collate_rows([row(0, logprobs=(-1, -2, -3)), row(1, prompt=(9,), tokens=(8,))], pad_token_id=0)
    assert batch.token_ids.tolist() == [[1, 2, 5, 6, 7], [9, 8, 0, 0, 0]]
    assert batch.behavior_logprobs.tolist() == [[0, 0, -1, -2, -3], [0, -1, 0, 0, 0]]
    assert batch.loss_mask.sum(1).tolist() == [3, 1]
    assert batch.attention_mask.sum(1).tolist() == [5, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_log_prob_that_is_not_finite_travels_as_nan(value: float):
    batch = collate_rows([row(0, logprobs=(-1.0, value, -3.0))], pad_token_id=0)
    seen = batch.behavior_logprobs[0, 2:]
    assert seen.isnan().tolist() == [False, True, False]
    assert batch.loss_mask[0, 2:].all()


def test_tokens_of_a_tool_have_no_behavior_log_prob_even_when_the_engine_gave_one():
    called = row(0, logprobs=(-1.0, math.nan, -3.0), mask=(True, False, True))
    batch = collate_rows([called], pad_token_id=0)
    assert batch.behavior_logprobs[0].tolist() == [0, 0, -1, 0, -3]
    assert batch.num_loss_tokens == 2


def test_selected_rows_are_counted_anew():
    rows = [row(0), row(0, tokens=(5, 6, 7, 8)), row(1), row(2, tokens=(5,)), row(2, tokens=(5, 6))]
    batch = select_rows(collate_rows(rows, pad_token_id=0), [0, 3, 4], advantages=[0.5, -1.0, 2.0])
    assert batch.token_ids.shape == (3, 5)  # the longest row is gone, and its width with it
    assert (batch.num_loss_tokens, batch.num_sequences, batch.num_prompts) == (6, 3, 2)
    assert batch.group_index.tolist() == [0, 2, 2]
    assert batch.group_num_tokens.tolist() == [3, 3, 3]
    assert batch.advantages.tolist() == [[0, 0, 0.5, 0.5, 0.5], [0, 0, -1, 0, 0], [0, 0, 2, 2, 0]]
    assert torch.equal(batch.advantages != 0, batch.loss_mask)


def test_a_batch_without_loss_tokens_is_reported():
    with pytest.raises(ValueError, match="nothing to learn from"):
        collate_rows([], pad_token_id=0)
    with pytest.raises(ValueError, match="nothing to learn from"):
        select_rows(collate_rows([row(0)], pad_token_id=0), [], advantages=[])
