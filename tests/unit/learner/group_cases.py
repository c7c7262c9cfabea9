"""Policies, batches and groups for the tests of a learner over several ranks."""

from pathlib import Path

import torch

from rlvr.algorithms.build import build_loss
from rlvr.algorithms.losses import PolicyLoss
from rlvr.batch import Batch
from rlvr.config.sections.algorithm import AlgorithmConfig
from rlvr.config.sections.learner import LearnerConfig, LearnerDtype
from rlvr.config.sections.model import TinyModel
from rlvr.data.collate import group_token_counts
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.models.policy import Policy, build_tiny
from rlvr.records import Transport

# Widths that 2 and 4 ranks do not divide, so that shards are uneven.
TINY = TinyModel(layers=2, hidden_size=36, heads=2, intermediate_size=50, characters="0123456789:")


CONFIG = LearnerConfig(
    dtype=LearnerDtype.FLOAT32, lr=1e-3, adam_betas=(0.9, 0.95), micro_batch_tokens=40, num_threads=1
)


TIMING = {"learner/peak_memory_gb", "learner/micro_batches"}


def make_policy(seed: int = 3) -> Policy:
    """In float64 throughout: transformers' own norms compute in float32, whose rounding depends on the micro-batch."""
    policy = build_tiny(TINY, seed=seed)
    for name, module in list(policy.model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = torch.nn.RMSNorm(TINY.hidden_size, eps=module.variance_epsilon)
            policy.model.set_submodule(name, norm)
    policy.model.double()
    return policy


def make_loss(*, uses_proximal: bool = False, **algorithm: object) -> PolicyLoss:
    config = AlgorithmConfig(**algorithm)  # type: ignore[arg-type] # a test builder
    return build_loss(config, max_completion_tokens=8, uses_proximal=uses_proximal)


def make_batch(*, seed: int = 0, num_groups: int = 4, group_size: int = 4) -> Batch:
    """Groups of completions of 1 to 7 tokens after prompts of 2 to 5, with plausible log-probs."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = num_groups * group_size
    group_index = torch.arange(num_rows) // group_size
    prompts = torch.randint(2, 6, (num_groups,), generator=generator)[group_index]
    lengths = torch.randint(1, 8, (num_rows,), generator=generator)
    width = int((prompts + lengths).max())
    ids = torch.randint(4, 15, (num_rows, width), generator=generator)
    column = torch.arange(width)[None]
    first_row = group_index * group_size
    ids = torch.where(column < prompts[:, None], ids[first_row], ids)
    attention = column < (prompts + lengths)[:, None]
    loss_mask = attention & (column >= prompts[:, None])
    advantages = torch.randn(num_rows, 1, generator=generator).expand(-1, width) * loss_mask
    behavior = (-2.3 + 0.3 * torch.randn(num_rows, width, generator=generator)) * loss_mask
    return Batch(
        token_ids=ids,
        attention_mask=attention,
        loss_mask=loss_mask,
        behavior_logprobs=behavior.double(),
        advantages=advantages.double(),
        group_index=group_index,
        group_num_tokens=group_token_counts(loss_mask, group_index),
        num_loss_tokens=int(loss_mask.sum()),
        num_sequences=num_rows,
        num_prompts=num_groups,
    )


def start_group(num_ranks: int, folder: Path, **changes: object) -> LearnerGroup:
    arguments: dict[str, object] = {
        "config": CONFIG,
        "loss": make_loss(),
        "temperature": 0.9,
        "transport": Transport.SHARED,
        "reference": make_policy(9).model,
        "fault_folder": folder,
        "silence_s": 60.0,
        "policy": make_policy(),
    }
    arguments |= changes
    return LearnerGroup(num_ranks=num_ranks, **arguments)  # type: ignore[arg-type] # a test builder


def largest_difference(a: Policy, b: Policy) -> float:
    """Of any tensor, relative to its norm."""
    pairs = zip(a.model.parameters(), b.model.parameters(), strict=True)
    return max(float((p - q).detach().norm() / q.detach().norm()) for p, q in pairs)
