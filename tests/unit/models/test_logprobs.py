"""token_logprobs as its callers see it: numbers by hand, masks, holes, arguments that must not matter."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from rlvr.config.recipe import TinyModel
from rlvr.config.sections.learner import Layout
from rlvr.models.logprobs import TokenLogprobs, selected_logprobs, token_logprobs
from rlvr.models.policy import build_tiny
from tests.unit.models.packing_cases import Rows, difference, ragged

TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")


def call(model: torch.nn.Module, rows: Rows, **changes: object) -> TokenLogprobs:
    settings: dict[str, object] = {
        "temperature": 1.0,
        "layout": Layout.PACKED,
        "share_prompt_prefix": True,
        "logits_memory_mb": 64,
        "needs_entropy_gradient": False,
    }
    return token_logprobs(model, **rows, **{**settings, **changes})  # type: ignore[arg-type] # a test's own keywords


def constant_logits(values: torch.Tensor) -> torch.nn.Module:
    """A model whose logits are `values` at every token: its last norm gives (w, 0, ...), its head the rest."""
    model = build_tiny(TINY, seed=0).model
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(len(values), 32))
        model.lm_head.weight[:, 0] = values
        model.model.norm.forward = lambda hidden: torch.nn.functional.one_hot(
            torch.zeros(hidden.shape[:-1], dtype=torch.long), 32
        ).float()
    return model


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprob_and_entropy_of_known_logits(layout: Layout, temperature: float):
    """Two tokens of logits ln 3 and 0: p = (3/4, 1/4) at temperature 1, (9/10, 1/10) at temperature 1/2."""
    model = constant_logits(torch.tensor([math.log(3.0), 0.0]))
    rows = ragged([(2, [2])], vocab=4)
    rows["token_ids"] = torch.tensor([[0, 1, 0, 1]])
    out = call(model, rows, layout=layout, temperature=temperature)
    p, q = (0.75, 0.25) if temperature == 1.0 else (0.9, 0.1)
    assert out.logprobs.tolist()[0] == pytest.approx([0, 0, math.log(p), math.log(q)], abs=1e-6)
    entropy = -p * math.log(p) - q * math.log(q)
    assert out.entropy.tolist()[0] == pytest.approx([0, 0, entropy, entropy], abs=1e-6)


def test_entropy_of_equal_logits_is_log_of_the_vocabulary():
    chosen, entropy = selected_logprobs(torch.zeros(2, 8), torch.tensor([0, 3]), temperature=0.5)
    assert chosen.tolist() == pytest.approx([-2.0794415] * 2)
    assert entropy.tolist() == pytest.approx([2.0794415] * 2)


@pytest.mark.parametrize("layout", list(Layout))
def test_a_hole_in_the_loss_mask_is_left_out_and_still_read(layout: Layout):
    model = build_tiny(TINY, seed=0).model.double()
    rows = ragged([(3, [6, 4])], vocab=15)
    whole = call(model, rows, layout=layout).logprobs
    rows["loss_mask"][0, 5] = False
    out = call(model, rows, layout=layout).logprobs
    assert out[0, 5] == 0
    whole[0, 5] = 0
    assert difference(out, whole) < 1e-6  # the tokens after the hole see it as before


@pytest.mark.parametrize("layout", list(Layout))
def test_entropy_carries_a_gradient_only_where_it_was_asked_for(layout: Layout):
    model = build_tiny(TINY, seed=0).model
    rows = ragged([(3, [6, 4])], vocab=15)
    assert not call(model, rows, layout=layout).entropy.requires_grad
    assert call(model, rows, layout=layout, needs_entropy_gradient=True).entropy.requires_grad


@pytest.mark.parametrize("layout", list(Layout))
def test_columns_of_padding_and_tokens_after_the_last_loss_token_do_not_matter(layout: Layout):
    model = build_tiny(TINY, seed=0).model.double()
    rows = ragged([(3, [6, 4]), (2, [3])], vocab=15)
    rows["loss_mask"][0, 7:] = False  # text of a tool at the end of a completion
    expected = call(model, rows, layout=layout)
    rows["token_ids"][0, 7:] = 3
    wide = {k: torch.nn.functional.pad(v, (0, 5)) if v.dim() == 2 else v for k, v in rows.items()}
    found = call(model, wide, layout=layout)
    assert difference(found.logprobs[:, :9], expected.logprobs) < 1e-6
    assert found.logprobs.shape == (3, 14)


@pytest.mark.parametrize("layout", list(Layout))
def test_a_reference_pass_keeps_no_graph(layout: Layout):
    model = build_tiny(TINY, seed=0).model.eval()
    with torch.no_grad():
        out = call(model, ragged([(3, [6, 4])], vocab=15), layout=layout)
    assert not out.logprobs.requires_grad


def test_a_model_without_a_head_is_refused():
    model = LlamaModel(LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="LlamaModel has no output embeddings"):
        call(model, ragged([(3, [2])], vocab=15))
