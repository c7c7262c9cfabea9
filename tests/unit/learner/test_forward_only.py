"""Groups whose advantages are all 0 are run forward only: the same step, the same metrics, a third of the work."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlvr.algorithms.build import build_loss
from rlvr.batch import Batch
from rlvr.config.sections.algorithm import (
    AlgorithmConfig,
    CispoLoss,
    ClippedLoss,
    DppoLoss,
    GspoLoss,
    KlPlacement,
    LossConfig,
    PolicyGradientLoss,
    SapoLoss,
)
from rlvr.learner.batching import has_no_gradient
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.rows import split_over_ranks
from tests.unit.learner.learner_cases import double_learner, gradient, make_batch, make_learner, relative

LOSSES: list[LossConfig] = [
    ClippedLoss(),
    ClippedLoss(dual_clip=3.0),
    GspoLoss(clip_low=0.1, clip_high=0.1),
    CispoLoss(),
    SapoLoss(),
    PolicyGradientLoss(),
    DppoLoss(log_ratio_coef=0.0),
]


def silenced(batch: Batch, groups: list[int]) -> Batch:
    """The batch with advantages 0 in these groups."""
    is_silent = torch.isin(batch.group_index, torch.tensor(groups))[:, None]
    return replace(batch, advantages=batch.advantages.masked_fill(is_silent, 0.0))


def run_everything(learner: PolicyLearner) -> PolicyLearner:
    """The learner with a backward pass for every row."""
    learner._passes.plan_step = lambda batch: (learner._passes.plan(batch), [])  # type: ignore[method-assign]
    return learner


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss.kind))
def test_gradient_and_metrics_are_those_of_running_every_row(tmp_path: Path, loss: LossConfig):
    batch = silenced(make_batch(), [1, 3])
    learner = double_learner(tmp_path, loss=loss)
    expected, expected_loss = gradient(run_everything(double_learner(tmp_path, loss=loss)), [batch], batch.denominators)
    found, found_loss = gradient(learner, [batch], batch.denominators)
    assert relative(found, expected) < 1e-12
    assert found_loss == pytest.approx(expected_loss, rel=1e-12)
    assert len(learner._measured) == 1

    few = double_learner(tmp_path, loss=loss).step(batch).metrics
    every = run_everything(double_learner(tmp_path, loss=loss)).step(batch).metrics
    tokens = batch.loss_mask.sum(1)
    silent = tokens[torch.isin(batch.group_index, torch.tensor([1, 3]))].sum() / tokens.sum()
    assert few.pop("learner/forward_only_rate") == pytest.approx(float(silent))
    assert every.pop("learner/forward_only_rate") == 0.0
    for name in ("learner/micro_batches", "learner/peak_memory_gb"):
        few.pop(name), every.pop(name)
    assert few == pytest.approx(every, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss.kind))
def test_a_loss_called_scaled_by_the_advantage_is(loss: LossConfig):
    batch = silenced(make_batch(), [0, 1, 2, 3])
    function = build_loss(AlgorithmConfig(loss=loss), max_completion_tokens=8, uses_proximal=False)
    assert function.is_zero_without_advantage
    logprobs = batch.behavior_logprobs.clone().add_(0.3).requires_grad_()
    out = function(logprobs, entropy=torch.zeros_like(logprobs), batch=batch)
    out.loss_sum.backward()
    assert logprobs.grad is not None
    assert float(out.loss_sum.detach()) == 0.0
    assert not logprobs.grad.any()


@pytest.mark.parametrize(
    "settings",
    [{"kl_coef": 0.1}, {"entropy_coef": 0.1}, {"loss": DppoLoss(log_ratio_coef=1e-3)}],
    ids=["kl", "entropy", "dppo"],
)
def test_rows_that_a_further_term_pulls_on_keep_their_backward_pass(tmp_path: Path, settings: dict[str, object]):
    learner = make_learner(tmp_path, **settings)
    assert not learner._loss.is_zero_without_advantage
    batch = learner.annotate(silenced(make_batch(), [0, 1, 2, 3]))
    report = learner.step(batch)
    assert report.metrics["learner/forward_only_rate"] == 0.0
    assert report.metrics["policy/grad_norm"] > 0.0


def test_a_kl_term_in_the_reward_does_not_pull():
    config = AlgorithmConfig(kl_coef=0.1, kl_placement=KlPlacement.REWARD)
    loss = build_loss(config, max_completion_tokens=8, uses_proximal=False)
    assert loss.is_zero_without_advantage


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_step_without_any_gradient_moves_by_momentum_and_decay_alone(tmp_path: Path, weight_decay: float):
    batch, silent = make_batch(), silenced(make_batch(), [0, 1, 2, 3])
    weights = []
    for learner in (
        double_learner(tmp_path, weight_decay=weight_decay),
        run_everything(double_learner(tmp_path, weight_decay=weight_decay)),
    ):
        learner.step(batch)
        before = [p.detach().clone() for p in learner.policy.model.parameters()]
        learner.step(silent)
        after = [p.detach().clone() for p in learner.policy.model.parameters()]
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        weights.append(after)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_only_whole_groups_with_loss_tokens_are_run_forward_only():
    batch = silenced(make_batch(), [1])
    one_row = batch.advantages.clone()
    one_row[0] = 0.0  # its siblings still have a gradient
    no_loss = batch.loss_mask.clone()
    no_loss[8:12] = False  # group 2 left the loss: it is not run at all
    batch = replace(batch, advantages=one_row, loss_mask=no_loss)
    assert has_no_gradient(batch) == [row // 4 == 1 for row in range(16)]


def test_ranks_share_the_work_and_not_the_tokens():
    batch = silenced(make_batch(num_groups=8), [0, 1, 2, 3])
    is_forward_only = has_no_gradient(batch)
    shares = split_over_ranks(batch, 2, is_forward_only=is_forward_only)
    assert sorted(row for rows in shares for row in rows) == list(range(32))
    tokens = batch.attention_mask.sum(1).tolist()
    loads = [sum(tokens[r] * (1 if is_forward_only[r] else 3) for r in rows) for rows in shares]
    assert max(loads) < 1.2 * min(loads)
