"""Every model family that is offered: engine, learner and transformers agree, also after saving and with adapters."""

import asyncio
import copy
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlvr.config.recipe import EngineDtype, LoraConfig, ModelConfig
from rlvr.config.sections.learner import Layout
from rlvr.errors import CheckpointError, ConfigError
from rlvr.models import lora
from rlvr.models.export import export_policy, read_exported
from rlvr.models.logprobs import token_logprobs
from rlvr.models.policy import Policy, load_policy, read_architecture
from rlvr.records import Completion
from rlvr.rollout.next_token import Way, _has_plain_cache, rows_of, way_of
from rlvr.rollout.transformers_engine import TransformersEngine
from tests.unit.learner.learner_cases import make_batch, make_learner
from tests.unit.models.family_cases import FAMILIES, VOCAB, write_family
from tests.unit.models.packing_cases import difference, gradients, ragged
from tests.unit.rollout.test_engine import generate, requests_of

EXACT = 1e-4  # nats, between float32 computations of one log-prob
# One of each kind runs with the quick tests, all of them with the thorough ones.
QUICK = ("gemma2", "gpt_neox", "deepseek_v3", "mamba", "lfm2", "recurrent_gemma")
REFUSED = ("rwkv",)
TRAINED = [name for name in FAMILIES if name not in REFUSED]
all_families = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow, pytest.mark.thorough]) for name in TRAINED],
)
# Prompts of several lengths, two of them equal, one longer than every window and chunk.
PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 4, 8, 12, 4, 8, 5, 5, 7, 20, 21, 6], [3], [1, 5, 6, 8]]
# transformers' own eager code adds Falcon's position bias twice; elsewhere eager is the textbook's attention.
OWN_ATTENTION = ("falcon alibi",)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads only wait for each other in models of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that were written already, by family."""
    return {}


@pytest.fixture
def folder(name: str, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if name not in folders:
        folders[name] = write_family(name, tmp_path_factory.mktemp("family"))
    return folders[name]


def load(folder: Path, rank: int = 0) -> Policy:
    return load_policy(ModelConfig(path=str(folder), lora=LoraConfig(rank=rank)), seed=0)


def reference(folder: Path, name: str) -> PreTrainedModel:
    """The folder as transformers loads it, with attention by the textbook."""
    chosen = {} if name in OWN_ATTENTION else {"attn_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **chosen).eval()


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(model.eval()(ids, use_cache=False).logits.float(), -1)


def completions_of(policy: Policy, dtype: EngineDtype) -> list[Completion]:
    engine = TransformersEngine(policy, engine_dtype=dtype, autocast=False, max_batch_rows=64)
    try:
        return generate(engine, requests_of(PROMPTS, group_size=3))
    finally:
        asyncio.run(engine.close())


def worst(model: PreTrainedModel, completions: Sequence[Completion]) -> float:
    """The largest difference of the engine's log-probs to those of a model that reads each row alone."""
    found = 0.0
    for completion in completions:
        start, tokens = len(completion.prompt_token_ids), torch.tensor(completion.token_ids)
        ids = torch.tensor([completion.prompt_token_ids + completion.token_ids])
        own = logprobs_of(model, ids)[0, start - 1 : -1].gather(1, tokens[:, None])[:, 0]
        found = max(found, float((own - torch.tensor(completion.logprobs)).abs().max()))
    return found


@all_families
def test_engine_learner_and_transformers_agree_on_every_log_prob(name: str, folder: Path) -> None:
    policy = load(folder)
    plain = reference(folder, name)
    for dtype in (EngineDtype.SHARED, EngineDtype.FLOAT32):
        completions = completions_of(policy, dtype)
        assert len({completion.token_ids for completion in completions}) > len(PROMPTS)
        assert worst(plain, completions) < EXACT
    rows = ragged([(9, [5, 1, 7]), (6, [2]), (1, [4, 4])], seed=2, vocab=VOCAB)
    found = {
        layout: token_logprobs(
            policy.model.train(),
            **rows,
            temperature=1.0,
            layout=layout,
            share_prompt_prefix=True,
            logits_memory_mb=64,
            needs_entropy_gradient=True,
        )
        for layout in Layout
    }
    expected = logprobs_of(plain, rows["token_ids"])[:, :-1]
    expected = expected.gather(-1, rows["token_ids"][:, 1:, None])[..., 0]
    mask = rows["loss_mask"][:, 1:]
    slopes = {layout: gradients(policy.model, out) for layout, out in found.items()}
    for out in found.values():
        assert float((out.logprobs.detach()[:, 1:] - expected)[mask].abs().max()) < EXACT
    assert difference(slopes[Layout.PACKED], slopes[Layout.PADDED]) < EXACT


@all_families
def test_a_checkpoint_is_what_transformers_loads_and_a_run_goes_on_from_it(
    name: str, folder: Path, tmp_path: Path
) -> None:
    first = make_learner(tmp_path, policy=load(folder))
    first.step(make_batch(seed=1))
    first.save(tmp_path / "checkpoint")
    ids = torch.randint(3, VOCAB, (2, 14), generator=torch.Generator().manual_seed(0))
    loaded = logprobs_of(reference(tmp_path / "checkpoint", name), ids)
    assert float((loaded - logprobs_of(first.policy.model, ids)).abs().max()) < EXACT
    assert float((loaded - logprobs_of(reference(folder, name), ids)).abs().max()) > 0.01

    second = make_learner(tmp_path, policy=load(folder))
    second.restore(tmp_path / "checkpoint")
    for learner in (first, second):
        learner.step(make_batch(seed=2))
    own = dict(second.policy.model.named_parameters())
    for key, parameter in first.policy.model.named_parameters():
        assert torch.equal(parameter, own[key]), key


@all_families
def test_adapters_are_the_same_apart_merged_and_exported(name: str, folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    policy = load(folder, rank=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    ids = torch.randint(3, VOCAB, (2, 14), generator=generator)
    adapted = logprobs_of(policy.model, ids)
    base = reference(folder, name)
    assert float((adapted - logprobs_of(base, ids)).abs().max()) > 0.1
    merged = logprobs_of(lora.plain_copy(policy.model, dtype=torch.float32), ids)
    assert float((adapted - merged).abs().max()) < 10 * EXACT
    export_policy(policy, tmp_path)
    loaded = logprobs_of(reference(tmp_path, name), ids)
    assert float((adapted - loaded).abs().max()) < 10 * EXACT
    with_adapter = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert float((adapted - logprobs_of(with_adapter, ids)).abs().max()) < 10 * EXACT


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_trained_is_refused_by_its_config_alone(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=rf"family '{name}', which cannot be trained: .+"):
        load(folder)


def test_an_encoder_with_a_decoder_is_refused_by_its_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ConfigError, match="'t5', which cannot be trained: it is an encoder"):
        read_architecture(ModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize("name", ["gemma2"])
def test_capped_attention_is_computed_by_engine_and_learner(name: str, folder: Path) -> None:
    """SDPA leaves the cap out: the same weights then differ by more than any rounding."""
    policy = load(folder)
    assert policy.model.config._attn_implementation == "eager"
    completions = completions_of(policy, EngineDtype.SHARED)
    if not policy.model._supports_sdpa:
        pytest.skip("this transformers refuses SDPA for the family")
    uncapped = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert worst(uncapped, completions) > 100 * EXACT


@pytest.mark.parametrize("name", ["qwen3_moe"])
def test_router_logits_are_switched_off_at_loading(name: str, folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["output_router_logits"]
    policy = load(folder)
    assert not policy.model.config.output_router_logits
    assert worst(reference(folder, name), completions_of(policy, EngineDtype.SHARED)) < EXACT


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("llama", Way.PADDED),
        ("mamba", Way.PADDED),
        ("falcon_h1", Way.PADDED),
        ("recurrent_gemma", Way.WHOLE_ROWS),
        ("xlstm", Way.WHOLE_ROWS),
    ],
)
def test_the_fastest_exact_way_is_found(name: str, way: Way, folder: Path) -> None:
    assert way_of(load(folder).model) is way


@pytest.mark.parametrize(("name", "argument"), [
    ("llama", "past_key_values"), ("llama", "cache"), ("mamba", "cache_params"), ("mamba", "cache"),
])  # fmt: skip
def test_a_cache_is_passed_by_each_of_its_names(name: str, argument: str, folder: Path) -> None:
    """transformers has renamed the argument; measuring the ways would find a name that is not passed."""
    model = load(folder).model
    plain, taken = model.forward, inspect.signature(model.forward).parameters
    known = next(other for other in ("past_key_values", "cache_params", "cache") if other in taken)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if argument != known:
            assert known not in kwargs
            kwargs[known] = kwargs.pop(argument, None)
        return plain(*args, **kwargs)

    renamed = [item.replace(name=argument) if item.name == known else item for item in taken.values()]
    forward.__signature__ = inspect.Signature(renamed)  # type: ignore[attr-defined]
    model.forward = forward
    assert way_of(model) is Way.PADDED
    assert _has_plain_cache(model) is (name == "llama")


def test_a_state_that_reads_padding_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recurrent model that ignores the mask of padded places generates prompts of one length at a time."""
    model = load(write_family("lfm2", tmp_path)).model
    for layer in model.model.layers:
        if hasattr(layer, "conv"):
            plain = layer.conv.forward
            layer.conv.forward = lambda *args, attention_mask=None, plain=plain, **kwargs: plain(*args, **kwargs)
    assert way_of(model) is Way.EQUAL_LENGTHS
    growing = rows_of(model.eval(), [[4, 5], [6, 7]], way=Way.EQUAL_LENGTHS, pad_token_id=0, room=1)
    ids = torch.tensor([[4, 5], [6, 7]])
    with torch.no_grad():
        assert torch.allclose(growing.start(), model(ids).logits[:, -1], atol=1e-5)


@pytest.mark.parametrize("name", ["deepseek_v3"])
@pytest.mark.parametrize("targets", [["gate_proj"], ["q_b_proj", "up_proj"]])
def test_an_adapter_on_fused_experts_is_refused_with_the_way_out(name: str, targets: list[str], folder: Path) -> None:
    pytest.importorskip("peft")
    config = ModelConfig(path=str(folder), lora=LoraConfig(rank=2, target_modules=targets))
    with pytest.raises(ConfigError, match=r"fused experts; take some of .*q_b_proj.*rank=0"):
        load_policy(config, seed=0)


@pytest.mark.parametrize("name", ["olmoe"])
def test_experts_without_adapters_are_named_in_one_line(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("peft")
    load(folder, rank=2)
    (record,) = [r for r in caplog.records if "leaves out" in r.message]
    assert "4 parameters of fused experts (first: model.layers.0.mlp.experts" in record.message


@pytest.mark.parametrize("change", [{}, {"model.layers.0.mlp.experts.base_layer.down_proj": 0.0}])
@pytest.mark.parametrize("name", ["mixtral"])
def test_a_written_folder_without_its_experts_is_an_error(
    name: str, change: dict[str, float], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load(folder)
    whole = policy.model.save_pretrained

    def save_without_an_expert(target: Path, **arguments: Any) -> None:
        whole(target, **arguments)
        tensors = load_file(target / "model.safetensors")
        lost = [key for key in tensors if "experts.1.w2" in key] if not change else []
        tensors = {key: tensor for key, tensor in tensors.items() if key not in lost}
        tensors |= {key: torch.tensor(value) for key, value in change.items()}
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(policy.model, "save_pretrained", save_without_an_expert)
    with pytest.raises(CheckpointError, match="saved model does not load as a MixtralForCausalLM"):
        export_policy(policy, tmp_path)


@pytest.mark.parametrize("name", ["mixtral"])
def test_a_checkpoint_of_other_shapes_or_names_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    model = load(folder).model
    narrow = copy.deepcopy(model)
    narrow.config.intermediate_size = 16
    with pytest.raises(CheckpointError, match="of another shape"):
        read_exported(folder, narrow)
    fewer = copy.deepcopy(model)
    fewer.config.num_hidden_layers = 1
    with pytest.raises(CheckpointError, match=r"[1-9][0-9]* unknown"):
        read_exported(folder, fewer)
