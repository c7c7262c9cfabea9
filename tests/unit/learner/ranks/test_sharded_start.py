"""A recipe's learners that alone hold the weights: cold start, reference and resume, and saving while they train."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from rlvr.batch import Batch
from rlvr.config.load import load_recipe
from rlvr.config.recipe import Recipe
from rlvr.config.sections.model import LoraConfig, TinyModel
from rlvr.errors import CheckpointError
from rlvr.learner import checkpoint
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.learner.ranks.saving import ShardedSaver
from rlvr.learner.ranks.sharding import shard
from rlvr.learner.ranks.signs import signs_of_life
from rlvr.models import lora, sharded_weights
from rlvr.models.policy import build_tiny
from rlvr.records import Transport
from rlvr.run.launch.start_learner import StartedLearner, open_policy, start_learner
from tests.unit.learner.group_cases import CONFIG, make_batch
from tests.unit.learner.rank_cases import run_ranks

RECIPE = [
    "cluster.backend=ray", "cluster.learners=2", "cold_start.steps=2", "cold_start.batch_size=4",
    "algorithm.kl_coef=0.05", "learner.dtype=float32", "rollout.engine_dtype=float32", "learner.num_threads=1",
]  # fmt: skip


def started(recipe: Recipe, folder: Path, *, resumed: Path | None = None) -> StartedLearner:
    return start_learner(
        recipe,
        policy=open_policy(recipe, transport=Transport.FILE),
        transport=Transport.FILE,
        faults=folder,
        reference_folder=folder / "reference",
        checkpoint=resumed,
        progress=lambda step, loss: None,
    )


def a_batch() -> Batch:
    batch = make_batch(num_groups=2, group_size=2)
    return replace(batch, **{n: getattr(batch, n).float() for n in ("behavior_logprobs", "advantages")})


@pytest.mark.slow
def test_ranks_run_the_cold_start_and_keep_its_result_as_the_reference_of_a_resumed_run(tmp_path: Path):
    recipe = load_recipe("tiny", RECIPE).recipe
    first = started(recipe, tmp_path)
    learner, batch = first.learner, a_batch()
    try:
        assert isinstance(learner, LearnerGroup)
        assert learner.policy.is_weightless
        assert first.cold_start is not None
        assert learner.num_steps == 0
        reference = learner.annotate(batch).ref_logprobs
        learner.step(learner.annotate(batch))
        moved = learner.score([row.tolist() for row in batch.token_ids[:1]])
        (tmp_path / "checkpoint").mkdir()
        learner.start_save(tmp_path / "checkpoint")
        learner.step(learner.annotate(batch))  # while it is written
        assert learner.is_saved(waits=True)
    finally:
        learner.close()
    again = started(recipe, tmp_path, resumed=tmp_path / "checkpoint").learner
    try:
        found = again.annotate(batch).ref_logprobs
        assert reference is not None
        assert found is not None
        torch.testing.assert_close(found, reference)
        assert again.score([row.tolist() for row in batch.token_ids[:1]]) == moved
    finally:
        again.close()


def adapted() -> torch.nn.Module:
    model = build_tiny(TinyModel(layers=1, hidden_size=16, heads=2, characters="0123456789:"), seed=1).model
    lora.attach(model, LoraConfig(rank=2), seed=1, base_name="tiny")
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.fill_(0.5)
    return model


def save_while_changing(folder: Path) -> tuple[bool, str]:
    """Whether the saver was done in the end, and its error for a folder that cannot be written."""
    model = adapted()
    shard(model, mesh=init_device_mesh("cpu", (2,)), config=CONFIG)  # type: ignore[arg-type] # a transformers model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saver = ShardedSaver(alive=lambda: None, timeout=torch.distributed.distributed_c10d.default_pg_timeout)
    saver.start(
        folder / "good",
        weights=checkpoint.sharded_weights_state(model),  # type: ignore[arg-type]
        optimizer=checkpoint.sharded_optimizer_state(optimizer, model),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for parameter in trained:
            parameter.zero_()  # what is written is a copy
    saver.finish()
    is_done = saver.is_done
    (folder / "blocked").touch()
    saver.start(folder / "blocked", weights=checkpoint.sharded_weights_state(model), optimizer={})  # type: ignore[arg-type]
    try:
        saver.finish()
    except CheckpointError as error:
        return is_done, str(error)
    return is_done, ""


def test_a_save_copies_first_and_its_error_is_raised_when_it_is_finished(tmp_path: Path):
    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for is_done, error in run_ranks(save_while_changing, tmp_path, folder=tmp_path):
        assert is_done
        assert "blocked could not be written" in error
    expected: dict[str, Tensor] = {
        "weights." + name: weight
        for name, weight in lora.merged_weights(model)  # type: ignore[arg-type]
    }
    expected |= {"adapter." + n: w for n, w in lora.adapter_state_dict(model).items()}  # type: ignore[arg-type]
    found = {name: torch.empty(shape) for name, shape in sharded_weights.stored_shapes(tmp_path / "good").items()}
    assert set(found) == set(expected)
    sharded_weights.read_into(tmp_path / "good", found)
    assert all(torch.equal(found[name], tensor.detach()) for name, tensor in expected.items())
    states = sharded_weights.stored_shapes(tmp_path / "good", sharded_weights.OPTIMIZER_FOLDER)
    assert {name.rpartition(".")[2] for name in states} == {"step", "exp_avg", "exp_avg_sq"}


def test_signs_of_life_stop_when_nothing_moves():
    signs: list[int] = []
    looks: list[int] = []
    halted = threading.Event()

    def progress() -> int:
        looks.append(0)
        if len(looks) == 4:
            halted.set()
        return min(len(looks), 2)

    with signs_of_life(lambda: signs.append(0), progress=progress):
        assert halted.wait(60.0)
    assert len(signs) == 2
