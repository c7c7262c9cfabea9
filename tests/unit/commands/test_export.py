"""`rlvr export`: the exported folder generates what the checkpoint's policy generates, however it was written."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rlvr.commands.export import export_model
from rlvr.commands.run_checkpoint import locate_checkpoint
from rlvr.config.load import load_recipe
from rlvr.config.recipe import ModelConfig
from rlvr.errors import CheckpointError, ConfigError
from rlvr.learner import checkpoint
from rlvr.learner.ranks.saving import ShardedSaver
from rlvr.learner.ranks.sharding import shard
from rlvr.models import lora
from rlvr.models.export import ADAPTER_FOLDER, export_outline, export_policy
from rlvr.models.policy import Policy, load_policy
from rlvr.run.record.checkpoints import write_checkpoint
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.recipe_file import signed, write_recipe
from tests.unit.learner.group_cases import CONFIG
from tests.unit.learner.rank_cases import run_ranks

STATE = {"step": 3, "elapsed_s": 1.0, "stream": {}, "governor": {}}
IDS = torch.tensor([[1, 5, 6, 7, 8]])


class Learner:
    """Saves a policy as one learner does, or as two."""

    def __init__(self, policy: Policy, *, ranks: int, folder: Path) -> None:
        self._policy = policy
        self._ranks = ranks
        self._folder = folder

    def start_save(self, folder: Path) -> None:
        if self._ranks == 1:
            export_policy(self._policy, folder)
            return
        export_outline(self._policy, folder)
        run_ranks(write_parts, self._policy.model, folder, folder=self._folder)

    def is_saved(self, *, waits: bool) -> bool:
        return True


def write_parts(model: PreTrainedModel, folder: Path) -> None:
    shard(model, mesh=init_device_mesh("cpu", (2,)), config=CONFIG)
    saver = ShardedSaver(alive=lambda: None, timeout=torch.distributed.distributed_c10d.default_pg_timeout)
    saver.start(folder, weights=checkpoint.sharded_weights_state(model), optimizer={})
    saver.finish()


def a_run(folder: Path, *, ranks: int, lora_rank: int) -> tuple[Path, Policy]:
    """A run with a checkpoint of step 3, and its policy, whose weights are not those that it started with."""
    loaded = load_recipe("tiny", [f"model.lora.rank={lora_rank}", "learner.dtype=float32"])
    policy = load_policy(loaded.recipe.model, seed=4)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    directory = RunDirectory.create(folder / "run", "tiny")
    write_recipe(directory, loaded.to_yaml())
    learner = Learner(policy, ranks=ranks, folder=folder)
    write_checkpoint(
        directory.checkpoint(3),
        learner=learner,
        run_state=STATE,
        recipe=signed(loaded.to_yaml()),  # type: ignore[arg-type]
    )
    return directory.path, policy


def greedy(model: PreTrainedModel) -> Tensor:
    return model.eval().generate(IDS, do_sample=False, max_new_tokens=12)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_run_is_exported_and_the_folder_generates_the_same(tmp_path: Path, ranks: int, lora_rank: int):
    run, policy = a_run(tmp_path, ranks=ranks, lora_rank=lora_rank)
    rows = export_model(str(run), tmp_path / "out", only_adapters=False)
    assert ("from", str(run / "checkpoints" / "step_3"), "") in rows
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = lora.plain_copy(policy.model, dtype=torch.float32)
    for (name, found), weight in zip(again.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, weight), name
    assert torch.equal(greedy(again), greedy(expected))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("12:3", add_special_tokens=False)) == "12:3"

    # what `rlvr eval RUN` and a new run with model.path load
    path, recipe = locate_checkpoint(str(run))
    assert recipe is not None
    loaded = load_policy(ModelConfig(path=path), seed=0)
    assert loaded.stop_token_ids == policy.stop_token_ids
    assert torch.equal(greedy(loaded.model), greedy(expected))


@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_alone_are_exported_for_peft(tmp_path: Path, ranks: int):
    from peft import PeftModel

    run, policy = a_run(tmp_path, ranks=ranks, lora_rank=4)
    export_model(str(run / "checkpoints" / "step_3"), tmp_path / "out", only_adapters=True)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {lora.ADAPTER_CONFIG, lora.ADAPTER_WEIGHTS}
    plain = load_recipe("tiny", ["learner.dtype=float32"]).recipe.model
    base = load_policy(plain, seed=4).model
    adapted = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "out"))
    with torch.no_grad():
        expected = policy.model.eval()(IDS).logits
        torch.testing.assert_close(adapted.eval()(IDS).logits, expected)
        assert not torch.allclose(base.eval()(IDS).logits, expected)


def test_what_cannot_be_exported_is_said(tmp_path: Path):
    run, _ = a_run(tmp_path, ranks=1, lora_rank=0)
    with pytest.raises(ConfigError, match=r"has no adapters \(model\.lora\.rank=0\); omit --adapters"):
        export_model(str(run), tmp_path / "out", only_adapters=True)
    with pytest.raises(ConfigError, match="is neither a run directory nor a checkpoint"):
        export_model(str(run / "checkpoints"), tmp_path / "out", only_adapters=False)
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        export_model(str(run), run, only_adapters=False)
    (run / "checkpoints" / "step_3" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has 4 bytes"):
        export_model(str(run), tmp_path / "out", only_adapters=False)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_damaged_part_of_a_sharded_checkpoint_is_found(tmp_path: Path):
    run, _ = a_run(tmp_path, ranks=2, lora_rank=0)
    part = run / "checkpoints" / "step_3" / "weights" / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"weights/__1_0\.distcp has changed"):
        export_model(str(run), tmp_path / "out", only_adapters=False)
    assert ADAPTER_FOLDER not in {entry.name for entry in part.parents[1].iterdir()}
