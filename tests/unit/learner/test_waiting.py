"""Nothing waits for the device within an optimiser step, so the host packs the next rows while the device computes.

A CPU cannot show the wait itself. So the results of the forward pass are tensors that refuse to be read; a whole step
runs on torch's meta device, whose tensors have no values to read; and all that goes to the device is observed on the
way.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rlvr import batch as batch_module
from rlvr.batch import on_device
from rlvr.config.sections.algorithm import GspoLoss
from rlvr.learner import passes
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.metrics import MetricSums
from rlvr.models import logprobs
from rlvr.models.logprobs import TokenLogprobs, token_logprobs
from rlvr.models.packed import layout, packing
from rlvr.models.policy import build_tiny
from tests.unit.learner.learner_cases import FLOAT32, TINY, make_batch, make_learner

READS = {"item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy", "__array__", "nonzero"}


class OnDevice(Tensor):
    """A tensor whose values nobody may read; what is computed from it is one too."""

    may_read = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in READS and not cls.may_read:
            raise AssertionError(f"{func.__name__} makes the host wait for the device")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_the_host_reads_nothing_until_the_step_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.device] = []

    def observed(*args: Any, **named: Any) -> TokenLogprobs:
        seen.append(named["token_ids"].device)
        out = token_logprobs(*args, **named)
        return TokenLogprobs(logprobs=out.logprobs.as_subclass(OnDevice), entropy=out.entropy.as_subclass(OnDevice))

    batch = make_batch(seed=1)
    plain = make_learner(tmp_path / "plain").step(batch)
    monkeypatch.setattr(passes, "token_logprobs", observed)
    resolve = MetricSums.resolve

    def resolved(sums: MetricSums) -> None:
        OnDevice.may_read = True
        resolve(sums)

    monkeypatch.setattr(MetricSums, "resolve", resolved)
    small = FLOAT32.model_copy(update={"micro_batch_tokens": 16})
    watched = make_learner(tmp_path / "watched", config=small).step(batch)
    assert len(seen) > 1
    assert {device.type for device in seen} == {"cpu"}
    assert watched.metrics["policy/grad_norm"] == pytest.approx(plain.metrics["policy/grad_norm"], rel=1e-5)
    assert watched.metrics["policy/entropy"] == pytest.approx(plain.metrics["policy/entropy"], rel=1e-5)


def test_a_tensor_on_the_device_refuses_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnDevice, "may_read", False)
    with pytest.raises(AssertionError, match="wait"):
        float((torch.ones(2).as_subclass(OnDevice) * 2).sum())


class Transfers(TorchFunctionMode):
    """Records each host tensor that an operation takes to the meta device, and whether `on_device` did it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_inside = False
        self.inside: list[str] = []
        self.outside: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [arg for arg in args if isinstance(arg, Tensor)]
        makes_one = func in (torch.tensor, torch.as_tensor)
        has_host_tensor = makes_one or any(t.device.type == "cpu" and t.dim() for t in given)
        places = [found, *given]
        if has_host_tensor and any(isinstance(t, Tensor) and t.device.type == "meta" for t in places):
            (self.inside if self.is_inside else self.outside).append(func.__name__)
        return found

    def watched(self, tensor: Tensor, device: torch.device) -> Tensor:
        """`on_device`, with what happens in it recorded as such."""
        self.is_inside = True
        try:
            return on_device(tensor, device)
        finally:
            self.is_inside = False


def learner_without_values(folder: Path, monkeypatch: pytest.MonkeyPatch, **algorithm: object) -> PolicyLearner:
    """A learner on the meta device, with small micro-batches; autocast does not know this kind of device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    policy = build_tiny(TINY, seed=3)
    policy.model.to("meta")  # type: ignore[arg-type] # transformers wraps `to`
    small = FLOAT32.model_copy(update={"micro_batch_tokens": 16})
    return make_learner(folder, policy=policy, config=small, **algorithm)


@pytest.mark.parametrize("algorithm", [{}, {"entropy_coef": 0.01, "loss": GspoLoss()}], ids=["clipped", "gspo"])
def test_each_micro_batch_is_packed_and_sent_before_the_device_has_run_the_one_before(
    algorithm: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_without_values(tmp_path, monkeypatch, **algorithm)
    transfers = Transfers()
    for module in (batch_module, logprobs, layout, packing):
        monkeypatch.setattr(module, "on_device", transfers.watched, raising=False)
    with transfers:
        learner.accumulate(make_batch(seed=1))
    assert learner._num_rounds > 3
    assert len(transfers.inside) >= learner._num_rounds
    assert transfers.outside == []
    with pytest.raises(NotImplementedError, match="meta tensor"):  # the first read is that of the whole step
        learner._sums.resolve()


def test_host_tensors_go_to_a_gpu_through_pinned_memory_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[object] = []

    def pin(tensor: Tensor) -> Tensor:
        steps.append("pinned")
        return tensor

    def to(tensor: Tensor, device: torch.device, *, non_blocking: bool = False) -> Tensor:
        steps.append((str(device), non_blocking))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", to)
    on_device(torch.ones(2), torch.device("cuda", 1))
    assert steps == ["pinned", ("cuda:1", True)]
