"""The cache with room ahead holds what transformers' own holds, and does not copy it for each token."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig
from transformers.cache_utils import DynamicLayer

from rlvr.rollout.key_value_cache import LayerWithRoom, key_value_cache

LLAMA = LlamaConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def states(rows: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(rows, 2, tokens, 8, generator=generator) for _ in range(2))
    return keys, values


@pytest.mark.parametrize("prompt", [1, 7, 300])
def test_it_holds_what_concatenation_holds(prompt: int):
    ours, theirs = LayerWithRoom(), DynamicLayer()
    for step in range(100):
        tokens = prompt if step == 0 else 1
        found, expected = (layer.update(*states(6, tokens, step)) for layer in (ours, theirs))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_rows_are_selected_repeated_and_cropped_as_by_transformers():
    ours, theirs = LayerWithRoom(), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(*states(3, 5, 0))
        layer.batch_select_indices(torch.tensor([2, 0, 0, 1]))
        layer.update(*states(4, 1, 1))
        layer.crop(-2)
        layer.update(*states(4, 1, 2))
        layer.batch_repeat_interleave(2)
        layer.update(*states(8, 2, 3))
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)
    ours.reset()
    assert ours.get_seq_length() == 0
    ours.update(*states(2, 1, 4))
    assert torch.equal(ours.keys, states(2, 1, 4)[0])


def test_a_new_token_is_written_and_not_copied_with_all_before():
    layer = LayerWithRoom()
    layer.update(*states(2, 10, 0))
    places = set()
    for step in range(200):
        layer.update(*states(2, 1, step))
        places.add(layer.keys.data_ptr())
    assert len(places) <= 4


def test_a_model_computes_the_same_with_it():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA).eval()
    ids = torch.randint(0, 32, (3, 90))
    found: list[torch.Tensor] = []
    for cache in (key_value_cache(LLAMA), DynamicCache(config=LLAMA)):
        parts = []
        for start, stop in ((0, 6), *((i, i + 1) for i in range(6, 90))):
            with torch.inference_mode():
                parts.append(model(ids[:, start:stop], past_key_values=cache).logits)
        found.append(torch.cat(parts, 1))
    assert torch.equal(*found)


def test_layers_that_forget_tokens_stay_as_they_are():
    sliding = MistralConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, sliding_window=4)
    kinds = [type(layer) for layer in DynamicCache(config=sliding).layers]
    assert DynamicLayer not in kinds
    assert [type(layer) for layer in key_value_cache(sliding).layers] == kinds
