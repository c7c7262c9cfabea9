"""Log-probs from hidden states: chunked and plain heads against the textbook, in value and gradient."""

import logging
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from rlvr.config.sections.learner import Layout
from rlvr.models.head_logprobs import HeadRequest, linear_logprobs, logprobs_of_logits
from rlvr.models.lm_head import head_is_last
from rlvr.models.logprobs import TokenLogprobs, token_logprobs
from rlvr.models.packed.packing import Targets
from tests.unit.models.packing_cases import difference, gradients, plain, ragged, tiny

VOCAB, WIDTH = 23, 6
GROUPS = [(3, [5, 1, 7]), (6, [2]), (1, [4, 4])]


def targets_of(source: list[int], num_sources: int, *, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    source = sorted(source)
    return Targets(
        positions=torch.arange(num_sources),
        source=torch.tensor(source, dtype=torch.long),
        first_target=[sum(s < i for s in source) for i in range(num_sources + 1)],
        token_ids=torch.randint(0, VOCAB, (len(source),), generator=generator),
        column=torch.arange(len(source)),
    )


def request_of(targets: Targets, *, rows_at_once: int, entropy: bool = True) -> HeadRequest:
    return HeadRequest(
        targets=targets, temperature=0.6, chunk_bytes=rows_at_once * VOCAB * 8, needs_entropy_gradient=entropy
    )


def textbook(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    logp = torch.log_softmax(logits / 0.6, -1)[targets.source]
    chosen = logp.gather(1, targets.token_ids[:, None])[:, 0]
    return torch.stack([chosen, -(logp.exp() * logp).sum(-1)], 1)


@settings(max_examples=40, deadline=None)
@given(
    source=st.lists(st.integers(0, 8), max_size=20),
    rows_at_once=st.integers(1, 12),
    has_bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_chunks_give_the_textbook_values_and_gradients(source: list[int], rows_at_once: int, has_bias: bool, seed: int):
    torch.manual_seed(seed)
    head = torch.nn.Linear(WIDTH, VOCAB, bias=has_bias).double()
    hidden = torch.randn(9, WIDTH, dtype=torch.float64, requires_grad=True)
    targets = targets_of(source, 9, seed=seed)
    weights = torch.randn(len(source), 2, dtype=torch.float64)
    leaves = [hidden, *head.parameters()]

    expected = textbook(head(hidden), targets)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), leaves)
    request = request_of(targets, rows_at_once=rows_at_once)
    for found in (linear_logprobs(hidden, head, request=request), logprobs_of_logits(head(hidden), request=request)):
        found_gradients = torch.autograd.grad((found * weights).sum(), leaves)
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
        for a, b in zip(found_gradients, expected_gradients, strict=True):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows_at_once", [2, 100])
def test_gradcheck_in_float64(rows_at_once: int):
    torch.manual_seed(0)
    head = torch.nn.Linear(WIDTH, VOCAB).double()
    hidden = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    request = request_of(targets_of([0, 0, 2], 3), rows_at_once=rows_at_once)
    assert torch.autograd.gradcheck(lambda h: linear_logprobs(h, head, request=request), [hidden])


def test_a_second_backward_pass_gives_the_same_gradient():
    """The logits kept for the first one are used up by it, and computed anew."""
    head = torch.nn.Linear(WIDTH, VOCAB).double()
    hidden = torch.randn(4, WIDTH, dtype=torch.float64, requires_grad=True)
    found = linear_logprobs(hidden, head, request=request_of(targets_of([0, 1, 3], 4), rows_at_once=100)).sum()
    first = torch.autograd.grad(found, hidden, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(found, hidden)[0], first)


def test_logits_of_the_model_are_not_written_to():
    """A capped logit's own backward pass needs the values that it gave."""
    logits = torch.randn(3, VOCAB, dtype=torch.float64, requires_grad=True)
    targets = targets_of([0, 1, 2], 3)
    expected = textbook(5.0 * torch.tanh(logits / 5.0), targets)
    found = logprobs_of_logits(5.0 * torch.tanh(logits / 5.0), request=request_of(targets, rows_at_once=100))
    (a,), (b,) = (torch.autograd.grad(t.sum(), logits) for t in (found, expected))
    assert torch.allclose(a, b, rtol=1e-10)


def test_small_and_large_chunks_agree_in_bfloat16() -> None:
    """Log-probs within 1e-5 nats, the gradients within half a percent: bfloat16 has 8 bits, and many chunks add up."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, VOCAB, bias=False)
    hidden = torch.randn(200, 64, requires_grad=True)
    targets = targets_of(list(range(200)), 200)
    weights = torch.randn(200, 2)
    found: list[tuple[torch.Tensor, ...]] = []
    for rows_at_once in (7, 400):  # of 8 bytes a number: float32 logits take half
        request = request_of(targets, rows_at_once=rows_at_once)
        with torch.autocast("cpu", torch.bfloat16):
            values = linear_logprobs(hidden, head, request=request)
        found.append((values.detach(), *torch.autograd.grad((values * weights).sum(), [hidden, head.weight])))
    (small, *small_gradients), (large, *large_gradients) = found
    assert float((small - large).abs().max()) < 1e-5
    for a, b in zip(small_gradients, large_gradients, strict=True):
        assert difference(a, b) < 0.005


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_block_of_logits_is_larger_than_allowed():
    """512 sources of a vocabulary of 4,096 are 2 M logits; with 1 MiB at once no tensor passes 2**18 numbers."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 4096, bias=False)
    hidden = torch.randn(512, 16, requires_grad=True)
    targets = Targets(
        positions=torch.arange(512),
        source=torch.arange(512),
        first_target=range(513),
        token_ids=torch.arange(512),
        column=torch.arange(512),
    )
    largest = {}
    for num_bytes in (1 << 20, 1 << 30):
        request = HeadRequest(targets=targets, temperature=1.0, chunk_bytes=num_bytes, needs_entropy_gradient=True)
        with Largest() as seen:
            linear_logprobs(hidden, head, request=request).sum().backward()
        largest[num_bytes] = seen.numel
    assert largest[1 << 20] <= 1 << 18
    assert largest[1 << 30] == 512 * 4096  # the plain path holds them all, once


@pytest.mark.parametrize("rows_at_once", [3, 100])
def test_autocast_multiplies_in_bfloat16_and_sums_in_float32(rows_at_once: int):
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 512)
    hidden = torch.randn(9, 64, requires_grad=True)
    targets = targets_of([0, 0, 3, 8], 9)
    request = HeadRequest(
        targets=targets, temperature=0.6, chunk_bytes=rows_at_once * 512 * 4, needs_entropy_gradient=False
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_logprobs(hidden, head, request=request)
        logits = head(hidden)
    assert logits.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.allclose(found, textbook(logits.float(), targets), rtol=1e-5, atol=1e-5)
    gradient = torch.autograd.grad(found[:, 0].sum(), head.weight)[0]
    expected = torch.autograd.grad(textbook(head(hidden), targets)[:, 0].sum(), head.weight)[0]
    assert gradient.dtype == torch.float32
    assert difference(gradient, expected) < 0.01


@pytest.mark.parametrize(
    ("kind", "changes", "is_last"),
    [
        ("llama", {}, True),
        ("phi", {}, True),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 5.0}, False),
        ("cohere", {"logit_scale": 0.5}, False),
        ("granite", {"logits_scaling": 4.0}, False),
        ("granite", {"logits_scaling": 1.0}, True),
    ],
)
def test_models_that_change_their_logits_are_recognised_by_their_config_and_are_exact(
    kind: str, changes: dict[str, object], is_last: bool
):
    model = tiny(kind, **changes)
    assert head_is_last(model) is is_last
    check(model)


def found_by(model: PreTrainedModel) -> TokenLogprobs:
    return token_logprobs(
        model,
        **ragged(GROUPS),
        temperature=0.6,
        layout=Layout.PACKED,
        share_prompt_prefix=True,
        logits_memory_mb=1,
        needs_entropy_gradient=True,
    )


def check(model: PreTrainedModel) -> None:
    expected = plain(model, ragged(GROUPS), temperature=0.6)
    expected_gradient = gradients(model, expected)
    found = found_by(model)
    assert difference(found.logprobs, expected.logprobs) < 1e-6
    assert difference(gradients(model, found), expected_gradient) < 1e-6


def test_a_model_that_changes_its_logits_without_telling_is_noticed(caplog: pytest.LogCaptureFixture):
    model = tiny("llama")
    whole = type(model).forward

    def doubled(*args: object, **kwargs: object) -> object:
        output = whole(model, *args, **kwargs)
        output.logits = output.logits * 2
        return output

    model.forward = doubled
    assert head_is_last(model)
    with caplog.at_level(logging.WARNING):
        check(model)
    assert sum("changes its logits after the head" in r.message for r in caplog.records) == 1


def test_a_head_of_another_class_keeps_its_own_arithmetic():
    """An adapter on the head, or quantised weights: its forward method is asked, not its weight."""
    model = tiny("llama")

    class Scaled(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden) * 1.5

    scaled = Scaled(32, 31, bias=False).double()
    scaled.weight = model.lm_head.weight
    model.lm_head = scaled
    assert not head_is_last(model)
    check(model)


def test_another_thread_sees_the_plain_head_meanwhile():
    """An engine may generate with the same model while the learner's pass is under way."""
    model = tiny("llama")
    ids = torch.tensor([[4, 5, 6]])
    seen: list[torch.Tensor] = []
    expected = model(input_ids=ids).logits

    def generate() -> None:
        with torch.no_grad():
            seen.append(model(input_ids=ids).logits)

    def while_running(_module: torch.nn.Module, _inputs: object) -> None:
        thread = threading.Thread(target=generate)
        handle.remove()
        thread.start()
        thread.join()

    undisturbed = found_by(model).logprobs
    handle = model.lm_head.register_forward_pre_hook(while_running)
    found = found_by(model).logprobs
    assert difference(seen[0], expected) < 1e-12
    assert difference(found, undisturbed) < 1e-12
    assert difference(model(input_ids=ids).logits, expected) < 1e-12
