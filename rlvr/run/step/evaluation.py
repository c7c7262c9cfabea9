"""Evaluation on fixed held-out prompts: pass@1 greedy in training; pass@k, avg@k and maj@k for `rlvr eval`."""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.protocols import Sampling
from rlvr.records import FinishReason, Group, Prompt, Rollout
from rlvr.run.activity import Activity
from rlvr.run.step.failures import first_failure
from rlvr.run.step.metrics import check_metrics, has_no_readable_answer
from rlvr.run.step.sampler import SamplingPlan, SingleTurnSampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation: its metrics by full name (`eval/<name>/...`), the headline figure, and the groups behind it."""

    name: str
    num_prompts: int
    headline: float
    low: float
    high: float
    metrics: Mapping[str, float]
    groups: Sequence[Group]


async def evaluate(
    name: str,
    prompts: Sequence[Prompt],
    *,
    sampler: SingleTurnSampler,
    max_completion_tokens: int,
    stop_strings: Sequence[str],
    stop_token_ids: Sequence[int] = (),
    policy_version: int,
    samples_per_prompt: int = 1,
    temperature: float = 0.0,
    activity: Activity | None = None,
) -> Evaluation:
    """Generates and verifies completions; one greedy one per prompt gives `pass@1`, k sampled ones `avg@k` and so on.

    Unjudged rollouts (verifier errors) are left out of numerator and denominator and counted in `error_rate`.

    Args: activity: the status line, which counts finished prompts.
    """
    if activity is not None:
        activity.begin(f"evaluating {name}: prompts", total=len(prompts))
    sampling = Sampling(
        temperature=temperature,
        max_tokens=max_completion_tokens,
        stop_strings=tuple(stop_strings),
        stop_token_ids=tuple(stop_token_ids),
    )
    plan = SamplingPlan(sampling=sampling, group_size=samples_per_prompt, purpose=f"eval:{name}")
    try:
        async with asyncio.TaskGroup() as tasks:
            pending = [
                tasks.create_task(
                    sampler.make_group(f"eval/{name}/{i:06d}", prompt, plan=plan, policy_version=policy_version)
                )
                for i, prompt in enumerate(prompts)
            ]
            if activity is not None:
                for task in pending:
                    task.add_done_callback(lambda _: activity.advance())
    except BaseExceptionGroup as failures:
        raise first_failure(failures) from failures
    groups = [task.result() for task in pending]
    return summarize(name, groups, is_greedy=temperature == 0.0)


def summarize(name: str, groups: Sequence[Group], *, is_greedy: bool) -> Evaluation:
    """The metrics of judged groups, with 95 % Wilson intervals over prompts; for several checks also those of each."""
    size = max(len(group.rollouts) for group in groups)
    judged = [[r for r in group.rollouts if r.reward is not None] for group in groups]
    scored = [rollouts for rollouts in judged if rollouts]
    per_prompt = [sum(is_passed(r) for r in rollouts) / len(rollouts) for rollouts in scored]
    # When nothing could be judged there is no figure: an error is not a zero.
    mean = sum(per_prompt) / len(per_prompt) if per_prompt else math.nan
    low, high = wilson_interval(mean, len(per_prompt))
    everything = [r for rollouts in scored for r in rollouts]
    formatted = [r for r in everything if is_formatted(r)]
    total = sum(len(group.rollouts) for group in groups)
    headline = "pass@1" if is_greedy and size == 1 else f"avg@{size}"
    metrics = {
        headline: mean,
        f"{headline}_ci_low": low,
        f"{headline}_ci_high": high,
        "format_rate": len(formatted) / max(1, len(everything)),
        "score_given_format": sum(map(is_passed, formatted)) / max(1, len(formatted)),
        "length_mean_tokens": sum(len(r.completion.token_ids) for r in everything) / max(1, len(everything)),
        "truncated_rate": sum(map(_is_truncated, everything)) / max(1, len(everything)),
        "error_rate": 1 - len(everything) / max(1, total),
        "num_prompts": float(len(scored)),
    }
    if size > 1:
        for k in sorted({1 << i for i in range(size.bit_length()) if 1 << i <= size} | {size}):
            values = [pass_at_k(len(rs), sum(map(is_passed, rs)), k) for rs in scored if len(rs) >= k]
            if k > 1 and values:
                metrics[f"pass@{k}"] = sum(values) / len(values)
        metrics[f"maj@{size}"] = sum(map(_majority_passes, scored)) / max(1, len(scored))
    if len({check.name for group in groups for check in group.prompt.checks}) > 1:
        metrics |= check_metrics(groups)
    return Evaluation(
        name=name,
        num_prompts=len(scored),
        headline=mean,
        low=low,
        high=high,
        metrics={f"eval/{name}/{key}": value for key, value in metrics.items()},
        groups=groups,
    )


def wilson_interval(rate: float, count: int, *, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a rate over `count` independent trials (Wilson 1927); (0, 1) when count is 0.

    >>> [round(x, 3) for x in wilson_interval(0.5, 100)]
    [0.404, 0.596]
    """
    if count == 0:
        return 0.0, 1.0
    center = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """The unbiased estimate that one of k samples passes: 1 - C(n - c, k) / C(n, k) (arXiv:2107.03374, eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def is_passed(rollout: Rollout) -> bool:
    """Whether every check that pays or gates says PASS, and the completion stopped on its own or earned reward."""
    verdicts = [rollout.verdicts[name] for name in rollout.verdicts if name in rollout.reward_parts]
    return bool(verdicts) and all(v.passed for v in verdicts) and (rollout.reward or 0.0) > 0.0


def is_formatted(rollout: Rollout) -> bool:
    """Whether an answer could be read and the completion stopped on its own."""
    parsed = not any(
        has_no_readable_answer(verdict) for name, verdict in rollout.verdicts.items() if name in rollout.reward_parts
    )
    return parsed and not _is_truncated(rollout)


def _is_truncated(rollout: Rollout) -> bool:
    return rollout.completion.finish_reason is not FinishReason.STOP


def _majority_passes(rollouts: Sequence[Rollout]) -> bool:
    """Whether the most frequent extracted answer (ties: the earliest) passes."""
    answers = [next((v.extracted for v in r.verdicts.values() if v.extracted is not None), None) for r in rollouts]
    found = [answer for answer in answers if answer is not None]
    if not found:
        return False
    winner = Counter(found).most_common(1)[0][0]
    return is_passed(rollouts[answers.index(winner)])
