"""verl's formulas (repository verl-project/verl, commit 1dda039b, August 2026), one data-parallel rank.

Names of settings are verl's own. A micro-batch is the whole mini-batch here; with verl's global counts that is no
restriction.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.algorithms.advantages import GroupRewards
from tests.parity.number import Number, Scalar, clamp, exp, greater, lesser, sigmoid, still, total
from tests.parity.rows import Row

EPS = 1e-8  # masked_mean, masked_whiten, seq-mean-token-mean
MAX_LOG_RATIO = 20.0
MAX_KL = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The actor's fields that the loss reads, under verl's names and defaults.

    rollout_is_threshold: one bound truncates (TIS), two zero what is outside (IcePop).
    rollout_rs_threshold: bounds of behavior / proximal for k1 options, one upper bound for k3.
    counts_after_rejection: which trainer counts the tokens: False is `trainer.use_v1` (the default since 2026), whose
        `loss_mask` was stored before the rejection; True is the older one, which copies `response_mask` after it
        (verl/workers/utils/padding.py, `left_right_2_no_padding`).
    loss_scale_factor: of seq-mean-token-sum-norm; None is the padded width.
    """

    loss_mode: str = "vanilla"
    loss_agg_mode: str = "token-mean"
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.2
    clip_ratio_c: float = 3.0
    tau_pos: float = 1.0
    tau_neg: float = 1.05
    kl_loss_coef: float = 0.0
    kl_loss_type: str = "low_var_kl"
    entropy_coeff: float = 0.0
    rollout_is: str | None = None
    rollout_is_threshold: tuple[float, ...] = (2.0,)
    rollout_rs: str | None = None
    rollout_rs_threshold: tuple[float, ...] = ()
    bypass_mode: str | None = None
    counts_after_rejection: bool = False
    loss_scale_factor: float | None = None


def loss(rows: Sequence[Row], settings: Settings) -> Scalar:
    """One mini-batch's loss: verl/workers/utils/losses.py, `ppo_loss` (policy, minus entropy, plus KL).

    bypass_mode (None, ppo_clip or reinforce): `compute_policy_loss_bypass_mode`, where the ratio starts from the
    sampler's log-probs and reinforce carries the weight policy / behavior in its place.
    """
    keeps = [_kept(row, settings) for row in rows]
    agg_mode = settings.loss_agg_mode
    policy_mode = agg_mode
    if settings.loss_mode in ("gspo", "sapo"):
        policy_mode = "seq-mean-token-mean"  # forced, whatever was configured
    tokens = [_policy_tokens(row, keep, settings) for row, keep in zip(rows, keeps, strict=True)]
    value = agg_loss(tokens, keeps, settings, mode=policy_mode)
    if settings.entropy_coeff:
        entropies = [row.entropy_T for row in rows]
        value = value - settings.entropy_coeff * agg_loss(entropies, keeps, settings, mode=agg_mode)
    if settings.kl_loss_coef:
        estimates = [
            [kl(a, r, settings.kl_loss_type) for a, r in zip(row.logprobs_T, row.ref_T, strict=True)] for row in rows
        ]
        value = value + settings.kl_loss_coef * agg_loss(estimates, keeps, settings, mode=agg_mode)
    return value


def agg_loss(
    losses: Sequence[Sequence[Scalar]], keeps: Sequence[Sequence[bool]], settings: Settings, *, mode: str
) -> Scalar:
    """verl/trainer/ppo/core_algos.py, `agg_loss`; rows are counted before rejection (`global_batch_size`)."""
    sums = [
        total(x for x, kept in zip(row, keep, strict=True) if kept) for row, keep in zip(losses, keeps, strict=True)
    ]
    kept_counts = [sum(keep) for keep in keeps]
    if mode == "token-mean":
        counted = sum(kept_counts) if settings.counts_after_rejection else sum(map(len, keeps))
        return total(sums) / counted
    if mode == "seq-mean-token-sum-norm":
        return total(sums) / (len(losses) * (settings.loss_scale_factor or max(map(len, keeps))))
    assert mode == "seq-mean-token-mean", mode
    return total(s / (n + EPS) for s, n in zip(sums, kept_counts, strict=True) if n) / len(losses)


def _policy_tokens(row: Row, keep: Sequence[bool], settings: Settings) -> list[Scalar]:
    if settings.bypass_mode == "reinforce":
        weights = is_weights(row, [still(x) for x in row.logprobs_T], settings)
        return [-row.advantage * a * w for a, w in zip(row.logprobs_T, weights, strict=True)]
    base = row.proximal_T if settings.bypass_mode is None else row.behavior_T
    weights = [1.0] * row.num_tokens
    if settings.bypass_mode is None:
        weights = is_weights(row, row.proximal_T, settings)
    log_ratios: list[Scalar] = [a - b for a, b in zip(row.logprobs_T, base, strict=True)]
    if settings.loss_mode == "gspo":
        mean = sum(still(x) for x, kept in zip(log_ratios, keep, strict=True) if kept)
        mean /= max(sum(keep), 1)
        log_ratios = [a - still(a) + mean for a in row.logprobs_T]
    return [
        _token_loss(a, log_ratio, b, row.advantage, settings) * w
        for a, log_ratio, b, w in zip(row.logprobs_T, log_ratios, base, weights, strict=True)
    ]


def _token_loss(logprob: Number, log_ratio: Scalar, base: float, advantage: float, settings: Settings) -> Scalar:
    """`compute_policy_loss_vanilla`, `_gspo`, `_sapo`, `_cispo`, `_dppo_tv`."""
    low, high = 1.0 - settings.clip_ratio_low, 1.0 + settings.clip_ratio_high
    if settings.loss_mode == "gspo":
        ratio = exp(clamp(log_ratio, -math.inf, 10.0))
        return greater(-advantage * ratio, -advantage * clamp(ratio, low, high))
    ratio = exp(clamp(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    if settings.loss_mode == "cispo":
        return -still(clamp(ratio, low, high)) * advantage * logprob
    if settings.loss_mode == "sapo":
        t = settings.tau_pos if advantage > 0 else settings.tau_neg
        return -sigmoid((ratio - 1.0) * t) * (4.0 / t) * advantage
    if settings.loss_mode == "dppo_tv":
        moved = math.exp(logprob.value) - math.exp(base)
        is_valid = moved <= settings.clip_ratio_high if advantage > 0 else moved >= -settings.clip_ratio_low
        return -advantage * min(still(ratio), settings.clip_ratio_c) * logprob * float(is_valid)
    clipped = greater(-advantage * ratio, -advantage * clamp(ratio, low, high))
    return lesser(clipped, -advantage * settings.clip_ratio_c) if advantage < 0 else clipped


def kl(logprob: Scalar, ref: float, kind: str) -> Scalar:
    """`kl_penalty_forward`; with a plus (`kl_penalty`) the value is that estimator's and the gradient that of k2."""
    if kind.endswith("+"):
        backward = kl(logprob, ref, "k2")
        return backward - still(backward) + still(kl(logprob, ref, kind[:-1]))
    if kind == "k1":
        return logprob - ref
    if kind == "k2":
        return 0.5 * ((logprob - ref) * (logprob - ref))
    x = clamp(ref - logprob, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return clamp(exp(x) - x - 1.0, -MAX_KL, MAX_KL)


def is_weights(row: Row, numerator: Sequence[float], settings: Settings) -> list[float]:
    """verl/trainer/ppo/rollout_corr_helper.py, `compute_rollout_correction_weights`."""
    if settings.rollout_is is None:
        return [1.0] * row.num_tokens
    log_ratios = [p - b for p, b in zip(numerator, row.behavior_T, strict=True)]
    if settings.rollout_is == "sequence":
        log_ratios = [sum(log_ratios)] * row.num_tokens
    weights = [math.exp(min(max(x, -MAX_LOG_RATIO), MAX_LOG_RATIO)) for x in log_ratios]
    if len(settings.rollout_is_threshold) == 1:
        return [min(w, settings.rollout_is_threshold[0]) for w in weights]
    low, high = settings.rollout_is_threshold
    return [w if low <= w <= high else 0.0 for w in weights]


def _kept(row: Row, settings: Settings) -> list[bool]:
    """`compute_rollout_rejection_mask`: which tokens are left."""
    if settings.rollout_rs is None:
        return [True] * row.num_tokens
    numerator = row.proximal_T
    if settings.bypass_mode is not None:
        numerator = [still(x) for x in row.logprobs_T]
    xs = [p - b for p, b in zip(numerator, row.behavior_T, strict=True)]
    if settings.rollout_rs == "seq_mean_k1":  # k1 is behavior over proximal: the bounds too
        low, high = (math.log(bound) for bound in settings.rollout_rs_threshold)
        return [low <= -sum(xs) / (row.num_tokens + EPS) <= high] * row.num_tokens
    assert settings.rollout_rs == "token_k1", settings.rollout_rs
    low, high = (math.log(bound) for bound in settings.rollout_rs_threshold)
    return [low <= -x <= high for x in xs]


def grpo_advantages(groups: Sequence[GroupRewards], *, by_std: bool = True) -> list[list[float]]:
    """`compute_grpo_outcome_advantage`: std with Bessel's correction plus 1e-6; one rollout keeps its raw reward."""
    result: list[list[float]] = []
    for rewards in _judged(groups):
        mean, std = 0.0, 1.0
        if len(rewards) > 1:
            mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
        result.append([(r - mean) / (std + 1e-6 if by_std else 1.0) for r in rewards])
    return result


def rloo_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """`compute_rloo_outcome_advantage`."""
    result: list[list[float]] = []
    for rewards in _judged(groups):
        n, mean = len(rewards), statistics.fmean(rewards)
        result.append([r * n / (n - 1) - mean * n / (n - 1) for r in rewards])
    return result


def reinforce_plus_plus_advantages(groups: Sequence[GroupRewards], *, with_baseline: bool) -> list[list[float]]:
    """`compute_reinforce_plus_plus_outcome_advantage` with gamma 1, and `..._baseline_...`.

    Every token of a rollout holds its reward (minus the group's mean); `masked_whiten` takes mean and variance over
    tokens, with Bessel's correction, and divides by sqrt(variance + 1e-8).
    """
    centred: list[list[float]] = []
    for rewards in _judged(groups):
        baseline = statistics.fmean(rewards) if with_baseline else 0.0
        centred.append([r - baseline for r in rewards])
    return whitened(centred, [group.num_tokens_G for group in groups])


def whitened(values_G: Sequence[Sequence[float]], num_tokens_G: Sequence[Sequence[int]]) -> list[list[float]]:
    """verl/utils/torch_functional.py, `masked_whiten`, of values that are constant over a rollout's tokens."""
    pairs = [
        (value, count)
        for values, counts in zip(values_G, num_tokens_G, strict=True)
        for value, count in zip(values, counts, strict=True)
    ]
    tokens = sum(count for _, count in pairs)
    mean = math.fsum(value * count for value, count in pairs) / (tokens + EPS)
    variance = math.fsum((value - mean) ** 2 * count for value, count in pairs) / (tokens + EPS)
    scale = 1.0 / math.sqrt(variance * tokens / (tokens - 1) + EPS)
    return [[(value - mean) * scale for value in values] for values in values_G]


def gdpo_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """`compute_gdpo_outcome_advantage`: GRPO of each reward, weighted sum, `masked_whiten` over tokens."""
    sums = [[0.0] * len(group.rewards_G) for group in groups]
    for index, group in enumerate(groups):
        for name, weight in group.weights.items():
            scores = [part[name] / weight for part in group.parts_G]
            mean, std = statistics.fmean(scores), statistics.stdev(scores)
            for i, score in enumerate(scores):
                sums[index][i] += weight * (score - mean) / (std + 1e-6)
    return whitened(sums, [group.num_tokens_G for group in groups])


def pass_at_k_advantages(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """`compute_grpo_passk_outcome_advantage`: only the best rollout has one: best minus second best, over the std."""
    result: list[list[float]] = []
    for rewards in _judged(groups):
        order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
        row = [0.0] * len(rewards)
        gap = rewards[order[0]] - rewards[order[1]]
        row[order[0]] = gap / (statistics.stdev(rewards) + 1e-6)
        result.append(row)
    return result


def overlong(num_tokens: int, *, max_resp_len: int, buffer_len: int, penalty_factor: float) -> float:
    """verl/experimental/reward_loop/reward_manager/dapo.py: what is added to the reward."""
    exceed = num_tokens - (max_resp_len - buffer_len)
    return min(-exceed / buffer_len * penalty_factor, 0.0)


def _judged(groups: Sequence[GroupRewards]) -> list[list[float]]:
    """verl has a number for every rollout."""
    rewards = [[r for r in group.rewards_G if r is not None] for group in groups]
    assert all(len(r) == len(group.rewards_G) for r, group in zip(rewards, groups, strict=True)), (
        "verl cannot express an unjudged rollout"
    )
    return rewards
