"""The ragged kernel is probed before the model runs, whatever mode its first pass is in; a GPU simulated on a CPU."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from rlvr.config.sections.learner import LearnerDtype
from rlvr.models import logprobs
from rlvr.models.packed.ragged_attention import known_kernel, probe_kernel
from tests.unit.models import ragged_cases as cases
from tests.unit.models.packing_cases import difference
from tests.unit.models.ragged_cases import Calls, Result, Setting

CPU = torch.device("cpu")
NUM_LAYERS = 2


def setting_of(tmp_path: Path, dtype: LearnerDtype = LearnerDtype.BFLOAT16_AUTOCAST) -> Setting:
    return Setting(device=CPU, dtype=dtype, folder=tmp_path)


@pytest.mark.parametrize(("dtype", "bound"), [(LearnerDtype.FLOAT32, 1e-5), (LearnerDtype.BFLOAT16_AUTOCAST, 0.03)])
@pytest.mark.parametrize("mode", cases.MODES)
def test_the_ragged_kernel_is_used_and_gives_the_numbers_of_padded_blocks(
    mode: Callable[[Setting], Result],
    dtype: LearnerDtype,
    bound: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    watch = functools.partial(cases.simulate_kernel, any_precision=dtype is LearnerDtype.FLOAT32)
    num_block_calls, calls, differences = cases.beside_blocks(
        mode, setting_of(tmp_path, dtype), monkeypatch, watch=watch
    )
    assert num_block_calls >= NUM_LAYERS
    assert calls == Calls(kernel=num_block_calls + 1)  # the probe is one call more
    assert max(differences.values()) < bound


def test_the_kernel_probe_runs_before_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = cases.simulate_kernel(monkeypatch)
    setting = setting_of(tmp_path)
    model = setting.model()
    at_entry: list[int] = []
    model.register_forward_pre_hook(lambda *_: at_entry.append(calls.kernel))
    for _ in range(2):
        setting.forward(model)
    assert at_entry == [1, 1 + NUM_LAYERS]
    assert calls == Calls(kernel=1 + 2 * NUM_LAYERS)


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, functools.partial(torch.autocast, "cpu", torch.float16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_kernel_probe_does_not_depend_on_the_callers_modes(
    mode: Callable[[], AbstractContextManager[object]], monkeypatch: pytest.MonkeyPatch
):
    cases.simulate_kernel(monkeypatch)
    with mode():
        kernel = probe_kernel(CPU)
    assert kernel is not None
    assert known_kernel(CPU) is kernel


def test_a_first_pass_in_inference_mode_leaves_the_kernel_to_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = cases.simulate_kernel(monkeypatch)
    setting = setting_of(tmp_path)
    model = setting.model()
    with torch.inference_mode():
        before = setting.forward(model).logprobs
    out = setting.forward(model)
    out.logprobs.sum().backward()
    assert torch.equal(before, out.logprobs)
    assert calls == Calls(kernel=1 + 2 * NUM_LAYERS)


@pytest.mark.slow
def test_compiled_checkpointed_layers_use_the_kernel_after_a_pass_without_gradient(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    setting = setting_of(tmp_path)
    expected = cases.no_grad_first(setting)
    calls = cases.simulate_kernel(monkeypatch)
    model = setting.model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in model.model.layers:
        layer.compile(backend="aot_eager", dynamic=True)
    with torch.no_grad():
        before = setting.forward(model).logprobs
    found = {"before": before, **cases.trained(model, setting.forward(model))}
    for name, value in expected.items():
        assert difference(found[name], value) < 0.02, name
    assert calls == Calls(kernel=1 + 3 * NUM_LAYERS)  # the last NUM_LAYERS in the recomputation


def test_a_layer_without_a_probe_before_it_fails_and_does_not_probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    calls = cases.simulate_kernel(monkeypatch)
    monkeypatch.setattr(logprobs, "probe_kernel", lambda device: None)
    setting = setting_of(tmp_path)
    with pytest.raises(RuntimeError, match=r"on cpu: .*call probe_kernel before the model"):
        setting.forward(setting.model())
    assert calls == Calls()


def test_devices_without_the_kernel_are_not_probed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    calls = cases.count_calls(monkeypatch, cases.attend_each)
    assert probe_kernel(CPU) is None
    assert known_kernel(CPU) is None
    assert calls == Calls()
    assert not caplog.records


def test_a_probe_without_memory_is_made_again(monkeypatch: pytest.MonkeyPatch):
    cases.simulate_kernel(monkeypatch)

    def full(*args: object, scale: float, window_size: object, enable_gqa: bool) -> Tensor:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", full)
        with pytest.raises(torch.OutOfMemoryError):
            probe_kernel(CPU)
    assert probe_kernel(CPU) is not None


def test_a_kernel_of_other_numbers_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    """The warning comes once, and padded blocks take its place."""

    @functools.wraps(cases.attend_each)
    def sharper(*args: Tensor, scale: float, **rest: object) -> Tensor:
        return cases.attend_each(*args, scale=2 * scale, **rest)  # type: ignore[arg-type] # of the same signature

    calls = cases.simulate_kernel(monkeypatch, kernel=sharper)
    setting = setting_of(tmp_path)
    model = setting.model()
    for _ in range(2):
        setting.forward(model)
    assert calls == Calls(kernel=1, blocks=2 * NUM_LAYERS)
    (record,) = caplog.records
    assert "from plain attention on an example" in record.getMessage()
