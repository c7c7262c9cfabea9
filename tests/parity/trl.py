"""The formulas of TRL 1.16: `GRPOTrainer` and `AsyncGRPOTrainer`, one process, one optimiser step.

Names of settings are TRL's own. `tests/golden/parity/test_trl_itself.py` compares the same settings with the trainer.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Number, Scalar, clamp, exp, lesser, sigmoid, still, total
from tests.parity.rows import Row

EPS = 1e-4
ASYNC_EPS = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of `GRPOConfig` that the loss reads, under their names and defaults."""

    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    epsilon: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    beta: float = 0.0
    use_bias_correction_kl: bool = True
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    off_policy_mask_threshold: float | None = None
    entropy_coef: float = 0.0
    max_completion_length: int = 12
    mask_truncated_completions: bool = False
    vllm_importance_sampling_mode: str | None = None
    vllm_importance_sampling_clip_min: float | None = None
    vllm_importance_sampling_clip_max: float | None = 3.0
    gradient_accumulation_steps: int = 1


def loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """One optimiser step's loss: trl/trainer/grpo_trainer.py, `GRPOTrainer._compute_loss`.

    Micro-batches are equal runs of rows; their losses add up, as gradients accumulate. `num_items_in_batch`, the loss
    tokens of the whole step, is counted after truncated completions were masked.
    """
    size = len(rows) // settings.gradient_accumulation_steps
    micro_batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    step_tokens = sum(_mask(row, settings) * row.num_tokens for row in rows)
    return total(_micro_batch_loss(m, settings, step_tokens=step_tokens) for m in micro_batches)


def _micro_batch_loss(rows: Sequence[Row], settings: Settings, *, step_tokens: int) -> Scalar:
    sums = [_row_sum(row, settings) for row in rows]
    counts = [_mask(row, settings) * row.num_tokens for row in rows]
    accumulation = settings.gradient_accumulation_steps
    by_type = {
        "grpo": lambda: total(s / max(n, 1) for s, n in zip(sums, counts, strict=True)) / (len(rows) * accumulation),
        "bnpo": lambda: total(sums) / (max(sum(counts), 1) * accumulation),
        "dr_grpo": lambda: total(sums) / (len(rows) * settings.max_completion_length * accumulation),
        "dapo": lambda: total(sums) / max(step_tokens, 1),
    }
    by_type |= {"sapo": by_type["grpo"], "cispo": by_type["dapo"]}
    policy = by_type[settings.loss_type]()
    entropy = total(h for row in rows if _mask(row, settings) for h in row.entropy_T)
    return policy - settings.entropy_coef * entropy / (max(sum(counts), 1) * accumulation)


def _mask(row: Row, settings: Settings) -> int:
    """0 takes the whole row out of the loss (`mask_truncated_completions`)."""
    return 0 if settings.mask_truncated_completions and row.is_truncated else 1


def _row_sum(row: Row, settings: Settings) -> Scalar:
    if not _mask(row, settings):
        return 0.0
    weights = sampler_weights(row, settings)
    keep = _off_policy_keep(row, settings)
    log_ratios = [a - b for a, b in zip(row.logprobs_T, row.proximal_T, strict=True)]
    if settings.importance_sampling_level == "sequence":
        log_ratios = [total(log_ratios) / row.num_tokens] * row.num_tokens
    tokens: list[Scalar] = []
    for t, log_ratio in enumerate(log_ratios):
        token = _token_loss(exp(log_ratio), row.logprobs_T[t], row.advantage, settings)
        x = row.ref_T[t] - row.logprobs_T[t]
        kl_weight = exp(log_ratio) if settings.use_bias_correction_kl else 1.0
        tokens.append(token * keep * weights[t] + settings.beta * kl_weight * (exp(x) - x - 1.0))
    return total(tokens)


def _token_loss(ratio: Scalar, logprob: Number, advantage: float, settings: Settings) -> Scalar:
    if settings.loss_type == "cispo":
        return -min(still(ratio), settings.epsilon_high) * advantage * logprob
    if settings.loss_type == "sapo":
        positive = advantage > 0
        t = settings.sapo_temperature_pos if positive else settings.sapo_temperature_neg
        return -sigmoid((ratio - 1.0) * t) * 4.0 / t * advantage
    clipped = clamp(ratio, 1.0 - settings.epsilon, 1.0 + settings.epsilon_high)
    bounded = ratio if settings.delta is None else lesser(ratio, settings.delta)
    return -lesser(bounded * advantage, clipped * advantage)


def sampler_weights(row: Row, settings: Settings) -> list[float]:
    """The weight of each token against the sampler: `_generate_and_score_completions`, importance_sampling_ratio."""
    mode = settings.vllm_importance_sampling_mode
    if mode is None:
        return [1.0] * row.num_tokens
    differences = [_zero_if_nan(p - b) for p, b in zip(row.proximal_T, row.behavior_T, strict=True)]
    if mode.startswith("sequence"):
        differences = [sum(differences)] * row.num_tokens
    low = settings.vllm_importance_sampling_clip_min
    high = settings.vllm_importance_sampling_clip_max
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    weights = [math.exp(d) for d in differences]
    if mode.endswith("truncate"):
        return [min(max(w, low), high) for w in weights]
    return [w if low <= w <= high else 0.0 for w in weights]


def _off_policy_keep(row: Row, settings: Settings) -> float:
    """`get_off_policy_mask`: 0 drops a row with A < 0 whose mean (sampler - policy) is above the threshold."""
    if settings.off_policy_mask_threshold is None or row.advantage >= 0:
        return 1.0
    drift = sum(_zero_if_nan(b - still(a)) for a, b in zip(row.logprobs_T, row.behavior_T, strict=True))
    return 1.0 if drift / row.num_tokens <= settings.off_policy_mask_threshold else 0.0


def async_loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """trl/experimental/async_grpo/async_grpo_trainer.py, `AsyncGRPOTrainer.compute_loss`.

    The ratio starts from the sampler's log-probs; each micro-batch is a token mean of its own, and these are averaged.
    """
    size = len(rows) // settings.gradient_accumulation_steps
    means: list[Scalar] = []
    for start in range(0, len(rows), size):
        tokens: list[Scalar] = []
        for row in rows[start : start + size]:
            for a, b in zip(row.logprobs_T, row.behavior_T, strict=True):
                ratio = exp(a - b)
                clipped = clamp(ratio, 1.0 - settings.epsilon, 1.0 + settings.epsilon_high)
                tokens.append(-lesser(ratio * row.advantage, clipped * row.advantage))
        means.append(total(tokens) / max(len(tokens), 1))
    return total(means) / settings.gradient_accumulation_steps


def advantages(groups: Sequence[GroupRewards], *, scale_rewards: str) -> list[list[float]]:
    """`_generate_and_score_completions`, sum_then_normalize: scale_rewards is group, batch or none.

    Rows that no reward function could score leave mean and deviation, and their advantage is 0.
    """
    everything = [r for group in groups for r in group.rewards_G if r is not None]
    batch_std = _std(everything)
    result: list[list[float]] = []
    for group in groups:
        scored = [r for r in group.rewards_G if r is not None]
        divisor = {"group": _std(scored) + EPS, "batch": batch_std + EPS, "none": 1.0}
        result.append(
            [
                _zero_if_nan(math.nan if r is None else (r - _mean(scored)) / divisor[scale_rewards])
                for r in group.rewards_G
            ]
        )
    return result


def decoupled_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """`_generate_and_score_completions`, normalize_then_sum (GDPO): each function in its group, then the batch."""
    sums: list[list[float | None]] = []
    for group in groups:
        row_sums: list[float | None] = [None if reward is None else 0.0 for reward in group.rewards_G]
        for name, weight in group.weights.items():
            scores = [part[name] / weight if part else None for part in group.parts_G]
            known = [score for score in scores if score is not None]
            for i, score in enumerate(scores):
                so_far = row_sums[i]
                if score is not None and so_far is not None:
                    z = weight * (score - _mean(known)) / (_std(known) + EPS)
                    row_sums[i] = so_far + _zero_if_nan(z)
        sums.append(row_sums)
    known = [s for row_sums in sums for s in row_sums if s is not None]
    return [
        [_zero_if_nan(math.nan if s is None else (s - _mean(known)) / (_std(known) + EPS)) for s in row] for row in sums
    ]


def async_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """trl/experimental/async_grpo/async_rollout_worker.py: population deviation (n, not n - 1) plus 1e-8."""
    result: list[list[float]] = []
    for group in groups:
        scored = [r for r in group.rewards_G if r is not None]
        deviation = statistics.pstdev(scored) if scored else 0.0
        result.append([0.0 if r is None else (r - _mean(scored)) / (deviation + ASYNC_EPS) for r in group.rewards_G])
    return result


def soft_overlong(num_tokens: int, *, max_completion_len: int, soft_punish_cache: int) -> float:
    """trl/rewards/other_rewards.py, `get_soft_overlong_punishment`: what is added to the reward."""
    free = max_completion_len - soft_punish_cache
    if num_tokens <= free:
        return 0.0
    return (free - num_tokens) / soft_punish_cache if num_tokens <= max_completion_len else -1.0


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _std(values: Sequence[float]) -> float:
    """`nanstd`: with Bessel's correction, nan of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def _zero_if_nan(value: float) -> float:
    return 0.0 if math.isnan(value) else value
