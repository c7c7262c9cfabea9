"""A learner's checkpoint: transformers loads it, training goes on the same, another model's is refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.config.recipe import ModelConfig
from rlvr.errors import CheckpointError
from rlvr.models.policy import build_tiny, load_policy
from tests.unit.learner.learner_cases import TINY, make_batch, make_learner


def test_checkpoint_loads_in_transformers_and_training_goes_on_the_same(tmp_path: Path):
    first = make_learner(tmp_path)
    first.step(make_batch(seed=1))
    first.publish()
    first.save(tmp_path / "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    for a, b in zip(loaded.parameters(), first.policy.model.parameters(), strict=True):
        assert torch.equal(a, b)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert tokenizer.decode(tokenizer.encode("12:3", add_special_tokens=False)) == "12:3"

    policy = load_policy(ModelConfig(path=str(tmp_path / "checkpoint")), seed=0)
    assert policy.stop_token_ids == first.policy.stop_token_ids
    second = make_learner(tmp_path, policy=build_tiny(TINY, seed=8))
    second.restore(tmp_path / "checkpoint")
    assert second.policy_version == first.policy_version
    for learner in (first, second):
        learner.step(make_batch(seed=2))
    for a, b in zip(first.policy.model.parameters(), second.policy.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_of_another_model_or_a_torn_one_is_refused(tmp_path: Path):
    make_learner(tmp_path).save(tmp_path / "checkpoint")
    other = make_learner(tmp_path, policy=build_tiny(TINY.model_copy(update={"layers": 1, "hidden_size": 16}), seed=0))
    with pytest.raises(CheckpointError, match="does not match this LlamaForCausalLM"):
        other.restore(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "optimizer.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot be read"):
        make_learner(tmp_path).restore(tmp_path / "checkpoint")


def test_the_optimiser_state_is_stored_by_name_and_the_numbered_first_format_still_loads(tmp_path: Path):
    first = make_learner(tmp_path)
    first.step(make_batch(seed=1))
    first.save(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    own = dict(first.policy.model.named_parameters())
    assert set(saved["state"]) == set(own)
    assert all(saved["state"][name]["exp_avg"].shape == own[name].shape for name in own)

    torch.save(first.optimizer.state_dict(), file)
    second = make_learner(tmp_path, policy=build_tiny(TINY, seed=8))
    second.restore(tmp_path / "checkpoint")
    for learner in (first, second):
        learner.step(make_batch(seed=2))
    for a, b in zip(first.policy.model.parameters(), second.policy.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_before_the_first_step_has_no_state_and_restores(tmp_path: Path):
    first = make_learner(tmp_path)
    first.save(tmp_path / "checkpoint")
    second = make_learner(tmp_path, policy=build_tiny(TINY, seed=8))
    second.restore(tmp_path / "checkpoint")
    assert second.num_steps == 0
    assert not second.optimizer.state_dict()["state"]


def test_state_of_other_parameters_is_refused(tmp_path: Path):
    first = make_learner(tmp_path)
    first.step(make_batch())
    first.save(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    saved["state"]["stranger.weight"] = saved["state"].pop("model.norm.weight")
    torch.save(saved, file)
    with pytest.raises(CheckpointError, match=r"1 differ, first 'stranger\.weight'"):
        make_learner(tmp_path).restore(tmp_path / "checkpoint")
