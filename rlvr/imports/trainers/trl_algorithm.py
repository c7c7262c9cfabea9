"""TRL's loss, advantage, KL and corrections; tests/parity compares each with the formulas of `GRPOTrainer`."""

from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import number

_AGGREGATION = {
    "grpo": "sequence_mean", "sapo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean",
    "cispo": "token_mean", "dr_grpo": "constant_length",
}  # fmt: skip
_VESPO = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
_SAPO = ("sapo_temperature_pos", "sapo_temperature_neg")
_CLIPS = ("epsilon", "epsilon_high", "delta")
NO_BOUND = 1.0e9
NO_VLLM = "has no effect without use_vllm"


def loss(c: Conversion) -> None:
    """loss_type, importance_sampling_level, the clips and temperatures."""
    kind = str(c.value("loss_type"))
    level = str(c.value("importance_sampling_level"))
    if kind not in _AGGREGATION:
        c.leave(
            "loss_type",
            text=f"rlvr has no {kind} loss; the recipe has the clipped loss over all tokens",
            is_default=True,
        )
        c.ask(f"loss_type={kind} of TRL has no counterpart: choose algorithm.loss, or write it as a plugin")
    elif kind == "bnpo":
        text = "bnpo divides by the tokens of each micro-batch, so that the split matters; rlvr by the minibatch's"
        c.differently("loss_type", ours="algorithm.aggregation", text=text)
    else:
        c.exactly("loss_type", ours="algorithm.loss algorithm.aggregation")
    c.put("algorithm.aggregation", _AGGREGATION.get(kind, "token_mean"), "loss_type")
    if kind == "cispo":
        _cispo(c)
    elif kind == "sapo":
        for theirs, ours in zip(_SAPO, ("tau_positive", "tau_negative"), strict=True):
            c.put(f"algorithm.loss.{ours}", c.value(theirs), theirs, always=True)
            c.exactly(theirs, ours=f"algorithm.loss.{ours}")
        c.put("algorithm.loss.kind", "sapo", "loss_type")
        c.leave(*_CLIPS, text="has no effect with loss_type=sapo")
    else:
        _clipped(c, is_sequence=level == "sequence" and kind in _AGGREGATION)
    if level not in ("token", "sequence") or (level == "sequence" and kind in ("cispo", "sapo")):
        c.leave("importance_sampling_level", text=f"rlvr's {kind} has one ratio for each token")
    c.exactly("importance_sampling_level", ours="algorithm.loss.kind")
    c.leave(*_SAPO, text="has no effect without loss_type=sapo")
    c.leave(*_VESPO, text="has no effect without loss_type=vespo")


def _clipped(c: Conversion, *, is_sequence: bool) -> None:
    low = number(c, "epsilon")
    has_high = c.value("epsilon_high") is not None
    high = number(c, "epsilon_high") if has_high else low
    high_keys = ("epsilon_high",) if has_high else ("epsilon",)
    if is_sequence:
        c.put("algorithm.loss.kind", "gspo", "importance_sampling_level")
    c.put("algorithm.loss.clip_low", low, "epsilon", always=is_sequence)
    c.put("algorithm.loss.clip_high", max(high, low), *high_keys, always=is_sequence)
    if high < low:
        text = f"rlvr needs clip_high >= clip_low; the recipe has {low}"
        c.differently("epsilon_high", ours="algorithm.loss.clip_high", text=text)
    c.exactly(
        "epsilon", ours="algorithm.loss.clip_low" if has_high else "algorithm.loss.clip_low algorithm.loss.clip_high"
    )
    c.exactly("epsilon_high", ours="algorithm.loss.clip_high")
    delta = c.value("delta")
    if delta is None:
        c.exactly("delta", ours="algorithm.loss.dual_clip")
    elif is_sequence:
        c.leave("delta", text="rlvr's gspo loss has no second bound")
    elif number(c, "delta") <= 1.0 + max(high, low):
        c.leave("delta", text="rlvr needs dual_clip above 1 + clip_high")
    else:
        c.put("algorithm.loss.dual_clip", delta, "delta")
        c.exactly("delta", ours="algorithm.loss.dual_clip")


def _cispo(c: Conversion) -> None:
    """TRL's upper bound is `epsilon_high` itself, not 1 + epsilon_high."""
    keys = ("epsilon_high",) if c.value("epsilon_high") is not None else ("epsilon",)
    bound = number(c, keys[0])
    c.put("algorithm.loss.kind", "cispo", "loss_type")
    c.put("algorithm.loss.ratio_min", 0.0, "loss_type", always=True)
    c.put("algorithm.loss.ratio_max", max(bound, 1.0), *keys, always=True)
    if bound < 1.0:
        text = (
            f"in CISPO TRL bounds the ratio itself, so {bound} scales every token's gradient by about {bound}; the "
            "recipe has 1.0, the least that rlvr takes. The bound that papers mean is 5.0: epsilon_high=5.0"
        )
        c.differently(*keys, ours="algorithm.loss.ratio_max", text=text)
    c.exactly("epsilon_high", ours="algorithm.loss.ratio_max")
    c.leave("epsilon", "delta", text="has no effect with loss_type=cispo")


def advantage(c: Conversion) -> None:
    """scale_rewards and multi_objective_aggregation."""
    scale = str(c.value("scale_rewards"))
    scale = {"True": "group", "False": "none"}.get(scale, scale)
    if c.value("multi_objective_aggregation") == "normalize_then_sum":
        c.put("algorithm.advantage.kind", "gdpo", "multi_objective_aggregation")
        c.exactly("multi_objective_aggregation", ours="algorithm.advantage.kind")
        c.leave("scale_rewards", text="has no effect with multi_objective_aggregation=normalize_then_sum")
        return
    c.exactly("multi_objective_aggregation", ours="algorithm.advantage.kind")
    kinds = {"group": "grpo", "none": "dr_grpo", "batch": "batch_norm"}
    if scale not in kinds:
        c.leave("scale_rewards", text=f"{scale!r} is no value of TRL; the recipe has the group's deviation")
        return
    c.put("algorithm.advantage.kind", kinds[scale], "scale_rewards")
    if scale == "batch":
        c.put("algorithm.advantage.eps", 1.0e-4, "scale_rewards", always=True)
        text = "TRL divides by the deviation of all raw rewards; rlvr by that of rewards minus their group's mean"
        c.differently("scale_rewards", ours="algorithm.advantage.kind", text=text)
    c.exactly("scale_rewards", ours="algorithm.advantage.kind")


def kl(c: Conversion) -> None:
    """beta and use_bias_correction_kl."""
    beta = number(c, "beta")
    c.put("algorithm.kl_coef", beta, "beta")
    c.exactly("beta", ours="algorithm.kl_coef")
    if not beta:
        c.exactly("use_bias_correction_kl", ours="algorithm.kl_coef")
    elif c.value("use_bias_correction_kl"):
        c.put("algorithm.kl_estimator", "k2", "use_bias_correction_kl")
        text = (
            "TRL multiplies its k3 estimate by the ratio, with its gradient. rlvr never weights KL; k2 has the same "
            "gradient where the ratio is 1. use_bias_correction_kl=false is k3 in both"
        )
        c.differently("use_bias_correction_kl", ours="algorithm.kl_estimator", text=text)
    else:
        c.put("algorithm.kl_estimator", "k3", "use_bias_correction_kl")
        c.exactly("use_bias_correction_kl", ours="algorithm.kl_estimator")


def entropy(c: Conversion) -> None:
    """entropy_coef."""
    coef = number(c, "entropy_coef")
    c.put("algorithm.entropy_coef", coef, "entropy_coef")
    if coef and c.value("loss_type") in ("grpo", "sapo", "dr_grpo"):
        text = "TRL's bonus is a mean over tokens under every loss_type; rlvr averages it as it does the loss"
        c.differently("entropy_coef", ours="algorithm.entropy_coef", text=text)
    c.exactly("entropy_coef", ours="algorithm.entropy_coef")


def truncated(c: Conversion) -> None:
    """mask_truncated_completions: what completions at the length limit earn, and whether they are trained on."""
    is_masked = bool(c.value("mask_truncated_completions"))
    c.put("reward.truncated", "mask" if is_masked else "judge", "mask_truncated_completions")
    if is_masked and c.value("loss_type") in ("grpo", "sapo", "dr_grpo"):
        text = "TRL's mean over completions counts masked ones as 0; rlvr's is over those that carry loss"
        c.differently("mask_truncated_completions", ours="reward.truncated", text=text)
    c.exactly("mask_truncated_completions", ours="reward.truncated")


def correction(c: Conversion) -> None:
    """The importance weights against vLLM; TRL has them only with use_vllm."""
    keys = (
        "vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max",
        "vllm_importance_sampling_clip_min", "vllm_importance_sampling_cap",
    )  # fmt: skip
    if not c.value("use_vllm"):
        c.leave(*keys, text=NO_VLLM)
        return
    switch, mode_key, high_key, low_key, cap = keys
    if not c.value(switch):
        c.exactly(switch, ours="algorithm.correction.weight")
        c.leave(mode_key, high_key, low_key, cap, text=f"has no effect without {switch}")
        return
    high_key = cap if c.value(cap) is not None else high_key
    level, _, bound = str(c.value(mode_key)).partition("_")
    if level not in ("token", "sequence") or bound not in ("truncate", "mask"):
        c.leave(*keys, text=f"{mode_key}={c.value(mode_key)!r} is no mode of TRL", is_default=True)
        return
    c.put("algorithm.correction.weight", level, mode_key)
    c.put("algorithm.correction.bound", bound, mode_key)
    high = NO_BOUND if c.value(high_key) is None else number(c, high_key)
    low = 0.0 if c.value(low_key) is None else number(c, low_key)
    if high >= 1.0:
        c.put("algorithm.correction.weight_max", high, high_key)
        c.exactly(high_key, ours="algorithm.correction.weight_max")
    else:
        c.leave(high_key, text="rlvr needs weight_max >= 1, the weight of equal policies")
    if low <= 1.0:
        c.put("algorithm.correction.weight_min", low, low_key)
        c.exactly(low_key, ours="algorithm.correction.weight_min")
    else:
        c.leave(low_key, text="rlvr needs weight_min <= 1, the weight of equal policies")
    c.exactly(switch, mode_key, ours="algorithm.correction.weight algorithm.correction.bound")
    c.leave("vllm_importance_sampling_clip_max", text=f"{cap} takes precedence")
    c.exactly(cap, ours="algorithm.correction.weight_max")
