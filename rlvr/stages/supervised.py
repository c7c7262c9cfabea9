"""The cold start: supervised steps on demonstrations, so that RL finds something to reward."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rlvr.algorithms.aggregation import TokenMean
from rlvr.algorithms.losses import SupervisedLoss
from rlvr.config.recipe import ColdStartConfig
from rlvr.config.sections.learner import LearnerConfig
from rlvr.data.collate import collate_rows
from rlvr.errors import LearnerError
from rlvr.learner.learner import PolicyLearner
from rlvr.learner.ranks.group import LearnerGroup
from rlvr.models.policy import Policy
from rlvr.models.prompting import encode_prompt
from rlvr.records import Completion, FinishReason, Prompt, Transport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedReport:
    """The result of the stage: the mean negative log-likelihood of its first and last batch, nats per token."""

    steps: int
    first_loss: float
    last_loss: float


def imitate(
    policy: Policy,
    *,
    config: ColdStartConfig,
    learner_config: LearnerConfig,
    demonstrations: Iterator[tuple[Prompt, str]],
    fault_folder: Path,
    progress: Callable[[int, float], None],
    group: LearnerGroup | None = None,
) -> SupervisedReport:
    """Trains `policy` in place on (prompt, answer) pairs; the answer ends with the policy's stop token.

    The learning rate warms up, holds, and falls linearly to a tenth over the last 30 % of the steps.

    Args:
        progress: called with (step, loss) after each step.
        group: the ranks that hold the weights of `policy`, whose task it becomes; None: this process holds them.
    """
    hold = int(config.steps * 0.7)
    settings = learner_config.model_copy(
        update={"lr": config.lr, "lr_warmup_steps": config.lr_warmup_steps, "minibatches_per_step": 1}
    )
    loss = SupervisedLoss(aggregator=TokenMean())
    lr_decay = (hold, config.steps, 0.1)
    if group is not None:
        group.begin(config=settings, loss=loss, temperature=1.0, fault_folder=fault_folder, lr_decay=lr_decay)
    learner = group or PolicyLearner(
        policy,
        config=settings,
        loss=loss,
        temperature=1.0,
        transport=Transport.SHARED,
        reference=None,
        fault_folder=fault_folder,
        lr_decay=lr_decay,
    )
    losses: list[float] = []
    for step in range(1, config.steps + 1):
        rows = [(i, _demonstration(policy, *next(demonstrations)), 1.0) for i in range(config.batch_size)]
        batch = collate_rows(rows, pad_token_id=policy.pad_token_id)
        report = learner.step(batch)
        losses.append(report.metrics["policy/loss"])
        progress(step, losses[-1])
    if not losses:
        raise LearnerError("a cold start needs at least one step; set cold_start.steps or leave the section out")
    return SupervisedReport(steps=config.steps, first_loss=losses[0], last_loss=losses[-1])


def _demonstration(policy: Policy, prompt: Prompt, answer: str) -> Completion:
    token_ids = (*policy.tokenizer.encode(answer, add_special_tokens=False), policy.stop_token_ids[0])
    count = len(token_ids)
    return Completion(
        completion_id=prompt.prompt_id,
        prompt_id=prompt.prompt_id,
        sample_index=0,
        prompt_token_ids=encode_prompt(prompt, policy.tokenizer),
        token_ids=token_ids,
        logprobs=(0.0,) * count,
        sampled_mask=(True,) * count,
        text=answer,
        finish_reason=FinishReason.STOP,
        policy_versions=(0,) * count,
    )
