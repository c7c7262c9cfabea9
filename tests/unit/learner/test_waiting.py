"""Between a micro-batch's forward and backward pass nothing waits for the device.

A CPU cannot show the wait itself. So the results of the forward pass are tensors that refuse to be read, and rows must
arrive on the host, where they are packed.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.learner import passes
from rlvr.learner.metrics import MetricSums
from rlvr.models.logprobs import TokenLogprobs, token_logprobs
from tests.unit.learner.learner_cases import FLOAT32, make_batch, make_learner

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
