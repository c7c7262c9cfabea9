"""Kernels: what is refused and with which words, and that compiled layers compute what eager ones do."""

import copy
import sys

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.config.recipe import TinyModel
from rlvr.config.sections.learner import Kernels, Layout, LearnerConfig
from rlvr.errors import ConfigError
from rlvr.learner.kernels import _without_cache, compile_layers, prepare_model, use_liger
from rlvr.models.logprobs import token_logprobs
from rlvr.models.policy import build_tiny
from rlvr.protocols import GenerationRequest, Sampling
from rlvr.rollout.decode import decode_rows
from rlvr.rollout.next_token import Way

TINY = TinyModel(layers=3, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")


def logprobs_and_gradient(
    model: PreTrainedModel, *, rows: int, width: int, layout: Layout = Layout.PACKED
) -> list[torch.Tensor]:
    """Log-probs of rows of `width` tokens, and the gradient of each parameter."""
    ids = torch.randint(4, 15, (rows, width), generator=torch.Generator().manual_seed(width))
    mask = torch.ones_like(ids, dtype=torch.bool)
    out = token_logprobs(
        model,
        token_ids=ids,
        attention_mask=mask,
        loss_mask=mask & (torch.arange(width) >= 3),
        group_index=torch.arange(rows),
        temperature=1.0,
        layout=layout,
        share_prompt_prefix=True,
        logits_memory_mb=64,
        needs_entropy_gradient=False,
    )
    model.zero_grad()
    out.logprobs.sum().backward()
    return [out.logprobs.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(Layout))
def test_compiled_layers_give_the_log_probs_and_gradients_of_eager_ones(layout: Layout) -> None:
    eager = build_tiny(TINY, seed=0).model
    compiled = copy.deepcopy(eager)
    torch._dynamo.reset()
    counters.clear()
    graphs: list[int] = []
    prepare_model(compiled, config=LearnerConfig(compile=True))
    for rows, width in ((4, 12), (3, 17), (5, 9)):
        expected = logprobs_and_gradient(eager, rows=rows, width=width, layout=layout)
        actual = logprobs_and_gradient(compiled, rows=rows, width=width, layout=layout)
        for a, b in zip(expected, actual, strict=True):
            assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert len(set(graphs)) == 1  # other lengths find what the first one built


@pytest.mark.slow
def test_compiled_layers_compute_through_activation_checkpointing() -> None:
    eager = build_tiny(TINY, seed=0).model
    compiled = copy.deepcopy(eager)
    compiled.gradient_checkpointing_enable({"use_reentrant": False})
    compile_layers(compiled)
    expected = logprobs_and_gradient(eager, rows=4, width=12)
    actual = logprobs_and_gradient(compiled, rows=4, width=12)
    for a, b in zip(expected, actual, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))


def test_generation_with_a_compiled_model_compiles_nothing() -> None:
    model = build_tiny(TINY, seed=0).model
    compile_layers(model)
    counters.clear()
    ended: list[list[int]] = []
    decode_rows(
        model.eval(),
        [
            GenerationRequest(
                request_id="r",
                prompt_id="p",
                prefix_token_ids=(4, 5, 6),
                sample_index=0,
                seed=1,
                sampling=Sampling(temperature=1.0, max_tokens=5),
            )
        ],
        way=Way.PADDED,
        stop_token_ids=(),
        pad_token_id=0,
        to_text=str,
        finished=lambda row: ended.append(row.token_ids),
    )
    assert len(ended[0]) == 5
    assert not counters["stats"]


@pytest.mark.parametrize("name", ["past_key_values", "cache", "cache_params"])
def test_a_layer_that_is_given_a_cache_is_not_compiled(name: str) -> None:
    call = _without_cache(lambda **_: "compiled", lambda **_: "eager")
    assert call(**{name: object()}) == "eager"
    assert call(**{name: None}) == "compiled"


def is_compiled(model: PreTrainedModel) -> bool:
    """Whether `compile_layers` was called on it; a copy of a compiled model is not compiled."""
    return any(isinstance(m, GradientCheckpointingLayer) and m._compiled_call_impl is not None for m in model.modules())


def test_a_copy_of_a_compiled_model_is_not_compiled() -> None:
    model = build_tiny(TINY, seed=0).model
    compile_layers(model)
    assert is_compiled(model)
    assert not is_compiled(copy.deepcopy(model))


def test_the_defaults_change_nothing() -> None:
    model = build_tiny(TINY, seed=0).model
    prepare_model(model, config=LearnerConfig())
    assert not is_compiled(model)


def test_a_model_without_common_layers_cannot_be_compiled() -> None:
    model = build_tiny(TINY, seed=0).model
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM has none of .* decoder layers.*compile=false"):
        compile_layers(model)


def test_liger_on_a_cpu_says_what_it_needs() -> None:
    config = LearnerConfig(kernels=Kernels.LIGER)
    with pytest.raises(ConfigError, match=r"needs a CUDA device.*on cpu.*learner\.kernels=torch"):
        prepare_model(build_tiny(TINY, seed=0).model, config=config)


def test_a_missing_liger_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", None)
    with pytest.raises(ConfigError, match=r"pip install 'liger-kernel>=0\.7'"):
        use_liger(build_tiny(TINY, seed=0).model, device=torch.device("cuda"))
