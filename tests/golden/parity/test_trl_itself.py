"""TRL's installed trainers, their own loss code called piece by piece, against the reference arithmetic and ours.

Nothing is trained or generated: completions are made up, and `_generate_and_score_completions` and `_compute_loss` run
on them as they are.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install 'rlvr[bench]'")
pytest.importorskip("datasets", reason="TRL needs datasets: pip install 'rlvr[bench]'")

import torch
from accelerate import Accelerator
from trl.experimental.async_grpo.async_grpo_trainer import AsyncGRPOTrainer
from trl.rewards import get_soft_overlong_punishment
from trl_trainer import EOS, MadeUpPass, Scores, build_trainer, generated, step_loss

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.lengths import overlong_penalty
from tests.parity import trl as reference
from tests.parity.case import ADVANTAGE, SEED, Claim, LossCase
from tests.parity.cases.trl import CORRECTIONS, LOSSES
from tests.parity.number import gradient, still
from tests.parity.ours import our_advantages, our_loss
from tests.parity.rows import GROUP_SIZE, Row, make_groups, make_rows


@pytest.fixture(autouse=True)
def float64_by_default() -> Iterator[None]:
    """TRL makes tensors of plain floats (log-probs, temperatures): in float64 here, so that nothing is rounded."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


FLOAT32 = 2e-7  # TRL holds rewards in float32
GRPO_CASES = [case for case in [*LOSSES, *CORRECTIONS] if case.algorithm != "async"]


def trainer_settings(settings: reference.Settings) -> dict[str, Any]:
    """The reference's settings as arguments of `build_trainer`."""
    known = vars_of(settings)
    mode = known.pop("vllm_importance_sampling_mode")
    correction = {} if mode is None else {"vllm_importance_sampling_mode": mode}
    return known | correction | {"use_vllm": mode is not None}


def vars_of(settings: reference.Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def made_up_ids(rows: Sequence[Row]) -> list[list[int]]:
    """As many tokens as each row has; the last is the end token unless the row is truncated."""
    return [[5] * (row.num_tokens - 1) + [5 if row.is_truncated else EOS] for row in rows]


@pytest.mark.parametrize("case", GRPO_CASES, ids=lambda case: f"{case.algorithm}: {case.settings}")
def test_the_trainers_own_loss_code_gives_the_reference_numbers(case: LossCase, tmp_path: Path) -> None:
    settings: reference.Settings = case.reference.keywords["settings"]  # type: ignore[attr-defined] # a partial
    rows = case.rows(make_rows(SEED, case.spread))
    trainer = build_trainer(tmp_path, num_rows=len(rows), group_size=GROUP_SIZE, **trainer_settings(settings))
    network = MadeUpPass(rows)
    network.attach(trainer)
    scored = generated(
        trainer,
        prompt_ids=[[index + 2] for index in range(len(rows))],
        completion_ids=made_up_ids(rows),
        sampler_logprobs=[list(row.behavior_T) for row in rows],
    )
    scored["advantages"] = torch.tensor([row.advantage for row in rows], dtype=torch.float64)
    network.step()
    loss = step_loss(trainer, scored)
    loss.backward()
    expected = reference.loss(rows, settings)
    leaves = [x for row in rows for x in (*row.logprobs_T, *row.entropy_T)]
    assert float(loss.detach()) == pytest.approx(still(expected), abs=1e-12)
    assert network.slopes() == pytest.approx(gradient(expected, leaves), abs=1e-12)
    if case.claim is Claim.EQUAL and case.our_rows(rows) is rows:
        ours = our_loss(case.config, rows)
        assert float(loss.detach()) == pytest.approx(ours.value, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "ours"),
    [({"scale_rewards": "group"}, {"kind": "grpo"}), ({"scale_rewards": "none"}, {"kind": "dr_grpo"})],
)
def test_trl_gives_the_same_advantages_with_unscored_rollouts(
    settings: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    groups = make_groups(SEED, has_unjudged=True)
    theirs = trl_advantages(groups, tmp_path, [[r for g in groups for r in g.rewards_G]], **settings)
    assert [a or 0.0 for a in flat_advantages(ours, groups)] == pytest.approx(theirs, abs=FLOAT32)


def test_trl_gives_the_same_gdpo_advantages(tmp_path: Path) -> None:
    groups = make_groups(SEED, has_unjudged=False)
    weights = groups[0].weights
    columns = [[part[name] / weight for group in groups for part in group.parts_G] for name, weight in weights.items()]
    theirs = trl_advantages(
        groups,
        tmp_path,
        columns,
        reward_weights=list(weights.values()),
        multi_objective_aggregation="normalize_then_sum",
    )
    assert flat_advantages({"kind": "gdpo"}, groups) == pytest.approx(theirs, abs=FLOAT32)


def test_trls_batch_deviation_is_that_of_the_reference_and_not_ours(tmp_path: Path) -> None:
    groups = make_groups(SEED, has_unjudged=False)
    columns = [[r for g in groups for r in g.rewards_G]]
    theirs = trl_advantages(groups, tmp_path, columns, scale_rewards="batch")
    expected = [a for row in reference.advantages(groups, scale_rewards="batch") for a in row]
    assert expected == pytest.approx(theirs, abs=FLOAT32)
    ours = flat_advantages({"kind": "batch_norm", "eps": 1e-8}, groups)
    assert max(abs((a or 0.0) - b) for a, b in zip(ours, theirs, strict=True)) > 0.1


def trl_advantages(
    groups: Sequence[GroupRewards], folder: Path, columns: Sequence[Scores], **settings: Any
) -> list[float]:
    size, count = len(groups[0].rewards_G), len(groups) * len(groups[0].rewards_G)
    trainer = build_trainer(folder, num_rows=count, group_size=size, reward_columns=columns, **settings)
    scored = generated(trainer, prompt_ids=[[2]] * count, completion_ids=[[EOS]] * count, sampler_logprobs=None)
    return scored["advantages"].tolist()


def flat_advantages(config: dict[str, Any], groups: Sequence[GroupRewards]) -> list[float | None]:
    return [a for row in our_advantages(ADVANTAGE.validate_python(config), groups) for a in row]


def test_trls_soft_overlong_punishment_is_minus_our_penalty() -> None:
    punish = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    for count in range(101):
        penalty = overlong_penalty(count, max_completion_tokens=100, buffer_tokens=20, penalty=1.0)
        assert punish(completion_ids=[[0] * count]) == [pytest.approx(-penalty, abs=1e-12)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_async_trainers_own_loss_code_gives_the_reference_numbers(accumulation: int) -> None:
    settings = reference.Settings(gradient_accumulation_steps=accumulation)
    rows = make_rows(SEED)
    size = len(rows) // accumulation
    results = [async_micro_batch(rows[start : start + size], settings) for start in range(0, len(rows), size)]
    expected = reference.async_loss(rows, settings)
    leaves = [x for row in rows for x in row.logprobs_T]
    assert sum(value for value, _ in results) == pytest.approx(still(expected), abs=1e-12)
    slopes = [slope for _, part in results for slope in part]
    assert slopes == pytest.approx(gradient(expected, leaves), abs=1e-12)


def async_micro_batch(rows: Sequence[Row], settings: reference.Settings) -> tuple[float, list[float]]:
    """`AsyncGRPOTrainer.compute_loss` of one packed micro-batch, on an object with what it reads."""
    trainer = SimpleNamespace(
        epsilon_low=settings.epsilon,
        epsilon_high=settings.epsilon_high,
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=settings.gradient_accumulation_steps,
        accelerator=Accelerator(cpu=True),
        _metrics={"train": defaultdict(list)},
        _step_forward_tokens=0.0,
        _step_trained_tokens=0.0,
        _step_seq_len_weighted=0.0,
        _step_samples=0.0,
        _step_forward_s=0.0,
    )
    logprobs = torch.tensor([[x.value for row in rows for x in row.logprobs_T]])
    logprobs.requires_grad_()
    count = logprobs.shape[1]
    segments = [index for index, row in enumerate(rows) for _ in range(row.num_tokens)]
    nothing = torch.full((1, 1), -1)
    inputs = {
        "attention_mask": torch.ones(1, count),
        "token_index": torch.arange(count)[None],
        "input_ids": torch.zeros(1, count),
        "position_ids": torch.zeros(1, count),
        "shift_labels": torch.zeros(1, count),
        "old_log_probs": torch.tensor([[x for row in rows for x in row.behavior_T]]),
        "advantages": torch.tensor([[row.advantage for row in rows for _ in row.behavior_T]]),
        "segment_id": torch.tensor([segments]),
        "tree_kv_index": nothing,
        "tree_cu_seqlens_q": nothing,
        "tree_cu_seqlens_k": nothing,
        "tree_max_seqlens": torch.ones(1, 2),
        "global_n_tokens": torch.tensor([float(count)]),
        "global_n_forward_tokens": torch.tensor([float(count)]),
        "mean_seq_len": torch.tensor([1.0]),
    }

    def network(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=logprobs, entropy=torch.zeros_like(logprobs))

    torch.set_default_dtype(torch.float32)  # its metrics add float32 to tensors of the default dtype
    loss = AsyncGRPOTrainer.compute_loss(trainer, network, inputs)
    torch.set_default_dtype(torch.float64)
    loss.backward()
    assert logprobs.grad is not None
    return float(loss.detach()), logprobs.grad[0].tolist()
