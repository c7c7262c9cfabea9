"""The optimiser: what its state takes, that 8 bits follow 32, that a state dict goes on exactly."""

import io
import sys

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from rlvr.config.sections.learner import LearnerConfig, OptimizerKind
from rlvr.errors import ConfigError
from rlvr.learner.optimizer import build_optimizer

PLAIN = LearnerConfig(lr=1e-3, weight_decay=0.01, adam_betas=(0.9, 0.95))
EIGHT_BIT = PLAIN.model_copy(update={"optimizer": OptimizerKind.ADAMW_8BIT})


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 256), torch.nn.Tanh(), torch.nn.Linear(256, 1)
    )


def fit(model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, first: int = 0) -> list[float]:
    losses: list[float] = []
    for step in range(first, first + steps):
        x = torch.randn(256, 64, generator=torch.Generator().manual_seed(step % 4))
        y = torch.sin(2 * x[:, :1]) + 0.3 * x[:, 1:2]
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all distinct state tensors; the 8-bit code book is shared by all parameters."""
    sizes: dict[int, int] = {}
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                sizes[value.data_ptr()] = value.numel() * value.element_size()
    return sum(sizes.values())


def test_adamw_is_torchs_own_fused_with_the_settings_of_the_recipe() -> None:
    model, twin = network(), network()
    ours = build_optimizer(model.parameters(), config=PLAIN)
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    assert ours.defaults["fused"] is True
    assert fit(model, ours, steps=5) == fit(twin, theirs, steps=5)


def test_adamw_keeps_eight_bytes_a_parameter() -> None:
    model = network()
    optimizer = build_optimizer(model.parameters(), config=PLAIN)
    fit(model, optimizer, steps=1)
    parameters = list(model.parameters())
    steps = 4 * len(parameters)  # one float32 counter each
    assert state_bytes(optimizer) == 8 * sum(p.numel() for p in parameters) + steps


def test_eight_bit_states_take_two_bytes_a_parameter_and_two_scales_a_block() -> None:
    pytest.importorskip("bitsandbytes")
    model = network()
    optimizer = build_optimizer(model.parameters(), config=EIGHT_BIT)
    fit(model, optimizer, steps=1)
    large = 64 * 256 + 256 * 256
    small = 256 + 256 + 256 + 1  # biases and the last layer: below 4096 numbers, so float32
    code_books = 2 * 256 * 4
    assert state_bytes(optimizer) == 2 * large + 2 * 4 * large // 256 + 8 * small + code_books


def test_eight_bit_adamw_learns_as_float32_adamw_does() -> None:
    pytest.importorskip("bitsandbytes")
    model, twin = network(), network()
    eight = fit(model, build_optimizer(model.parameters(), config=EIGHT_BIT), steps=150)
    plain = fit(twin, build_optimizer(twin.parameters(), config=PLAIN), steps=150)
    assert plain[-1] < 0.1 * plain[0]
    assert sum(eight[-20:]) == pytest.approx(sum(plain[-20:]), rel=0.05)
    moved = [p - q for p, q in zip(twin.parameters(), network().parameters(), strict=True)]
    apart = [p - q for p, q in zip(model.parameters(), twin.parameters(), strict=True)]
    assert torch.nn.utils.get_total_norm(apart) < 0.15 * torch.nn.utils.get_total_norm(moved)


@pytest.mark.parametrize("config", [PLAIN, EIGHT_BIT], ids=["adamw", "adamw_8bit"])
def test_a_saved_state_loads_without_pickle_and_goes_on_bit_for_bit(config: LearnerConfig) -> None:
    if config is EIGHT_BIT:
        pytest.importorskip("bitsandbytes")
    model = network()
    optimizer = build_optimizer(model.parameters(), config=config)
    fit(model, optimizer, steps=3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    fit(model, optimizer, steps=3, first=3)

    file.seek(0)
    kept = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(kept["model"])
    resumed = build_optimizer(other.parameters(), config=config)
    resumed.load_state_dict(kept["optimizer"])
    fit(other, resumed, steps=3, first=3)
    for expected, actual in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("config", [PLAIN, EIGHT_BIT], ids=["adamw", "adamw_8bit"])
def test_a_learning_rate_set_as_a_float_takes_effect(config: LearnerConfig) -> None:
    if config is EIGHT_BIT:
        pytest.importorskip("bitsandbytes")
    model = network()
    optimizer = build_optimizer(model.parameters(), config=config)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    fit(model, optimizer, steps=1)
    for before, after in zip(network().parameters(), model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_missing_bitsandbytes_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)  # what Python does for an absent module
    with pytest.raises(ConfigError, match=r"pip install 'bitsandbytes>=0\.50'.*learner\.optimizer=adamw"):
        build_optimizer(network().parameters(), config=EIGHT_BIT)


def test_eight_bit_states_of_sharded_parameters_are_refused() -> None:
    torch.distributed.init_process_group("fake", rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        sharded = torch.nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Replicate()]))
        with pytest.raises(ConfigError, match=r"cluster\.learners=1"):
            build_optimizer([sharded], config=EIGHT_BIT)
    finally:
        torch.distributed.destroy_process_group()


def test_an_optimiser_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no parameter to train"):
        build_optimizer([], config=PLAIN)
