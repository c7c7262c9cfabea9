"""Batches and learners for the tests of the optimiser step."""

import copy
from dataclasses import replace
from pathlib import Path

import torch

from rlvr.algorithms.build import build_loss
from rlvr.batch import Batch, Denominators
from rlvr.config.recipe import TinyModel
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.data.collate import group_token_counts
from rlvr.learner.learner import PolicyLearner
from rlvr.models.policy import Policy, build_tiny
from rlvr.records import Transport

TINY = TinyModel(layers=2, hidden_size=32, heads=4, intermediate_size=64, characters="0123456789:")


FLOAT32 = LearnerConfig(dtype=LearnerDtype.FLOAT32, lr=1e-2, adam_betas=(0.9, 0.95), max_grad_norm=1e9)


def make_batch(*, seed: int = 0, num_groups: int = 4, group_size: int = 4) -> Batch:
    """Groups of completions of 1 to 7 tokens after prompts of 2 to 5, with plausible log-probs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    num_rows = num_groups * group_size
    prompts = [draw(2, 6) for _ in range(num_groups)]
    lengths = [draw(1, 8) for _ in range(num_rows)]
    width = max(prompts[i // group_size] + n for i, n in enumerate(lengths))
    ids = torch.randint(4, 15, (num_rows, width), generator=generator)
    column = torch.arange(width)[None]
    start = torch.tensor([prompts[i // group_size] for i in range(num_rows)])[:, None]
    for i in range(num_rows):
        ids[i, : start[i, 0]] = ids[i - i % group_size, : start[i, 0]]
    attention = column < start + torch.tensor(lengths)[:, None]
    loss_mask = attention & (column >= start)
    advantages = torch.randn(num_rows, 1, generator=generator).expand(-1, width) * loss_mask
    behavior = (-2.3 + 0.3 * torch.randn(num_rows, width, generator=generator)) * loss_mask
    return Batch(
        token_ids=ids,
        attention_mask=attention,
        loss_mask=loss_mask,
        behavior_logprobs=behavior.double(),
        advantages=advantages.double(),
        group_index=torch.arange(num_rows) // group_size,
        group_num_tokens=group_token_counts(loss_mask, torch.arange(num_rows) // group_size),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=num_rows,
        num_prompts=num_groups,
    )


def make_learner(
    tmp_path: Path, *, policy: Policy | None = None, config: LearnerConfig = FLOAT32, **algorithm: object
) -> PolicyLearner:
    policy = policy or build_tiny(TINY, seed=3)
    reference = copy.deepcopy(build_tiny(TINY, seed=9).model).to(next(policy.model.parameters()).dtype)
    settings_ = AlgorithmConfig(**algorithm)  # type: ignore[arg-type] # a test builder
    return PolicyLearner(
        policy,
        config=config,
        loss=build_loss(settings_, max_completion_tokens=8, uses_proximal=False),
        temperature=0.9,
        transport=Transport.SHARED,
        reference=reference if settings_.kl_coef else None,
        fault_folder=tmp_path / "faults",
    )


def double_learner(tmp_path: Path, **changes: object) -> PolicyLearner:
    policy = build_tiny(TINY, seed=3)
    policy.model.double()
    config = FLOAT32.model_copy(update={k: v for k, v in changes.items() if k in LearnerConfig.model_fields})
    algorithm = {k: v for k, v in changes.items() if k not in LearnerConfig.model_fields}
    return make_learner(tmp_path, policy=policy, config=config, **algorithm)


def gradient(learner: PolicyLearner, parts: list[Batch], counts: Denominators) -> tuple[torch.Tensor, float]:
    """The gradient that `apply` would use, and the loss."""
    for part in parts:
        learner.accumulate(learner.annotate(part))
    flat = torch.cat([p.grad.flatten() for p in learner.policy.model.parameters() if p.grad is not None])
    divisor = learner._loss.aggregator.denominator(counts)
    loss = float(learner._sums.loss_sum) / divisor
    learner.optimizer.zero_grad(set_to_none=True)
    return flat / divisor, loss


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def pad(batch: Batch, columns: int) -> Batch:
    wide = {}
    for name in ("token_ids", "attention_mask", "loss_mask", "behavior_logprobs", "advantages"):
        tensor = getattr(batch, name)
        wide[name] = torch.cat([tensor, torch.zeros(len(tensor), columns, dtype=tensor.dtype)], 1)
    return replace(batch, **wide)
