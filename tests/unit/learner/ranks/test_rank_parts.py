"""What a group of ranks is made of: rows by rank, frames, shared memory."""

import os
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.batch import Batch
from rlvr.data.collate import group_token_counts
from rlvr.learner.ranks.memory import attach, share
from rlvr.learner.ranks.messages import batch_message, batch_of, decode, encode
from rlvr.learner.ranks.rows import split_over_ranks
from rlvr.processes.frames import take_frame
from tests.unit.learner.group_cases import make_batch, make_policy


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=40),
    group_size=st.integers(1, 8),
    num_ranks=st.integers(1, 5),
)
def test_rows_are_split_evenly_and_each_goes_to_one_rank(lengths: list[int], group_size: int, num_ranks: int):
    width, num_rows = max(lengths), len(lengths)
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    loss_mask = mask & (torch.arange(width)[None] > 0)
    group_index = torch.arange(num_rows) // group_size
    batch = Batch(
        token_ids=mask.long(),
        attention_mask=mask,
        loss_mask=loss_mask,
        behavior_logprobs=mask.float(),
        advantages=mask.float(),
        group_index=group_index,
        group_num_tokens=group_token_counts(loss_mask, group_index),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=num_rows,
        num_prompts=int(group_index.max()) + 1,
    )
    shares = split_over_ranks(batch, num_ranks)
    assert sorted(row for rows in shares for row in rows) == list(range(num_rows))
    loads = [sum(lengths[row] for row in rows) for rows in shares]
    assert max(loads) <= sum(lengths) / num_ranks + max(40, sum(lengths) / num_ranks / 4)


def test_a_batch_survives_the_way_to_a_rank():
    batch = replace(make_batch(), ref_logprobs=torch.randn(16, make_batch().token_ids.shape[1]))
    data = bytearray(encode(batch_message("accumulate", batch)) + encode(batch_message("x", None)))
    frames = [take_frame(data), take_frame(data)]
    first, second = (decode(frame) for frame in frames if frame is not None)
    assert not data
    found = batch_of(first)
    assert found is not None
    assert batch_of(second) is None
    assert found.denominators == batch.denominators
    assert found.proximal_logprobs is None
    for name in ("token_ids", "loss_mask", "advantages", "ref_logprobs", "group_index"):
        assert torch.equal(getattr(found, name), getattr(batch, name))


def test_a_shared_model_is_one_memory_with_its_ties():
    policy = make_policy()
    expected = [p.detach().clone() for p in policy.model.parameters()]
    shared = share(policy)
    fd = os.dup(shared.fd)
    there = attach({**shared.description, "fd": fd}, shared.pickled)
    os.close(shared.fd)
    model = there.model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert there.stop_token_ids == policy.stop_token_ids
    for p, q, value in zip(model.parameters(), policy.model.parameters(), expected, strict=True):
        assert torch.equal(p, value)
        assert torch.equal(q, value)
    with torch.no_grad():
        model.lm_head.weight.fill_(2.0)
    assert bool((policy.model.model.embed_tokens.weight == 2.0).all())
