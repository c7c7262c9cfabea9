"""A learner over several ranks: the same steps as with one process, and the same checkpoints."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.algorithms.corrections import Correction
from rlvr.algorithms.losses import PolicyLoss
from rlvr.batch import Batch
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.config.sections.model import LoraConfig
from rlvr.errors import CheckpointError, LearnerError
from rlvr.importance_weights import WeightLevel
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.learner.ranks.rows import split_over_ranks
from rlvr.models import lora
from rlvr.models.policy import Policy, build_tiny
from rlvr.records import Transport
from tests.unit.learner.group_cases import (
    CONFIG,
    TIMING,
    TINY,
    largest_difference,
    make_batch,
    make_loss,
    make_policy,
    start_group,
)


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, LearnerGroup]]:
    """Groups of 2 and 4 ranks; each test begins a stage of its own with them."""
    folder = tmp_path_factory.mktemp("faults")
    with start_group(2, folder) as two, start_group(4, folder) as four:
        yield {2: two, 4: four}


def begin(group: LearnerGroup, folder: Path, *, config: LearnerConfig = CONFIG, loss: PolicyLoss) -> LearnerGroup:
    """The group, training from the weights of `make_policy()` again."""
    source = dict(make_policy().model.named_parameters())
    with torch.no_grad():
        for name, parameter in group.policy.model.named_parameters():
            parameter.copy_(source[name])
    group.begin(config=config, loss=loss, temperature=0.9, fault_folder=folder)
    return group


def alone(
    folder: Path, *, config: LearnerConfig = CONFIG, loss: PolicyLoss, policy: Policy | None = None
) -> PolicyLearner:
    return PolicyLearner(
        policy or make_policy(),
        config=config,
        loss=loss,
        temperature=0.9,
        transport=Transport.SHARED,
        reference=make_policy(9).model,
        fault_folder=folder,
    )


def compare_steps(group: LearnerGroup, one: PolicyLearner, batches: list[Batch], *, tolerance: float = 1e-6) -> None:
    """The same batches give the same metrics and the same weights."""
    for batch in batches:
        expected = one.step(one.annotate(batch)).metrics
        found = group.step(group.annotate(batch)).metrics
        assert set(found) == set(expected)
        for name in set(expected) - TIMING:
            assert found[name] == pytest.approx(expected[name], rel=tolerance, abs=1e-12), name
    group.publish()
    assert largest_difference(group.policy, one.policy) < tolerance


ALGORITHMS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "grpo": ({"kl_coef": 0.1}, {}),
    "gspo": ({"loss": "gspo", "aggregation": "prompt_mean"}, {}),
    "cispo": ({"loss": "cispo", "aggregation": "sequence_mean", "entropy_coef": 0.01}, {"share_prompt_prefix": False}),
    "decoupled": (
        {"aggregation": "constant_length", "correction": {"weight": "token"}},
        {"minibatches_per_step": 2, "layout": "padded"},
    ),
}


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_steps_are_those_of_one_process(groups: dict[int, LearnerGroup], tmp_path: Path, num_ranks: int, name: str):
    algorithm, changes = ALGORITHMS[name]
    config = LearnerConfig.model_validate({**CONFIG.model_dump(), **changes})
    is_decoupled = name == "decoupled"
    loss = make_loss(uses_proximal=is_decoupled, **algorithm)
    group = begin(groups[num_ranks], tmp_path, config=config, loss=loss)
    one = alone(tmp_path, config=config, loss=loss)
    compare_steps(group, one, [make_batch(seed=seed) for seed in range(3)])
    assert group.num_steps == one.num_steps == (6 if is_decoupled else 3)


def test_fewer_rows_than_ranks(groups: dict[int, LearnerGroup], tmp_path: Path):
    loss = make_loss(kl_coef=0.1)
    group, one = begin(groups[4], tmp_path, loss=loss), alone(tmp_path, loss=loss)
    batches = [
        make_batch(seed=1, num_groups=1, group_size=2),
        make_batch(seed=2, num_groups=1, group_size=1),
        make_batch(seed=3, num_groups=3, group_size=3),
    ]
    assert [] in split_over_ranks(batches[0], 4)
    compare_steps(group, one, batches)


@pytest.mark.slow
def test_an_idle_rank_runs_empty_passes_in_bfloat16_too(tmp_path: Path):
    """Its weights are gathered in bfloat16, which only autocast can multiply with the float32 residual stream."""
    narrow = CONFIG.model_copy(update={"dtype": LearnerDtype.BFLOAT16_AUTOCAST})
    policy = build_tiny(TINY, seed=3)
    one = alone(tmp_path, config=narrow, loss=make_loss(), policy=build_tiny(TINY, seed=3))
    rows = [[1, 5, 6, 7]]
    with start_group(2, tmp_path, config=narrow, policy=policy, reference=None) as group:
        assert group.score(rows) == one.score(rows)
        for seed in range(2):
            batch = make_batch(seed=seed, num_groups=1, group_size=1)
            batch = replace(batch, **{n: getattr(batch, n).float() for n in ("behavior_logprobs", "advantages")})
            assert [] in split_over_ranks(batch, 2)
            expected, found = one.step(batch).metrics, group.step(batch).metrics
            for name in ("policy/grad_norm", "policy/loss", "policy/entropy"):
                assert found[name] == pytest.approx(expected[name], rel=1e-5), name
        group.publish()
    assert largest_difference(policy, one.policy) < 1e-5


@pytest.mark.parametrize("silent", [[1], [0, 2, 3], [0, 1, 2, 3]])
def test_groups_without_a_gradient_are_run_forward_only_by_every_rank(
    groups: dict[int, LearnerGroup], tmp_path: Path, silent: list[int]
):
    """Ranks with nothing but such groups, and a step in which no rank has a gradient."""
    loss = make_loss()
    group, one = begin(groups[4], tmp_path, loss=loss), alone(tmp_path, loss=loss)
    first, second = make_batch(seed=1), make_batch(seed=2)
    is_silent = torch.isin(second.group_index, torch.tensor(silent))[:, None]
    second = replace(second, advantages=second.advantages.masked_fill(is_silent, 0.0))
    compare_steps(group, one, [first, second])


def test_log_probs_are_returned_in_the_order_of_the_rows(groups: dict[int, LearnerGroup], tmp_path: Path):
    config = CONFIG.model_copy(update={"minibatches_per_step": 2})
    loss = make_loss(uses_proximal=True)
    group = begin(groups[4], tmp_path, config=config, loss=loss)
    one = alone(tmp_path, config=config, loss=loss)
    batch = make_batch(num_groups=5, group_size=3)
    found, expected = group.annotate(batch), one.annotate(batch)
    assert found.ref_logprobs is not None
    assert found.proximal_logprobs is not None
    torch.testing.assert_close(found.ref_logprobs, expected.ref_logprobs)
    torch.testing.assert_close(found.proximal_logprobs, expected.proximal_logprobs)


def test_several_calls_of_accumulate_are_one_step(groups: dict[int, LearnerGroup], tmp_path: Path):
    """As with streaming: group after group, then one division by the sum of their counts."""
    loss = make_loss(aggregation="sequence_mean")
    group, one = begin(groups[2], tmp_path, loss=loss), alone(tmp_path, loss=loss)
    batch = make_batch(num_groups=3)
    expected = one.step(batch).metrics
    for index in range(3):
        rows = (batch.group_index == index).nonzero()[:, 0]
        group.accumulate(batch.rows(rows))
    found = group.apply(batch.denominators).metrics
    assert found["policy/grad_norm"] == pytest.approx(expected["policy/grad_norm"], rel=1e-6)
    assert found["mismatch/ess"] == pytest.approx(expected["mismatch/ess"], rel=1e-6)
    assert found["learner/loss_tokens"] == batch.num_loss_tokens
    assert found["learner/micro_batches"] >= 3
    group.publish()
    assert largest_difference(group.policy, one.policy) < 1e-6


def test_a_correction_reaches_every_rank(groups: dict[int, LearnerGroup], tmp_path: Path):
    strict = Correction(level=WeightLevel.TOKEN, weight_max=1.01)
    group = begin(groups[2], tmp_path, loss=make_loss(uses_proximal=True))
    one = alone(tmp_path, loss=make_loss(uses_proximal=True))
    before = group.step(group.annotate(make_batch())).metrics
    one.step(one.annotate(make_batch()))
    assert before["mismatch/truncated_weight_rate"] == 0
    group.set_correction(strict)
    one.set_correction(strict)
    compare_steps(group, one, [make_batch(seed=5)])
    after = group.step(group.annotate(make_batch(seed=6))).metrics
    assert after["mismatch/truncated_weight_rate"] > 0.1


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_gradient_that_is_not_finite_is_skipped_by_all_and_kept_by_the_rank_that_has_it(
    groups: dict[int, LearnerGroup], tmp_path: Path, num_ranks: int
):
    config = CONFIG.model_copy(update={"max_nonfinite_steps": 1})
    group = begin(groups[num_ranks], tmp_path, config=config, loss=make_loss())
    one = alone(tmp_path / "one", config=config, loss=make_loss())
    batch = make_batch()
    advantages = batch.advantages.clone()
    advantages[9, batch.loss_mask[9]] = float("nan")
    poisoned = replace(batch, advantages=advantages)
    report = group.step(poisoned)
    assert report.skipped
    assert report.metrics["learner/nonfinite_steps"] == 1
    kept = load_file(tmp_path / "nonfinite_001.safetensors")
    assert bool(kept["advantages"].isnan().any())
    assert len(kept["advantages"]) < 16
    group.publish()
    assert largest_difference(group.policy, one.policy) == 0.0
    one.step(poisoned)
    compare_steps(group, one, [make_batch(seed=1)])
    with pytest.raises(LearnerError, match=r"max_nonfinite_steps is 1.*lower learner\.lr"):
        group.step(poisoned)


def test_a_checkpoint_does_not_depend_on_the_number_of_ranks(groups: dict[int, LearnerGroup], tmp_path: Path):
    """Saved by 2 ranks and by 1, restored by 1, 2 and 4: the next steps are the same."""
    loss = make_loss()
    two, one = begin(groups[2], tmp_path, loss=loss), alone(tmp_path, loss=loss)
    compare_steps(two, one, [make_batch(seed=1), make_batch(seed=2)])
    two.save(tmp_path / "by_two")
    one.publish()
    one.save(tmp_path / "by_one")
    assert (tmp_path / "by_two" / "learner.json").read_text() == (tmp_path / "by_one" / "learner.json").read_text()
    one.step(make_batch(seed=3))
    for folder in ("by_two", "by_one"):
        again = alone(tmp_path, loss=loss, policy=make_policy(8))
        again.restore(tmp_path / folder)
        again.step(make_batch(seed=3))
        assert largest_difference(again.policy, one.policy) < 1e-6
        for group in groups.values():
            begin(group, tmp_path, loss=loss)
            group.restore(tmp_path / folder)
            assert group.policy_version == again.policy_version
            group.step(make_batch(seed=3))
            group.publish()
            assert largest_difference(group.policy, one.policy) < 1e-6


def test_a_checkpoint_of_another_model_is_refused_before_any_rank_sees_it(
    groups: dict[int, LearnerGroup], tmp_path: Path
):
    small = build_tiny(TINY.model_copy(update={"layers": 1, "hidden_size": 16}), seed=0)
    alone(tmp_path, loss=make_loss(), policy=small).save(tmp_path / "other")
    group = begin(groups[2], tmp_path, loss=make_loss())
    with pytest.raises(CheckpointError, match="does not match this LlamaForCausalLM"):
        group.restore(tmp_path / "other")
    group.step(make_batch())


def test_engines_see_new_weights_when_they_are_published(groups: dict[int, LearnerGroup], tmp_path: Path):
    group = begin(groups[2], tmp_path, loss=make_loss())
    assert group.publish().policy_version == 0
    before = make_policy()
    group.step(make_batch())
    assert largest_difference(group.policy, before) == 0.0
    assert group.publish().policy_version == 1
    assert group.publish().policy_version == 1
    assert largest_difference(group.policy, before) > 1e-5


@pytest.mark.slow
def test_adapters_are_trained_over_ranks_and_the_reference_is_the_policy_without_them(tmp_path: Path):
    """In float32, with activations computed twice; then another stage in bfloat16."""

    def make(seed: int = 1) -> Policy:
        policy = build_tiny(TINY, seed=3)
        lora.attach(policy.model, LoraConfig(rank=4), seed=seed, base_name="tiny")
        return policy

    def learner(policy: Policy, config: LearnerConfig) -> PolicyLearner:
        return PolicyLearner(
            policy,
            config=config,
            loss=loss,
            temperature=0.9,
            transport=Transport.IN_PLACE_COPY,
            reference=policy.model,
            fault_folder=tmp_path,
        )

    def compare(one: PolicyLearner, *, tolerance: float) -> None:
        for seed in range(2):
            batch = make_batch(seed=seed)
            floats = {n: getattr(batch, n).float() for n in ("behavior_logprobs", "advantages")}
            batch = replace(batch, **floats)
            expected = one.step(one.annotate(batch)).metrics
            found = group.step(group.annotate(batch)).metrics
            assert seed == 0 or expected["policy/kl_k3"] > 0
            for name in ("policy/grad_norm", "policy/entropy", "mismatch/mean_abs_logprob_diff"):
                assert found[name] == pytest.approx(expected[name], rel=tolerance), name
            assert found["policy/kl_k3"] == pytest.approx(expected["policy/kl_k3"], rel=10 * tolerance)

    config = CONFIG.model_copy(update={"gradient_checkpointing": True})
    loss = make_loss(kl_coef=0.1)
    policy = make()
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})  # as a cold start does
    one = learner(make(), config)
    with start_group(
        2, tmp_path, config=config, loss=loss, policy=policy, reference=policy.model, transport=Transport.IN_PLACE_COPY
    ) as group:
        compare(one, tolerance=1e-3)
        manifest = group.publish().manifest
        assert [e.name for e in manifest] == [e.name for e in one.publish().manifest]
        trained = [p for p in policy.model.parameters() if p.requires_grad]
        assert 0 < len(trained) < len(list(policy.model.parameters()))
        assert largest_difference(policy, one.policy) < 5e-3
        assert largest_difference(policy, make()) > 0.1
        start = zip(policy.model.parameters(), make().model.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in start if not p.requires_grad)

        group.save(tmp_path / "checkpoint")
        again = learner(make(seed=2), config)
        again.restore(tmp_path / "checkpoint")
        assert largest_difference(again.policy, policy) == 0.0

        narrow = CONFIG.model_copy(update={"dtype": LearnerDtype.BFLOAT16_AUTOCAST})
        group.begin(config=narrow, loss=loss, temperature=0.9, fault_folder=tmp_path)
        compare(learner(again.policy, narrow), tolerance=3e-2)
