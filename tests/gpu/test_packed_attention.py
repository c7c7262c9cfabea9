"""The packed stream on a GPU: torch's ragged kernel in bfloat16, padded blocks in float32."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.attention import varlen
from transformers import PreTrainedModel

from rlvr.config.sections.learner import Layout, LearnerDtype
from rlvr.models.logprobs import TokenLogprobs, token_logprobs
from rlvr.models.packed import ragged_attention
from rlvr.models.packed.block_attention import attend_in_blocks
from rlvr.models.packed.layout import PackedLayout
from rlvr.models.packed.ragged_attention import attend_ragged, probe_kernel
from tests.unit.models import ragged_cases
from tests.unit.models.packing_cases import Rows, difference, gradients, plain, ragged, tiny
from tests.unit.models.ragged_cases import Calls, Result, Setting

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
GROUPS = [(40, [50, 13, 70, 1]), (6, [20]), (100, [4, 4]), (5, [1, 1])]


@pytest.fixture(autouse=True)
def _nothing_is_probed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier test's probe would hide where a run makes its own."""
    monkeypatch.setattr(ragged_attention, "_kernels", {})


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def on_gpu(rows: Rows) -> Rows:
    return {name: value.cuda() for name, value in rows.items()}


def gpu_model(kind: str, *, head_dim: int) -> PreTrainedModel:
    return tiny(kind, head_dim=head_dim).float().to(device())  # type: ignore[arg-type] # transformers wraps `to`


def call(model: PreTrainedModel, rows: Rows, layout: Layout) -> TokenLogprobs:
    return token_logprobs(
        model,
        **rows,
        temperature=0.7,
        layout=layout,
        share_prompt_prefix=True,
        logits_memory_mb=1,
        needs_entropy_gradient=True,
    )


def test_torchs_ragged_kernel_is_what_we_expect():
    assert probe_kernel(device()) is not None


def test_torchs_ragged_kernel_is_found_without_gradient_and_under_autocast():
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        assert probe_kernel(device()) is not None


@pytest.mark.parametrize("mode", ragged_cases.MODES)
def test_the_ragged_kernel_is_used_and_gives_the_numbers_of_padded_blocks(
    mode: Callable[[Setting], Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    num_block_calls, calls, differences = ragged_cases.beside_blocks(
        mode,
        Setting(device=device(), dtype=LearnerDtype.BFLOAT16_AUTOCAST, folder=tmp_path),
        monkeypatch,
        watch=partial(ragged_cases.count_calls, kernel=varlen.varlen_attn),
    )
    assert num_block_calls > 0
    assert calls == Calls(kernel=num_block_calls + 1)  # the probe is one call more
    assert max(differences.values()) < 0.03


def test_the_ragged_kernel_has_the_output_and_gradient_of_padded_blocks():
    kernel = probe_kernel(device())
    assert kernel is not None
    layout = PackedLayout((90, 200, 300, 1, 64, 129), (-1, -1, -1, 1, 1, 2), device=device())
    torch.manual_seed(0)
    shapes = ((784, 8, 64), (784, 2, 64), (784, 2, 64))
    streams = [torch.randn(shape, device=device()).bfloat16().requires_grad_() for shape in shapes]
    weights = torch.randn(shapes[0], device=device())
    exact = [t.detach().float().requires_grad_() for t in streams]

    def attend(query, key, value, bias):
        key, value = key.repeat_interleave(4, 1), value.repeat_interleave(4, 1)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=bias is None, scale=0.125
        )

    found = attend_ragged(*streams, layout=layout, scale=0.125, kernel=kernel)
    expected = attend_in_blocks(*exact, layout=layout, attend=attend)
    assert difference(found.float(), expected) < 0.01
    by_found = torch.autograd.grad((found.float() * weights).sum(), streams)
    by_expected = torch.autograd.grad((expected * weights).sum(), exact)
    for a, b in zip(by_found, by_expected, strict=True):
        assert difference(a.float(), b) < 0.01


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_float32_gives_the_plain_numbers_and_gradients(kind: str):
    model = gpu_model(kind, head_dim=8)
    rows = on_gpu(ragged(GROUPS, seed=2))
    expected = plain(model, rows, temperature=0.7)
    expected_gradient = gradients(model, expected)
    for layout in Layout:
        found = call(model, rows, layout)
        assert difference(found.logprobs, expected.logprobs) < 1e-4
        assert difference(gradients(model, found), expected_gradient) < 1e-3


def test_autocast_is_as_close_to_float64_packed_as_padded():
    model = gpu_model("llama", head_dim=64)
    rows = on_gpu(ragged(GROUPS, seed=2))
    exact = plain(copy.deepcopy(model).double(), rows, temperature=0.7).logprobs
    with torch.autocast("cuda", torch.bfloat16):
        errors = {layout: difference(call(model, rows, layout).logprobs, exact) for layout in Layout}
    assert errors[Layout.PACKED] < 2 * errors[Layout.PADDED]
