"""Learners that alone hold the weights: what each of them reads and keeps, and that they learn what one learns."""

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from rlvr.config.recipe import ModelConfig
from rlvr.config.sections.model import LoraConfig, TinyModel
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.learner.ranks.loading import WeightSource, load_source, weight_source
from rlvr.learner.ranks.sharding import materialize, shard
from rlvr.learner.shards import local_part
from rlvr.models import lora
from rlvr.models.export import export_policy
from rlvr.models.policy import Policy, build_tiny, load_policy, load_weightless
from rlvr.records import Transport
from tests.unit.learner.group_cases import CONFIG, TIMING, TINY, make_batch, make_loss
from tests.unit.learner.rank_cases import run_ranks

VOCAB, WIDTH = 16_000, 768
LARGEST_BYTES = 4 * VOCAB * WIDTH
CHARACTERS = TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789:")


class _Held(TorchDispatchMode):
    """The most bytes of tensors that were alive at one time, of those made inside."""

    def __init__(self) -> None:
        self.peak = self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if type(tensor) is torch.Tensor and not tensor.is_meta:
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known and size:
            self._known.add(key)
            self._held += size
            self.peak = max(self.peak, self._held)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size


def middle_sized(folder: Path) -> int:
    """Writes a policy of 55 million parameters; returns its bytes in float32."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=12,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    build_tiny(CHARACTERS, seed=0).tokenizer.save_pretrained(folder)
    return 4 * sum(p.numel() for p in model.parameters())


def bytes_on_a_rank(config: ModelConfig, source: WeightSource) -> int:
    with _Held() as held:
        model = load_weightless(config, seed=0).model
        shard(model, mesh=init_device_mesh("cpu", (2,)), config=CONFIG)
        materialize(model, device=torch.device("cpu"))
        load_source(model, source, alive=lambda: None)
    saved = load_file(Path(config.path) / "model.safetensors")
    for name, parameter in model.named_parameters():
        own = local_part(parameter.detach())
        rank = torch.distributed.get_rank()
        assert torch.equal(own, saved[name].chunk(2)[rank]), name
    return held.peak


def test_neither_the_parent_nor_a_rank_holds_the_whole_model(tmp_path: Path):
    num_bytes = middle_sized(tmp_path / "model")
    config = ModelConfig(path=str(tmp_path / "model"))
    with _Held() as held:
        policy = load_weightless(config, seed=0)
        source = weight_source(config, policy.model, seed=0)
    assert source.slices is not None
    assert held.peak < 1.01 * LARGEST_BYTES  # while the architecture is built, one tensor after another
    with _Held() as whole:
        copies = [parameter.detach().clone() for parameter in load_policy(config, seed=0).model.parameters()]
    assert whole.peak >= sum(copy.nbytes for copy in copies) == num_bytes  # the measurement sees a whole model
    del copies
    for peak in run_ranks(bytes_on_a_rank, config, source, folder=tmp_path):
        assert num_bytes / 2 <= peak < num_bytes / 2 + 1.01 * LARGEST_BYTES


@pytest.mark.parametrize(
    ("config", "is_exported"),
    [
        (ModelConfig(tiny=TINY), False),  # rank 0 builds it and sends the parts
        pytest.param(  # each rank reads its rows
            ModelConfig(tiny=TINY, lora=LoraConfig(rank=4)), True, marks=pytest.mark.slow
        ),
    ],
    ids=["built", "read"],
)
def test_learners_that_read_their_own_parts_learn_what_one_learns(
    tmp_path: Path, config: ModelConfig, is_exported: bool
):
    if is_exported:
        plain = config.model_copy(update={"lora": LoraConfig()})
        export_policy(load_policy(plain, seed=3), tmp_path / "model")
        config = ModelConfig(path=str(tmp_path / "model"), lora=config.lora)
    loss = make_loss(kl_coef=0.1)
    policy = load_policy(config, seed=3)
    one = learner(policy, tmp_path / "one", loss=loss)
    outline = load_weightless(config, seed=3)
    has_adapters = lora.has_adapters(outline.model)
    reference = outline.model if has_adapters else lora.plain_architecture(outline.model, dtype=torch.float32)
    with LearnerGroup(
        outline,
        num_ranks=2,
        config=CONFIG,
        loss=loss,
        temperature=0.9,
        transport=Transport.FILE,
        reference=reference,
        fault_folder=tmp_path,
        published_dtype=torch.float32,
        weights_folder=tmp_path / "weights",
        source=weight_source(config, outline.model, seed=3),
        device_type="cpu",
        silence_s=60.0,
    ) as group:
        if not has_adapters:
            group.load_reference(None)
        assert manifest(group) == manifest(one)
        for seed in range(2):
            expected, found = advance(one, seed), advance(group, seed)
            for name in set(expected) - TIMING:
                assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
        require_close(group, one)

        names = [next(name for name, p in outline.model.named_parameters() if p.requires_grad)]
        before = manifest(group)
        group.perturb(names, scale=0.5)
        one.perturb(names, scale=0.5)
        require_close(group, one)
        group.unperturb()
        one.unperturb()
        assert manifest(group) == before

        group.save(tmp_path / "checkpoint")
        advance(group, 2)
        assert manifest(group) != before
        group.restore(tmp_path / "checkpoint")
        assert manifest(group) == before
        again = learner(load_policy(config, seed=3), tmp_path / "again", loss=loss)
        again.restore(tmp_path / "checkpoint")
        assert manifest(again) == before
        for other in (one, again):
            advance(other, 3)
        require_close(again, one)
    assert all(parameter.is_meta for name, parameter in outline.model.named_parameters() if ".lora_" not in name)


def learner(policy: Policy, folder: Path, *, loss: object) -> PolicyLearner:
    has_adapters = lora.has_adapters(policy.model)
    return PolicyLearner(
        policy,
        config=CONFIG,
        loss=loss,  # type: ignore[arg-type] # a test builder
        temperature=0.9,
        transport=Transport.FILE,
        reference=policy.model if has_adapters else lora.plain_copy(policy.model, dtype=torch.float32),
        fault_folder=folder,
        published_dtype=torch.float32,
        weights_folder=folder,
    )


def manifest(learner: PolicyLearner | LearnerGroup) -> dict[str, int]:
    return {entry.name: entry.checksum for entry in learner.publish().manifest}


def require_close(first: PolicyLearner | LearnerGroup, second: PolicyLearner | LearnerGroup) -> None:
    found, expected = load_file(first.publish().uri), load_file(second.publish().uri)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm() / tensor.norm()) < 1e-4, name


def advance(learner: PolicyLearner | LearnerGroup, seed: int) -> Mapping[str, float]:
    """The metrics of a step."""
    batch = make_batch(seed=seed)
    batch = replace(batch, **{n: getattr(batch, n).float() for n in ("behavior_logprobs", "advantages")})
    return learner.step(learner.annotate(batch)).metrics
