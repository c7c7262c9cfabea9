"""Token log-probs against the plain forward pass of transformers, in both layouts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.config.recipe import TinyModel
from rlvr.models.logprobs import can_share_prefix, selected_logprobs, token_logprobs
from rlvr.models.policy import build_tiny

TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")


def rows(
    prompts: list[int], lengths: list[int], groups: list[int], seed: int
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = max(p + n for p, n in zip(prompts, lengths, strict=True))
    ids = torch.randint(4, 15, (len(prompts), width), generator=generator)
    for i, group in enumerate(groups):
        ids[i, : prompts[i]] = ids[groups.index(group), : prompts[i]]
    column = torch.arange(width)[None]
    start = torch.tensor(prompts)[:, None]
    end = start + torch.tensor(lengths)[:, None]
    attention = column < end
    return {
        "token_ids": ids,
        "attention_mask": attention,
        "loss_mask": attention & (column >= start),
        "group_index": torch.tensor(groups),
    }


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(1, 7), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 5),
    st.sampled_from([1.0, 0.7]),
)
def test_both_layouts_equal_the_plain_forward_pass(
    groups: list[tuple[int, list[int]]], seed: int, temperature: float
):
    model = build_tiny(TINY, seed=seed).model.double()
    prompts = [p for p, lengths in groups for _ in lengths]
    lengths = [n for _, ls in groups for n in ls]
    index = [g for g, (_, ls) in enumerate(groups) for _ in ls]
    batch = rows(prompts, lengths, index, seed)
    mask, ids = batch["loss_mask"], batch["token_ids"]
    logits = (
        model(input_ids=ids, attention_mask=batch["attention_mask"].long()).logits / temperature
    )
    expected = torch.log_softmax(logits, -1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    for share in (True, False):
        out = token_logprobs(model, **batch, temperature=temperature, share_prompt_prefix=share)
        # transformers normalises in float32 inside a float64 model, hence not 1e-15
        assert torch.allclose(
            out.logprobs[:, 1:][mask[:, 1:]], expected[mask[:, 1:]], rtol=1e-6, atol=1e-6
        )
        assert bool((out.logprobs[~mask] == 0).all())


def test_a_hole_in_the_loss_mask_is_left_out():
    model = build_tiny(TINY, seed=0).model.double()
    batch = rows([3, 3], [6, 4], [0, 0], 1)
    batch["loss_mask"][0, 5] = False
    out = [
        token_logprobs(model, **batch, temperature=1.0, share_prompt_prefix=s).logprobs
        for s in (True, False)
    ]
    assert torch.allclose(out[0], out[1], atol=1e-6)
    assert out[0][0, 5] == 0


def test_entropy_of_equal_logits_is_log_of_the_vocabulary():
    chosen, entropy = selected_logprobs(torch.zeros(2, 8), torch.tensor([0, 3]), temperature=0.5)
    assert chosen.tolist() == pytest.approx([-2.0794415] * 2)
    assert entropy.tolist() == pytest.approx([2.0794415] * 2)


def test_prefix_is_not_shared_under_gradient_checkpointing():
    model = build_tiny(TINY, seed=0).model
    assert can_share_prefix(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert not can_share_prefix(model)


def test_rows_of_one_group_with_other_prompt_lengths_are_refused():
    model = build_tiny(TINY, seed=0).model
    batch = rows([3, 4], [2, 2], [0, 0], 1)
    with pytest.raises(ValueError, match="length of their prompt"):
        token_logprobs(model, **batch, temperature=1.0, share_prompt_prefix=True)
