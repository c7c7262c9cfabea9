"""The optimiser step: its gradient does not depend on the layout; rates, norms, non-finite gradients, metrics."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rlvr.algorithms.build import build_loss
from rlvr.batch import StepReport
from rlvr.config.recipe import TinyModel
from rlvr.config.sections.algorithm import Aggregation, AlgorithmConfig
from rlvr.errors import LearnerError
from rlvr.learner import passes
from rlvr.learner.batching import split_minibatches
from rlvr.learner.flops import ModelCost, model_cost, peak_flops
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.metrics import MetricSums, Outcome, merged_outcome, merged_reports, outcome_from_json
from rlvr.models.checksum import tensor_checksum
from rlvr.models.policy import build_tiny
from rlvr.records import Transport
from tests.unit.learner.learner_cases import (
    FLOAT32,
    TINY,
    double_learner,
    gradient,
    make_batch,
    make_learner,
    pad,
    relative,
)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GB300", 2500),
        ("AMD Instinct MI300X", 1307),
        ("NVIDIA GeForce RTX 4090", 0),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_data_sheet(
    name: str, teraflops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda")) == teraflops * 1e12
    assert peak_flops(torch.device("cpu")) == 0.0


class HeadCalledError(Exception):
    """The head was asked for log-probs."""


@pytest.mark.parametrize(("device", "given", "mebibytes"), [("cpu", 0, 512), ("cuda", 0, 2048), ("cuda", 64, 64)])
def test_the_head_works_in_larger_chunks_on_a_gpu_unless_the_recipe_names_a_size(
    device: str, given: int, mebibytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token_logprobs(*_: object, **named: object) -> None:
        raise HeadCalledError(named["logits_memory_mb"])

    monkeypatch.setattr(passes, "token_logprobs", token_logprobs)
    monkeypatch.setattr(passes.Passes, "device", torch.device(device))
    learner = make_learner(tmp_path, config=FLOAT32.model_copy(update={"logits_memory_mb": given}))
    with pytest.raises(HeadCalledError, match=f"^{mebibytes}$"):
        learner.accumulate(make_batch())


@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize("share", [True, False])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_gradient_and_loss_do_not_depend_on_the_layout(
    tmp_path_factory: pytest.TempPathFactory, aggregation: Aggregation, share: bool, data: st.DataObject
):
    """Micro-batch size, padding, row order and the number of accumulate calls: 1e-6 relative in float64."""
    batch = make_batch(seed=data.draw(st.integers(0, 3)))
    base = double_learner(tmp_path_factory.mktemp("a"), aggregation=aggregation, kl_coef=0.1, share_prompt_prefix=False)
    expected, expected_loss = gradient(base, [batch], batch.denominators)

    order = torch.tensor(data.draw(st.permutations(range(16))))
    shuffled = pad(batch.rows(order), data.draw(st.integers(0, 5)))
    cuts = sorted(data.draw(st.lists(st.integers(1, 15), max_size=3, unique=True)))
    parts = [shuffled.rows(rows) for rows in torch.tensor_split(torch.arange(16), cuts)]
    other = double_learner(
        tmp_path_factory.mktemp("b"),
        aggregation=aggregation,
        kl_coef=0.1,
        share_prompt_prefix=share,
        micro_batch_tokens=data.draw(st.sampled_from([1, 20, 60, 10_000])),
    )
    found, found_loss = gradient(other, parts, batch.denominators)
    assert relative(found, expected) < 1e-6
    assert found_loss == pytest.approx(expected_loss, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_minibatches_of_a_step_add_up_to_the_whole_gradient(tmp_path: Path, count: int):
    """Each minibatch's gradient times its own denominator, summed, is the step's gradient times its denominator."""
    batch = make_batch()
    whole, whole_loss = gradient(double_learner(tmp_path), [batch], batch.denominators)
    total, total_loss, num_tokens = torch.zeros_like(whole), 0.0, 0
    for part in split_minibatches(batch, count=count):
        one, loss = gradient(double_learner(tmp_path), [part], part.denominators)
        total += one * part.num_loss_tokens
        total_loss += loss * part.num_loss_tokens
        num_tokens += part.num_loss_tokens
    assert num_tokens == batch.num_loss_tokens
    assert relative(total / num_tokens, whole) < 1e-6
    assert total_loss / num_tokens == pytest.approx(whole_loss, rel=1e-6)


def test_several_minibatches_take_several_optimiser_steps_and_clip_later_ones(tmp_path: Path):
    config = FLOAT32.model_copy(update={"minibatches_per_step": 4, "lr": 0.05})
    learner = make_learner(tmp_path, config=config)
    report = learner.step(learner.annotate(make_batch()))
    assert learner.num_steps == 4
    assert report.metrics["policy/clip_rate"] > 0


def test_mismatch_is_measured_before_the_weights_move(tmp_path: Path):
    batch = make_batch()
    one = make_learner(tmp_path).step(batch).metrics
    first = split_minibatches(batch, count=4)[0]
    config = FLOAT32.model_copy(update={"minibatches_per_step": 4, "lr": 0.5})
    several = make_learner(tmp_path, config=config).step(batch).metrics
    assert one["mismatch/max_abs_logprob_diff"] > 0
    assert several["mismatch/max_abs_logprob_diff"] == pytest.approx(
        make_learner(tmp_path).step(first).metrics["mismatch/max_abs_logprob_diff"], rel=1e-5
    )


def test_learning_rate_warms_up_and_a_zero_gradient_changes_nothing(tmp_path: Path):
    config = FLOAT32.model_copy(update={"lr_warmup_steps": 4})
    learner = make_learner(tmp_path, config=config)
    before = [p.detach().clone() for p in learner.policy.model.parameters()]
    batch = make_batch()
    silent = replace(batch, advantages=torch.zeros_like(batch.advantages))
    assert learner.step(silent).metrics["learner/lr"] == pytest.approx(0.25e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.policy.model.parameters(), strict=True))
    assert learner.step(batch).metrics["learner/lr"] == pytest.approx(0.5e-2)
    assert not torch.equal(before[0], next(learner.policy.model.parameters()))


def test_gradient_is_clipped_to_the_norm(tmp_path: Path):
    config = FLOAT32.model_copy(update={"max_grad_norm": 1e-3})
    learner = make_learner(tmp_path, config=config)
    learner.optimizer = torch.optim.SGD(learner.policy.model.parameters(), lr=1e-2)
    before = torch.cat([p.detach().flatten() for p in learner.policy.model.parameters()])
    report = learner.step(make_batch())
    after = torch.cat([p.detach().flatten() for p in learner.policy.model.parameters()])
    assert report.metrics["policy/grad_norm"] > 1e-3
    assert float((after - before).norm()) == pytest.approx(1e-2 * 1e-3, rel=0.02)


def test_nonfinite_gradient_is_skipped_saved_and_bounded(tmp_path: Path):
    config = FLOAT32.model_copy(update={"max_nonfinite_steps": 1, "micro_batch_tokens": 30})
    learner = make_learner(tmp_path, config=config)
    before = [p.detach().clone() for p in learner.policy.model.parameters()]
    batch = make_batch()
    poisoned = batch.advantages.clone()
    row = 9
    poisoned[row, batch.loss_mask[row]] = float("nan")
    report = learner.step(replace(batch, advantages=poisoned))
    assert report.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, learner.policy.model.parameters(), strict=True))
    kept = load_file(tmp_path / "faults" / "nonfinite_001.safetensors")
    assert bool(kept["advantages"].isnan().any())
    assert len(kept["advantages"]) < 16  # the micro-batch at fault, not the whole step
    with pytest.raises(LearnerError, match=r"max_nonfinite_steps is 1.*lower learner\.lr"):
        learner.step(replace(batch, advantages=poisoned))


def test_gradient_checkpointing_gives_the_same_gradient(tmp_path: Path):
    batch = make_batch()
    plain, _ = gradient(double_learner(tmp_path), [batch], batch.denominators)
    again, _ = gradient(double_learner(tmp_path, gradient_checkpointing=True), [batch], batch.denominators)
    assert relative(again, plain) < 1e-6


def test_version_rises_only_when_the_weights_changed(tmp_path: Path):
    learner = make_learner(tmp_path)
    assert learner.publish().policy_version == 0
    assert learner.publish().policy_version == 0
    learner.step(make_batch())
    assert learner.publish().policy_version == 1


def test_streaming_and_one_call_give_the_same_step_and_metrics(tmp_path: Path):
    batch = make_batch()
    whole, streamed = double_learner(tmp_path), double_learner(tmp_path)
    expected = whole.step(batch).metrics
    for index in range(4):
        streamed.accumulate(batch.rows((batch.group_index == index).nonzero()[:, 0]))
    found = streamed.apply(batch.denominators).metrics
    for name in set(expected) - {"learner/micro_batches", "learner/peak_memory_gb"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name
    assert found["learner/micro_batches"] == 4


def test_a_fault_in_a_streamed_step_is_found_among_all_its_micro_batches(tmp_path: Path):
    learner = make_learner(tmp_path)
    batch = make_batch()
    poisoned = batch.advantages.clone()
    poisoned[5, batch.loss_mask[5]] = float("inf")
    for index in range(4):
        rows = (batch.group_index == index).nonzero()[:, 0]
        learner.accumulate(replace(batch, advantages=poisoned).rows(rows))
    assert learner.apply(batch.denominators).skipped
    kept = load_file(tmp_path / "faults" / "nonfinite_001.safetensors")
    assert kept["group_index"].tolist() == [1, 1, 1, 1]


def test_proximal_log_probs_are_annotated_only_where_later_minibatches_read_them(tmp_path: Path):
    def proximal(minibatches: int, *, uses_proximal: bool, **correction: object) -> object:
        algorithm = AlgorithmConfig(correction=correction)  # type: ignore[arg-type] # a test builder
        learner = PolicyLearner(
            build_tiny(TINY, seed=3),
            config=FLOAT32.model_copy(update={"minibatches_per_step": minibatches}),
            loss=build_loss(algorithm, max_completion_tokens=8, uses_proximal=uses_proximal),
            temperature=0.9,
            transport=Transport.SHARED,
            reference=None,
            fault_folder=tmp_path,
        )
        return learner.annotate(make_batch()).proximal_logprobs

    assert proximal(1, uses_proximal=True) is None
    assert proximal(2, uses_proximal=False) is None
    assert proximal(2, uses_proximal=True) is not None
    assert proximal(2, uses_proximal=False, geometric_max=2.0) is not None


def test_published_checksums_are_those_of_the_engines_copy(tmp_path: Path):
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
        policy = build_tiny(TINY, seed=3)
        learner = PolicyLearner(
            policy,
            config=FLOAT32,
            loss=build_loss(AlgorithmConfig(), max_completion_tokens=8, uses_proximal=True),
            temperature=0.9,
            transport=Transport.IN_PLACE_COPY,
            reference=None,
            fault_folder=tmp_path,
            published_dtype=dtype,
        )
        ref = learner.publish()
        copied = {n: p.detach().to(dtype) for n, p in policy.model.named_parameters()}
        assert ref.dtype == name
        assert {e.name: e.checksum for e in ref.manifest} == {n: tensor_checksum(t) for n, t in copied.items()}


def test_a_pass_of_a_model_costs_six_flops_a_trained_and_four_a_frozen_parameter(tmp_path: Path):
    """By hand for one layer of width 16 with 2 heads of 8; the tied embedding counts once, as the head."""
    tiny = TinyModel(layers=1, hidden_size=16, heads=2, intermediate_size=32, characters="0123456789:")
    model = build_tiny(tiny, seed=0).model
    weights = 16 * 16 + 4 * 16 * 16 + 3 * 16 * 32 + 3 * 16
    assert model_cost(model) == ModelCost(per_token=6 * weights, per_token_forward=2 * weights, attention=16)
    model.model.layers[0].mlp.down_proj.weight.requires_grad_(False)
    assert model_cost(model).per_token == 6 * weights - 2 * 16 * 32
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    assert model_cost(model).per_token == 6 * weights - 2 * 16 * 32  # the table is only looked up


def test_metrics_of_ranks_add_up_and_of_minibatches_are_means():
    ranks = [
        Outcome(
            grad_norm=2.0,
            lr=0.1,
            num_steps=3,
            num_nonfinite=0,
            fault=fault,
            peak_flops=100.0,
            sums=MetricSums(
                pairs={"policy/entropy": (total, count), "mismatch/max_x": (total, 0.0)},
                loss_sum=total,
                flops=50.0,
                seconds=seconds,
                micro_batches=passes,
                peak_memory_gb=seconds,
            ),
        )
        for total, count, seconds, passes, fault in ((3.0, 2.0, 0.5, 1, ""), (5.0, 6.0, 1.0, 2, "x"))
    ]
    outcome = merged_outcome([outcome_from_json(json.loads(json.dumps(r.to_json()))) for r in ranks])
    metrics = outcome.report(divisor=4, num_processes=2).metrics
    assert outcome.fault == "x"
    assert metrics["policy/entropy"] == 1.0
    assert metrics["mismatch/max_x"] == 5.0
    assert metrics["policy/loss"] == 2.0
    assert metrics["learner/mfu"] == pytest.approx(100 / (2 * 100 * 1.0))
    assert metrics["learner/micro_batches"] == 2
    assert metrics["learner/peak_memory_gb"] == 1.0
    other = StepReport(metrics={**metrics, "policy/entropy": 3.0, "policy/grad_norm": 1.0})
    merged = merged_reports([StepReport(metrics=metrics), other]).metrics
    assert merged["policy/entropy"] == 2.0
    assert merged["policy/grad_norm"] == 2.0
    assert merged["learner/micro_batches"] == 4
