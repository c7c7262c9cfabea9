"""Which rows run together: within the budget of tokens, groups whole where they fit, nothing twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.batch import Batch
from rlvr.config.sections.learner import Layout
from rlvr.data.collate import group_token_counts
from rlvr.learner.batching import plan_micro_batches, split_minibatches
from rlvr.models.packed.packing import pack
from tests.unit.models.packing_cases import ragged

Groups = list[tuple[int, list[int]]]
GROUPS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=5)), min_size=1, max_size=6
)


def batch_of(groups: Groups) -> Batch:
    rows = ragged(groups)
    mask = rows["loss_mask"]
    return Batch(
        **rows,
        behavior_logprobs=torch.zeros(mask.shape),
        advantages=torch.zeros(mask.shape),
        group_num_tokens=group_token_counts(mask, rows["group_index"]),
        num_loss_tokens=int(mask.sum()),
        num_sequences=len(mask),
        num_prompts=len(groups),
    )


def tokens_run(batch: Batch, rows: list[int], *, share: bool) -> int:
    part = batch.rows(torch.tensor(rows))
    stream = pack(
        token_ids=part.token_ids, loss_mask=part.loss_mask, group_index=part.group_index, share_prompt_prefix=share
    )
    return len(stream.token_ids)


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, max_tokens=st.integers(1, 90), share=st.booleans())
def test_packed_micro_batches_run_at_most_the_budget_and_each_row_once(groups: Groups, max_tokens: int, share: bool):
    batch = batch_of(groups)
    plan = plan_micro_batches(batch, max_tokens=max_tokens, layout=Layout.PACKED, share_prompt_prefix=share)
    assert sorted(row for rows in plan for row in rows) == list(range(len(batch.token_ids)))
    for rows in plan:
        assert len(rows) == 1 or tokens_run(batch, rows, share=share) <= max_tokens
    again = plan_micro_batches(batch, max_tokens=max_tokens, layout=Layout.PACKED, share_prompt_prefix=share)
    assert plan == again


@settings(max_examples=40, deadline=None)
@given(groups=GROUPS, max_tokens=st.integers(1, 90))
def test_padded_micro_batches_stay_within_the_budget_with_their_padding(groups: Groups, max_tokens: int):
    batch = batch_of(groups)
    plan = plan_micro_batches(batch, max_tokens=max_tokens, layout=Layout.PADDED, share_prompt_prefix=True)
    assert sorted(row for rows in plan for row in rows) == list(range(len(batch.token_ids)))
    length = batch.attention_mask.sum(1) - 1  # the last token is not run
    for rows in plan:
        assert len(rows) == 1 or len(rows) * int(length[rows].max()) <= max_tokens


def test_a_group_that_fits_stays_whole_and_a_larger_one_is_cut_evenly():
    # Tokens run, with their prompt: group 0 takes 10 + 4 * 3, group 1 takes 2 + 6 * 9.
    batch = batch_of([(10, [4] * 4), (2, [10] * 6)])
    plan = plan_micro_batches(batch, max_tokens=30, layout=Layout.PACKED, share_prompt_prefix=True)
    assert plan == [[4, 5, 6], [7, 8, 9], [0, 1, 2, 3]]


def test_shared_prompts_count_once():
    batch = batch_of([(10, [4] * 4)])
    shared, alone = (
        plan_micro_batches(batch, max_tokens=30, layout=Layout.PACKED, share_prompt_prefix=share)
        for share in (True, False)
    )
    assert shared == [[0, 1, 2, 3]]
    assert alone == [[0, 1], [2, 3]]


def test_micro_batches_are_as_few_as_the_tokens_need():
    """Eight groups of 10 tokens (3 + 7) fill four micro-batches of 20, whatever their order and padding."""
    batch = batch_of([(3, [8]), (1, [10]), (9, [2]), (5, [6])] * 2)
    plan = plan_micro_batches(batch, max_tokens=20, layout=Layout.PACKED, share_prompt_prefix=True)
    assert [len(rows) for rows in plan] == [2, 2, 2, 2]


@pytest.mark.parametrize("layout", list(Layout))
def test_rows_without_loss_tokens_cost_nothing(layout: Layout):
    batch = batch_of([(3, [8]), (3, [8])])
    batch.loss_mask[0] = False
    plan = plan_micro_batches(batch, max_tokens=12, layout=layout, share_prompt_prefix=True)
    assert sorted(plan[0]) == [0, 1]


def test_minibatches_are_whole_groups_with_counts_of_their_own():
    batch = batch_of([(3, [2, 2]), (3, [1]), (2, [4, 4, 4])])
    parts = split_minibatches(batch, count=2)
    assert [part.group_index.tolist() for part in parts] == [[0, 0, 1], [2, 2, 2]]
    assert [(p.num_loss_tokens, p.num_sequences, p.num_prompts) for p in parts] == [(5, 3, 2), (12, 3, 1)]
