"""From a prompt to a judged group; single-turn. The chat template is applied here, once.

make_group: encode -> G requests -> engine -> each completion verified as it finishes -> reward -> Group
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from rlvr.config.recipe import RewardConfig
from rlvr.data.seeding import stable_hash
from rlvr.models.prompting import encode_prompt
from rlvr.protocols import GenerationRequest, RolloutEngine, Sampling
from rlvr.records import Completion, FinishReason, Group, Prompt, Rollout, Verdict
from rlvr.reward import make_rollout
from rlvr.run.step.failures import first_failure


class CompletionVerifier(Protocol):
    """Gives verdicts: `rlvr.verification.service.VerifierService`, or handles of remote verifiers."""

    async def verify(self, prompt: Prompt, completion: Completion) -> dict[str, Verdict]:
        """One verdict for each check of the prompt, by check name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How one group is sampled. `purpose` gives training and evaluation different seeds."""

    sampling: Sampling
    group_size: int
    purpose: str = "train"


class SingleTurnSampler:
    """Samples, verifies and rewards the groups of a run."""

    def __init__(
        self,
        *,
        engine: RolloutEngine,
        verifier: CompletionVerifier,
        tokenizer: PreTrainedTokenizerBase,
        reward: RewardConfig,
        run_seed: int,
        completion_deadline_s: float = 3600.0,
    ) -> None:
        """Args: completion_deadline_s: seconds after which the engine aborts a completion, which is then not judged."""
        self._engine = engine
        self._verifier = verifier
        self._tokenizer = tokenizer
        self._reward = reward
        self._run_seed = run_seed
        self._deadline_s = completion_deadline_s

    async def make_group(
        self,
        group_id: str,
        prompt: Prompt,
        *,
        plan: SamplingPlan,
        policy_version: int,
        issue_index: int = -1,
        repeat: int = 0,
    ) -> Group:
        """A group of `plan.group_size` judged rollouts, ordered by sample index.

        Waits for the engine and the verifiers; an unjudged rollout has reward None.

        Args:
            issue_index: of the prompt in the training stream; -1 in an evaluation.
            repeat: how often the prompt was sampled before. A small data set may repeat before the weights change, and
                the same seeds would only repeat its completions.

        Raises: RolloutError, VerifierError.
        """
        prefix = encode_prompt(prompt, self._tokenizer)
        parts = (self._run_seed, plan.purpose, prompt.prompt_id)
        again = (repeat,) if repeat else ()
        requests = [
            GenerationRequest(
                request_id=f"{group_id}#{i}",
                prompt_id=prompt.prompt_id,
                prefix_token_ids=prefix,
                sample_index=i,
                seed=stable_hash(*parts, i, policy_version, *again),
                sampling=plan.sampling,
                deadline_s=self._deadline_s,
            )
            for i in range(plan.group_size)
        ]
        try:
            async with asyncio.TaskGroup() as judging:
                tasks = [
                    judging.create_task(self._judged(prompt, completion))
                    async for completion in self._engine.generate(requests)
                ]
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        rollouts = sorted((task.result() for task in tasks), key=lambda r: r.completion.sample_index)
        return Group(group_id=group_id, prompt=prompt, rollouts=tuple(rollouts), issue_index=issue_index)

    async def _judged(self, prompt: Prompt, completion: Completion) -> Rollout:
        if completion.finish_reason is FinishReason.ABORT:  # the engine's fault, so not a zero
            return Rollout(completion=completion, verdicts={}, reward=None)
        verdicts = await self._verifier.verify(prompt, completion)
        return make_rollout(
            completion,
            verdicts,
            weights={check.name: check.weight for check in prompt.checks},
            roles={check.name: check.role for check in prompt.checks},
            unparsed_score=self._reward.unparsed_score,
            truncated=self._reward.truncated,
        )
