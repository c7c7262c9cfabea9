"""The tensors that engines receive: the same bits from one learner and from ranks, gathered in the wire's dtype."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from rlvr.config.sections.model import LoraConfig
from rlvr.learner.ranks.sharding import shard
from rlvr.learner.weights.wire import base_tensors, wire_shapes, wire_tensors
from rlvr.models import lora
from rlvr.records import WeightsKind
from tests.unit.learner.group_cases import CONFIG
from tests.unit.learner.rank_cases import run_ranks


def small_model(*, is_tied: bool, rank: int) -> LlamaForCausalLM:
    """Of widths that two ranks do not divide; with adapters that add something."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = LlamaConfig(
            vocab_size=51,
            hidden_size=36,
            intermediate_size=49,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=is_tied,
        )
        model = LlamaForCausalLM(config)
        if rank:
            lora.attach(model, LoraConfig(rank=rank), seed=1, base_name="small")
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.data.normal_()
    return model


class _Gathers(TorchDispatchMode):
    """Records the dtypes that are gathered."""

    def __init__(self) -> None:
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "all_gather" in str(func):
            self.dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


def sent(model: LlamaForCausalLM, *, dtype: torch.dtype, kind: WeightsKind) -> dict[str, Tensor]:
    tensors = dict(wire_tensors(model, dtype=dtype, kind=kind))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == wire_shapes(model, kind)
    assert list(tensors) == list(wire_shapes(model, kind))
    return {name: tensor.clone() for name, tensor in tensors.items()}


def on_ranks(is_tied: bool, rank: int, dtype: torch.dtype, kind: WeightsKind) -> tuple[dict[str, Tensor], set]:
    model = small_model(is_tied=is_tied, rank=rank)
    shard(model, mesh=init_device_mesh("cpu", (2,)), config=CONFIG)
    adapter_dtypes = {torch.float32} if rank and kind is WeightsKind.FULL else set()
    with _Gathers() as gathers:
        found = sent(model, dtype=dtype, kind=kind)
    return found, gathers.dtypes - adapter_dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("is_tied", "rank", "kind"),
    [
        (True, 0, WeightsKind.FULL),
        (False, 0, WeightsKind.FULL),
        (True, 4, WeightsKind.FULL),
        (False, 4, WeightsKind.ADAPTER),
    ],
)
def test_ranks_send_the_bits_of_one_learner(
    tmp_path: Path, is_tied: bool, rank: int, kind: WeightsKind, dtype: torch.dtype
):
    model = small_model(is_tied=is_tied, rank=rank)
    expected = sent(model, dtype=dtype, kind=kind)
    whole = lora.merged_weights(model) if kind is WeightsKind.FULL else lora.adapter_state_dict(model).items()
    for name, weight in whole:
        assert torch.equal(expected[name], weight.detach().to(dtype)), name
    assert ("lm_head.weight" in expected) == (kind is WeightsKind.FULL and not is_tied)
    for found, gathered in run_ranks(on_ranks, is_tied, rank, dtype, kind, folder=tmp_path):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert gathered <= {dtype}


def test_the_base_of_adapters_is_what_it_was_before_they_were_trained():
    model = small_model(is_tied=False, rank=4)
    plain = dict(small_model(is_tied=False, rank=0).named_parameters())
    base = dict(base_tensors(model, dtype=torch.bfloat16))
    assert list(base) == list(plain)
    assert all(torch.equal(base[name], weight.detach().bfloat16()) for name, weight in plain.items())
