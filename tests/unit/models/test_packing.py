"""The packed stream: it gives the numbers of the plain forward pass, for every architecture that it accepts."""

import copy
import logging
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from rlvr.config.sections.learner import Layout
from rlvr.models.logprobs import TokenLogprobs, token_logprobs, usable_layout
from rlvr.models.packed.attention import NAME, can_pack, use_packed_attention
from rlvr.models.packed.block_attention import attend_in_blocks
from rlvr.models.packed.layout import PackedLayout, cut_into_blocks
from rlvr.models.packed.packing import pack
from rlvr.models.packed.ragged_attention import attend_ragged
from rlvr.models.packed.small_attention import attend_small, is_small
from tests.unit.models.packing_cases import Rows, difference, gradients, plain, ragged, tiny

GROUPS = [(3, [5, 1, 7]), (6, [2]), (1, [4, 4]), (5, [1, 1])]
FULL_ATTENTION = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "llama one head a key": {"num_key_value_heads": 4},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": None},
    "phi3": {},
    "phi": {},
    "olmo2": {},
    "gemma": {"head_dim": 8},
    "starcoder2": {"sliding_window": None},
    "gpt_neox": {},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2} | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "deepseek_v3": {"num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
    | {"v_head_dim": 6, "q_lora_rank": 16, "kv_lora_rank": 16, "n_routed_experts": 4, "n_group": 1}
    | {"topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.5},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
OTHER_ATTENTION = {
    # transformers 5.24 has no SDPA for Gemma 2
    "gemma2": ({"head_dim": 8, "sliding_window": 4}, "DynamicSlidingWindowLayer|implementation is 'eager'"),
    "mistral": ({"sliding_window": 4}, "DynamicSlidingWindowLayer"),
    "gemma3_text": ({"head_dim": 8, "sliding_window": 4}, "DynamicSlidingWindowLayer"),
    "bloom": ({"n_head": 4, "n_layer": 2}, "'eager', not 'sdpa'"),
    "mamba": ({}, "'eager', not 'sdpa'"),
    "lfm2": ({"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}, "LinearAttentionLayer"),
}


def packed(
    model: PreTrainedModel,
    rows: Rows,
    *,
    layout: Layout = Layout.PACKED,
    share: bool = True,
    temperature: float = 0.7,
    logits_memory_mb: int = 64,
    entropy_gradient: bool = True,
) -> TokenLogprobs:
    return token_logprobs(
        model,
        **rows,
        temperature=temperature,
        layout=layout,
        share_prompt_prefix=share,
        logits_memory_mb=logits_memory_mb,
        needs_entropy_gradient=entropy_gradient,
    )


def assert_same(model: PreTrainedModel, rows: Rows, **settings_: object) -> None:
    """Log-probs, entropy and the gradient of every parameter, as in the plain pass, 1e-6 relative."""
    expected = plain(model, rows, temperature=0.7)
    expected_gradient = gradients(model, expected)
    found = packed(model, rows, **settings_)  # type: ignore[arg-type] # a test's own keywords
    found_gradient = gradients(model, found)
    mask = rows["loss_mask"]
    assert difference(found.logprobs, expected.logprobs) < 1e-6
    assert difference(found.entropy, expected.entropy) < 1e-6
    assert difference(found_gradient, expected_gradient) < 1e-6
    assert bool((found.logprobs[~mask] == 0).all())
    assert bool((found.entropy[~mask] == 0).all())


@settings(max_examples=20, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=4)), min_size=1, max_size=4
    ),
    seed=st.integers(0, 99),
    holes=st.sampled_from([0.0, 0.4]),
    checkpointing=st.booleans(),
)
def test_every_layout_gives_the_plain_numbers_and_gradients(
    groups: list[tuple[int, list[int]]], seed: int, holes: float, checkpointing: bool
):
    model = tiny("llama", seed=seed)
    rows = ragged(groups, seed=seed, holes=holes)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(model, rows, share=True)
    assert_same(model, rows, share=False)
    assert_same(model, rows, layout=Layout.PADDED)


@pytest.mark.parametrize("kind", list(FULL_ATTENTION))
def test_architecture_runs_packed_and_gives_the_plain_numbers(kind: str):
    model = tiny(kind.split()[0], seed=1, **FULL_ATTENTION[kind])
    assert can_pack(model) == ""
    rows = ragged(GROUPS, seed=2)
    assert_same(model, rows)
    assert model.config._attn_implementation == NAME  # it did run packed


@pytest.mark.parametrize("kind", list(OTHER_ATTENTION))
def test_architecture_falls_back_to_padded_says_why_and_gives_the_plain_numbers(
    kind: str, caplog: pytest.LogCaptureFixture
):
    changes, reason = OTHER_ATTENTION[kind]
    model = tiny(kind, seed=1, **changes)
    with caplog.at_level(logging.WARNING):
        assert usable_layout(model, Layout.PACKED) is Layout.PADDED
        assert usable_layout(model, Layout.PACKED) is Layout.PADDED
    assert re.search(reason, can_pack(model))
    assert len(caplog.records) <= 1
    if kind == "gemma2" and not model._supports_sdpa:
        pytest.skip("its eager softmax is float32, in which the mask of this float64 model is -inf: NaN for padding")
    assert_same(model, ragged(GROUPS, seed=2))


def test_a_layer_that_bypasses_the_interface_is_noticed_in_the_first_pass():
    model = tiny("llama")
    attention = model.model.layers[1].self_attn
    whole = type(attention).forward

    def deaf(*args: object, packed_layout: object = None, **kwargs: object) -> object:
        return whole(attention, *args, **kwargs)

    attention.forward = deaf
    use_packed_attention(model)
    rows = ragged(GROUPS)
    found = packed(model, rows)
    assert "only 1 of its 2 layers" in can_pack(model)
    assert difference(found.logprobs, plain(model, rows, temperature=0.7).logprobs) < 1e-6


def test_layers_with_masks_of_their_own_are_noticed_in_the_first_pass():
    model = tiny("doge", seed=1)  # its attention mask depends on the values
    assert can_pack(model) == ""
    assert_same(model, ragged(GROUPS, seed=2))
    assert "their own attention masks" in can_pack(model)


def test_dropout_in_attention_is_refused_in_the_first_pass():
    model = tiny("llama", attention_dropout=0.5)
    packed(model, ragged(GROUPS))
    assert "dropout 0.5" in can_pack(model)


def test_the_stream_holds_each_prompt_once_and_no_last_token():
    rows = ragged(GROUPS)
    found = pack(**{k: rows[k] for k in ("token_ids", "loss_mask", "group_index")}, share_prompt_prefix=True)
    # Prompts 3, 1 and 5 of groups, the lone row of 6 + 2 whole, completions of more than one token; less their last.
    assert found.lengths == (1, 3, 5, 7, 3, 3, 4, 6)
    assert found.prefixes == (-1, -1, -1, -1, 0, 0, 1, 1)
    assert len(found.token_ids) == 32
    assert len(found.targets.token_ids) == int(rows["loss_mask"].sum())
    # Rows whose first tokens share a source share its logits.
    assert len(found.targets.positions) == len(found.targets.token_ids) - 2 - 1 - 1


def test_rows_of_one_group_with_other_prompts_are_refused():
    rows = ragged([(3, [2, 2])])
    rows["token_ids"][1, 1] += 1
    with pytest.raises(ValueError, match="tokens of their prompt"):
        packed(tiny("llama"), rows)
    rows["loss_mask"][1, 3] = False
    with pytest.raises(ValueError, match="length of their prompt"):
        packed(tiny("llama"), rows)


def test_rows_without_loss_tokens_are_not_run_and_change_nothing():
    model = tiny("llama")
    rows = ragged(GROUPS)
    silent = {k: v.clone() for k, v in rows.items()}
    silent["loss_mask"][2:5] = False
    kept = [0, 1, 5, 6, 7]
    for layout in Layout:
        some = packed(model, silent, layout=layout)
        few = packed(model, {k: v[kept] for k, v in silent.items()}, layout=layout)
        assert difference(some.logprobs[kept], few.logprobs) < 1e-6
        assert bool((some.logprobs[2:5] == 0).all())


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("kind", ["llama", "cohere"])
def test_rows_without_any_loss_token_give_every_parameter_a_gradient_of_zeros(layout: Layout, kind: str):
    model = tiny(kind)
    rows = ragged(GROUPS)
    rows["loss_mask"][:] = False
    out = packed(model, rows, layout=layout)
    assert bool((out.logprobs == 0).all())
    flat = gradients(model, out)
    assert flat.numel() == sum(p.numel() for p in model.parameters())
    assert bool((flat == 0).all())


def test_generation_with_the_same_model_is_what_it_was():
    model = tiny("qwen2", num_key_value_heads=2).eval()
    prompts = torch.tensor([[0, 0, 4, 5, 6], [7, 8, 9, 4, 5]])
    mask = (prompts != 0).long()

    def generate() -> torch.Tensor:
        out = model.generate(
            prompts,
            attention_mask=mask,
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=[30],
        )
        return torch.stack(out.logits)

    before = generate()
    packed(model, ragged(GROUPS))
    assert model.config._attn_implementation == NAME
    assert torch.equal(generate(), before)


def test_packed_attention_does_not_reach_the_saved_config(tmp_path):
    model = tiny("llama")
    before = model.config.to_json_string()
    use_packed_attention(model)
    assert model.config.to_json_string() == before


def test_a_copy_of_a_model_uses_its_own_head_and_layers():
    model = tiny("llama")
    rows = ragged(GROUPS)
    packed(model, rows)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
    expected = plain(twin, rows, temperature=0.7)
    assert difference(packed(twin, rows).logprobs, expected.logprobs) < 1e-6


def test_compiled_layers_give_the_same_numbers():
    model = tiny("llama")
    rows = ragged(GROUPS)
    expected = packed(model, rows)
    expected_gradient = gradients(model, expected)
    for layer in model.model.layers:
        layer.compile(backend="aot_eager", dynamic=True)
    found = packed(model, rows)
    assert difference(found.logprobs, expected.logprobs) < 1e-6
    assert difference(gradients(model, found), expected_gradient) < 1e-6


def test_autocast_is_close_to_float64():
    """Same weights in bfloat16 arithmetic: the packed stream strays no further than padded rows do."""
    model = tiny("llama").float()
    rows = ragged(GROUPS)
    exact = plain(copy.deepcopy(model).double(), rows, temperature=0.7).logprobs
    with torch.autocast("cpu", torch.bfloat16):
        errors = [difference(packed(model, rows, layout=layout).logprobs, exact) for layout in Layout]
    assert max(errors) < 0.03


def reference_kernel(query, key, value, ends_q, ends_k, max_q, max_k, *, scale):
    """Attention over ragged sequences, one by one, aligned at the last token."""
    found = []
    for i in range(len(ends_q) - 1):
        q, k, v = (
            t[ends[i] : ends[i + 1]].transpose(0, 1)[None]
            for t, ends in ((query, ends_q), (key, ends_k), (value, ends_k))
        )
        size, reach = q.shape[2], k.shape[2]
        assert size <= max_q
        assert reach <= max_k
        mask = torch.ones(size, reach, dtype=torch.bool).tril(reach - size)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("prefixes", [(-1, -1, -1, 1, 1, 2), (-1, -1, -1, -1, -1, -1)])
def test_padded_blocks_and_ragged_sequences_are_the_same_attention(prefixes: tuple[int, ...]):
    layout = PackedLayout((2, 3, 5, 1, 4, 9), prefixes, device=torch.device("cpu"))
    torch.manual_seed(0)
    shapes = ((24, 4, 8), (24, 2, 8), (24, 2, 8))
    streams = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weights = torch.randn(shapes[0], dtype=torch.float64)

    def attend(q, k, v, bias):
        return scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, scale=0.3, enable_gqa=True)

    blocks = attend_in_blocks(*streams, layout=layout, attend=attend)
    ragged_ = attend_ragged(*streams, layout=layout, scale=0.3, kernel=reference_kernel)
    assert difference(blocks, ragged_) < 1e-12
    by_blocks = torch.autograd.grad((blocks * weights).sum(), streams)
    by_ragged = torch.autograd.grad((ragged_ * weights).sum(), streams)
    for a, b in zip(by_blocks, by_ragged, strict=True):
        assert difference(a, b) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_causal", [True, False])
def test_small_attention_has_the_gradient_of_plain_attention(dtype: torch.dtype, is_causal: bool):
    torch.manual_seed(0)
    width, reach = 6, 6 if is_causal else 15
    shapes = ((3, 4, width, 8), (3, 2, reach, 8), (3, 2, reach, 8))
    exact = [torch.randn(shape, dtype=torch.float64).to(dtype).double() for shape in shapes]
    weights = torch.randn(shapes[0], dtype=torch.float64).to(dtype)
    visible = torch.ones(width, reach, dtype=torch.bool).tril(reach - width).expand(3, 1, -1, -1)
    bias = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, float("-inf"))
    exact = [t.requires_grad_() for t in exact]
    expected = scaled_dot_product_attention(*exact, attn_mask=visible, scale=0.3, enable_gqa=True)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), exact)
    narrow = [t.detach().to(dtype).requires_grad_() for t in exact]
    found = attend_small(*narrow, bias=None if is_causal else bias, scale=0.3)
    found_gradients = torch.autograd.grad((found * weights).sum(), narrow)
    bound = 1e-6 if dtype == torch.float64 else 0.01
    assert difference(found.double(), expected) < bound
    for a, b in zip(found_gradients, expected_gradients, strict=True):
        assert difference(a.double(), b) < bound


def test_small_attention_is_for_short_bfloat16_sequences_on_a_cpu():
    short = torch.zeros(1, 1, 8, 4, dtype=torch.bfloat16, requires_grad=True)
    long = torch.zeros(1, 1, 1024, 4, dtype=torch.bfloat16)
    assert is_small(short, short, short)
    assert not is_small(long, long, long)
    assert not is_small(short.float(), short.float(), short.float())
    with torch.no_grad():
        assert not is_small(short, short, short)


def test_long_and_short_sequences_get_blocks_of_their_own():
    assert cut_into_blocks([], []) == []
    assert cut_into_blocks([8] * 40, [0] * 40) == [(0, 40)]
    assert cut_into_blocks([20] * 30 + [900], [0] * 31) == [(0, 30), (30, 31)]
    cuts = cut_into_blocks(list(range(1, 400)), [100] * 399)
    assert [a for a, _ in cuts[1:]] == [b for _, b in cuts[:-1]]
    assert (cuts[0][0], cuts[-1][1]) == (0, 399)
    assert len(cuts) > 2
