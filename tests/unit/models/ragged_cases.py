"""The orders in which a run can come to the ragged kernel first, with its calls counted. For a CPU and for a GPU.

On a CPU torch's kernel does not run: `simulate_kernel` puts a plain function in its place and lets bfloat16 (or any
precision) on a CPU take the ragged path, so that all of rlvr's own code around it is the code of a GPU.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from transformers import PreTrainedModel

from rlvr.algorithms.build import build_loss
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.config.sections.learner import Layout, LearnerConfig, LearnerDtype
from rlvr.learner.learner import PolicyLearner
from rlvr.models.logprobs import TokenLogprobs, token_logprobs
from rlvr.models.packed import attention, ragged_attention
from rlvr.models.policy import build_tiny
from rlvr.records import Transport
from tests.unit.learner.learner_cases import TINY, make_batch
from tests.unit.models.packing_cases import difference, gradients, ragged, tiny

GROUPS = [(3, [5, 1, 7]), (6, [2]), (1, [4, 4]), (5, [1, 1])]
Result = dict[str, Tensor]


@dataclasses.dataclass(slots=True)
class Calls:
    """How often the ragged kernel was called (the probe's one call included), and padded blocks in its place."""

    kernel: int = 0
    blocks: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and in which precision a case runs."""

    device: torch.device
    dtype: LearnerDtype
    folder: Path

    def model(self) -> PreTrainedModel:
        """A fresh model, always with the same weights, whose keys have fewer heads than its queries."""
        return tiny("llama", head_dim=32).float().to(self.device)  # type: ignore[arg-type] # transformers wraps `to`

    def forward(self, model: PreTrainedModel) -> TokenLogprobs:
        """One packed pass as a learner makes it."""
        rows = {name: value.to(self.device) for name, value in ragged(GROUPS, seed=2).items()}
        is_narrow = self.dtype is LearnerDtype.BFLOAT16_AUTOCAST
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_narrow):
            return token_logprobs(
                model,
                **rows,
                temperature=0.7,
                layout=Layout.PACKED,
                share_prompt_prefix=True,
                logits_memory_mb=64,
                needs_entropy_gradient=True,
            )

    def learner(self, *, uses_proximal: bool, **changes: object) -> PolicyLearner:
        """A learner of that model."""
        policy = dataclasses.replace(build_tiny(TINY, seed=3), model=self.model())
        return PolicyLearner(
            policy,
            config=LearnerConfig(dtype=self.dtype, lr=1e-6, **changes),  # type: ignore[arg-type] # a test's own keywords
            loss=build_loss(AlgorithmConfig(), max_completion_tokens=8, uses_proximal=uses_proximal),
            temperature=0.9,
            transport=Transport.SHARED,
            reference=None,
            fault_folder=self.folder / "faults",
        )


def count_calls(monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Any]) -> Calls:
    """From now on no device is probed yet, and calls of `kernel`, which takes torch's place, and of blocks count."""
    calls = Calls()
    in_blocks = attention.attend_in_blocks

    @functools.wraps(kernel)
    def counted_kernel(*args: Any, **kwargs: Any) -> Any:
        calls.kernel += 1
        return kernel(*args, **kwargs)

    def counted_blocks(*args: Any, **kwargs: Any) -> Tensor:
        calls.blocks += 1
        return in_blocks(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", counted_kernel)
    monkeypatch.setattr(ragged_attention, "_kernels", {})
    monkeypatch.setattr(attention, "attend_in_blocks", counted_blocks)
    return calls


def simulate_kernel(
    monkeypatch: pytest.MonkeyPatch, *, any_precision: bool = False, kernel: Callable[..., Any] | None = None
) -> Calls:
    """From now on a CPU takes the path of a GPU; counts as `count_calls` does."""
    monkeypatch.setattr(ragged_attention, "KERNEL_DEVICES", frozenset({"cpu"}))
    if any_precision:
        monkeypatch.setattr(attention, "fits_kernel", lambda query, value: True)
    return count_calls(monkeypatch, kernel or attend_each)


def attend_each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` computes, one sequence after the other, in float32."""
    assert window_size == (-1, 0)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    found: list[Tensor] = []
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]].float().transpose(0, 1)
        k = key[cu_seq_k[i] : cu_seq_k[i + 1]].float().transpose(0, 1)
        v = value[cu_seq_k[i] : cu_seq_k[i + 1]].float().transpose(0, 1)
        k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
        size, reach = q.shape[1], k.shape[1]
        assert size <= max_q
        assert reach <= max_k
        hidden = torch.ones(size, reach, dtype=torch.bool).tril(reach - size).logical_not()
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, float("-inf"))
        found.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(found).to(query.dtype)


def plain(setting: Setting) -> Result:
    """The first pass is a training pass."""
    model = setting.model()
    return trained(model, setting.forward(model))


def no_grad_first(setting: Setting) -> Result:
    """The first pass has no gradient; a training pass follows."""
    model = setting.model()
    with torch.no_grad():
        before = setting.forward(model).logprobs
    return {"before": before, **trained(model, setting.forward(model))}


def checkpointed_first(setting: Setting) -> Result:
    """The first pass is a training pass whose layers are checkpointed."""
    model = setting.model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return trained(model, setting.forward(model))


def several_minibatches(setting: Setting) -> Result:
    """The log-probs before the step are computed without gradient, then each minibatch is trained on."""
    return learned(setting.learner(uses_proximal=True, minibatches_per_step=2))


def behavior_ratio(setting: Setting) -> Result:
    """Nothing is computed before the step, and layers are checkpointed."""
    return learned(setting.learner(uses_proximal=False, gradient_checkpointing=True))


MODES = (plain, no_grad_first, checkpointed_first, several_minibatches, behavior_ratio)


def beside_blocks(
    mode: Callable[[Setting], Result],
    setting: Setting,
    monkeypatch: pytest.MonkeyPatch,
    *,
    watch: Callable[[pytest.MonkeyPatch], Calls],
) -> tuple[int, Calls, dict[str, float]]:
    """Runs a mode in padded blocks, and then with the kernel that `watch` counts the calls of.

    Returns: calls of the blocks in the first run; calls in the second; the difference of each of their results.
    """
    with monkeypatch.context() as patch:
        patch.setattr(attention, "fits_kernel", lambda query, value: False)
        num_calls = count_calls(patch, varlen.varlen_attn)
        expected = mode(setting)
    calls = watch(monkeypatch)
    found = mode(setting)
    assert found.keys() == expected.keys()
    return num_calls.blocks, calls, {k: difference(found[k], expected[k]) for k in expected}


def trained(model: PreTrainedModel, out: TokenLogprobs) -> Result:
    """Log-probs of a training pass, and the gradient of a sum of them."""
    return {"logprobs": out.logprobs.detach(), "gradient": gradients(model, out)}


def learned(learner: PolicyLearner) -> Result:
    """What a training step computes: annotated log-probs, and the gradient of each optimiser step."""
    found: Result = {}

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        flat = torch.cat([p.grad.flatten() for p in parameters])
        found[f"gradient of step {len(found)}"] = flat.clone()

    learner.optimizer.register_step_pre_hook(keep)
    batch = learner.annotate(make_batch())
    learner.step(batch)
    if batch.proximal_logprobs is not None:
        found["proximal"] = batch.proximal_logprobs
    return found
