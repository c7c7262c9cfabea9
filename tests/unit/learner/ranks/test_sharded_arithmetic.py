"""A sharded model under bfloat16 autocast: the log-probs of one learner bit for bit, and its gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.config.sections.model import LoraConfig
from rlvr.learner.ranks.sharding import shard
from rlvr.models import lora
from tests.unit.learner.rank_cases import run_ranks

NARROW = LearnerConfig(dtype=LearnerDtype.BFLOAT16_AUTOCAST)
IDS = torch.randint(0, 512, (2, 48), generator=torch.Generator().manual_seed(0))


def biased_model(*, rank: int, has_checkpointing: bool) -> PreTrainedModel:
    """With biases in some linear layers, as Qwen2 has them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=97,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if rank:
            lora.attach(model, LoraConfig(rank=rank), seed=1, base_name="small")
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.data.normal_(std=0.1)
    if has_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def two_passes(model: PreTrainedModel, row: int) -> tuple[Tensor, set[torch.dtype], dict[str, Tensor]]:
    """Log-probs of a row, the dtypes of the residual stream, and the gradients after two passes over that row."""
    stream: set[torch.dtype] = set()
    for layer in model.model.layers:
        layer.register_forward_hook(
            lambda _module, _inputs, out: stream.add((out if isinstance(out, Tensor) else out[0]).dtype)
        )
    ids = IDS[row : row + 1]
    logprobs = torch.empty(0)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, use_cache=False).logits.float()
        logprobs = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])
        (-logprobs.sum()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in gradients.items()}
    return logprobs.detach(), stream, whole


def on_rank(rank: int, has_checkpointing: bool) -> tuple[Tensor, set[torch.dtype], dict[str, Tensor]]:
    model = biased_model(rank=rank, has_checkpointing=has_checkpointing)
    shard(model, mesh=init_device_mesh("cpu", (2,)), config=NARROW)
    return two_passes(model, torch.distributed.get_rank())


@pytest.mark.parametrize(("rank", "has_checkpointing"), [(0, False), (0, True), (4, False)])
def test_ranks_compute_what_one_learner_computes_in_bfloat16(tmp_path: Path, rank: int, has_checkpointing: bool):
    one = biased_model(rank=rank, has_checkpointing=has_checkpointing)
    expected = [two_passes(one, 0), two_passes(one, 1)]  # gradients add up
    found = run_ranks(on_rank, rank, has_checkpointing, folder=tmp_path)
    for (logprobs, stream, gradients), (one_logprobs, _, _) in zip(found, expected, strict=True):
        assert stream == {torch.float32}
        assert torch.equal(logprobs, one_logprobs)
        for name, gradient in expected[1][2].items():
            assert float((gradients[name] - gradient).norm() / gradient.norm()) < 1e-6, name


class _Gathered(torch.utils._python_dispatch.TorchDispatchMode):
    """The bytes that are gathered."""

    num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "all_gather_copy_in" in str(func):
            self.num_bytes += out[1].numel() * out[1].element_size()
        return out


def gathered_bytes() -> tuple[int, int]:
    """Bytes that a forward pass gathers, and the bytes of the model in float32."""
    model = biased_model(rank=0, has_checkpointing=False)
    num_bytes = 4 * sum(p.numel() for p in model.model.layers.parameters())
    outside = 4 * (model.num_parameters() - num_bytes // 4)
    shard(model, mesh=init_device_mesh("cpu", (2,)), config=NARROW)
    with _Gathered() as gathered, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(IDS[:1], use_cache=False)
    return gathered.num_bytes - outside, num_bytes


def test_the_weights_of_products_are_gathered_in_bfloat16(tmp_path: Path):
    found, whole = run_ranks(gathered_bytes, folder=tmp_path)[0]
    assert 0.5 < found / whole < 0.53
