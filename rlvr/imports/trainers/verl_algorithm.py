"""verl's advantage, loss, KL and rollout correction; tests/parity compares each with those of `core_algos.py`."""

from typing import cast

from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import number

ACTOR = "actor_rollout_ref.actor"
CORRECTION = "algorithm.rollout_correction"
_ADVANTAGES = {
    "grpo": "grpo", "grpo_vectorized": "grpo", "rloo": "rloo", "rloo_vectorized": "rloo", "gdpo": "gdpo",
    "reinforce_plus_plus": "batch_norm", "reinforce_plus_plus_baseline": "batch_norm", "grpo_passk": "pass_at_k",
}  # fmt: skip
_DIFFERENT_ADVANTAGES = {
    "gdpo": "verl's last normalisation counts a completion by its tokens; rlvr's counts it once, as TRL and the paper",
    "grpo_passk": "verl pays only the best completion, by best minus second best; rlvr averages over all subsets of 2",
}
_FORCED = ("gspo", "sapo")  # losses that verl always aggregates by seq-mean-token-mean
_ESTIMATORS = {"kl": "k1", "k1": "k1", "mse": "k2", "k2": "k2", "low_var_kl": "k3", "k3": "k3"}
_HELD = "the two are equal below 10 nats for a token; verl holds its estimate at 10, rlvr at a log-ratio of 20"


def advantage(c: Conversion) -> None:
    """algorithm.adv_estimator, norm_adv_by_std_in_grpo, gamma."""
    key, by_std, gamma = "algorithm.adv_estimator", "algorithm.norm_adv_by_std_in_grpo", "algorithm.gamma"
    kind = str(c.value(key))
    ours = _ADVANTAGES.get(kind, "grpo")
    path = "algorithm.advantage.kind"
    if kind not in _ADVANTAGES:
        why = "rlvr has no critic" if kind == "gae" else "rlvr does not have it"
        c.leave(key, text=f"{kind}: {why}; the recipe has the advantage of grpo", is_default=True)
        c.ask(f"adv_estimator={kind} of verl has no counterpart: choose algorithm.advantage")
    if kind in _DIFFERENT_ADVANTAGES:
        c.differently(key, ours=path, text=_DIFFERENT_ADVANTAGES[kind])
    c.exactly(key, ours=path)
    if ours == "grpo" and not c.value(by_std):
        c.put(path, "dr_grpo", by_std)
    else:
        c.put(path, ours, key)
        if ours in ("grpo", "gdpo"):
            c.put("algorithm.advantage.eps", 1.0e-6, key, how="added to the deviation; rlvr's default is 1e-4")
    if ours == "batch_norm":
        c.put("algorithm.advantage.baseline", "group" if kind.endswith("baseline") else "none", key, always=True)
        c.put("algorithm.advantage.weighting", "token", key)
    if ours == "pass_at_k":
        c.put("algorithm.advantage.k", 2, key)
    if ours == "grpo":
        c.exactly(by_std, ours=path)
    else:
        c.leave(by_std, text=f"has no effect with adv_estimator={kind}")
    if kind == "reinforce_plus_plus" and number(c, gamma) != 1.0:
        c.leave(gamma, text="rlvr gives every token of a completion the same return (gamma 1)")
    c.exactly(gamma, ours="always")


def loss(c: Conversion) -> None:
    """policy_loss.loss_mode and the clips."""
    key = f"{ACTOR}.policy_loss.loss_mode"
    mode = str(c.value(key))
    low_key, high_key = _bound(c, "low"), _bound(c, "high")
    low, high = number(c, low_key), number(c, high_key)
    dual, taus = f"{ACTOR}.clip_ratio_c", (f"{ACTOR}.tau_pos", f"{ACTOR}.tau_neg")
    kinds = {"vanilla": "clipped", "gspo": "gspo", "sapo": "sapo", "cispo": "cispo", "dppo_tv": "dppo"}
    if mode not in kinds:
        c.leave(key, text=f"rlvr has no {mode} loss; the recipe has the clipped loss", is_default=True)
        c.ask(f"loss_mode={mode} of verl has no counterpart: choose algorithm.loss, or write it as a plugin")
    kind = kinds.get(mode, "clipped")
    c.put("algorithm.loss.kind", kind, key)
    names = {
        "clipped": ("clip_low", "clip_high"),
        "gspo": ("clip_low", "clip_high"),
        "dppo": ("max_decrease", "max_increase"),
    }
    if kind in names:
        c.put(f"algorithm.loss.{names[kind][0]}", low, low_key, always=kind != "clipped")
        c.put(f"algorithm.loss.{names[kind][1]}", high, high_key, always=kind != "clipped")
    elif kind == "cispo":
        c.put(
            "algorithm.loss.ratio_min",
            max(0.0, 1.0 - low),
            low_key,
            how=f"1 - {low}: rlvr's bounds are of the ratio",
            always=True,
        )
        c.put(
            "algorithm.loss.ratio_max",
            1.0 + high,
            high_key,
            how=f"1 + {high}: rlvr's bounds are of the ratio",
            always=True,
        )
    else:
        c.put("algorithm.loss.tau_positive", c.value(taus[0]), taus[0], always=True)
        c.put("algorithm.loss.tau_negative", c.value(taus[1]), taus[1], always=True)
        c.leave(low_key, high_key, text="has no effect with loss_mode=sapo")
    if kind == "dppo":
        c.put("algorithm.loss.log_ratio_coef", 0.0, key, always=True)
        text = f"verl also truncates the ratio at clip_ratio_c={c.value(dual)}; otherwise the gradients are equal"
        c.differently(key, ours="algorithm.loss.kind", text=text)
    if kind == "clipped" and number(c, dual) > 1.0 + high:
        c.put("algorithm.loss.dual_clip", float(c.value(dual)), dual)
        c.exactly(dual, ours="algorithm.loss.dual_clip")
    c.leave(dual, text="has no effect" if kind != "clipped" else "rlvr needs dual_clip above 1 + clip_high")
    c.exactly(key, ours="algorithm.loss.kind")
    c.exactly(low_key, high_key, ours="algorithm.loss")
    if f"{ACTOR}.clip_ratio" not in (low_key, high_key):
        text = "has no effect in verl: clip_ratio_low and clip_ratio_high, 0.2 by default, take precedence"
        c.leave(f"{ACTOR}.clip_ratio", text=text)
    c.exactly(*taus, ours="algorithm.loss") if kind == "sapo" else c.leave(
        *taus, text="has no effect without loss_mode=sapo"
    )


def _bound(c: Conversion, side: str) -> str:
    """The key that gives a clip: clip_ratio where the one of the side is null."""
    key = f"{ACTOR}.clip_ratio_{side}"
    return key if c.value(key) is not None else f"{ACTOR}.clip_ratio"


def aggregation(c: Conversion) -> None:
    """loss_agg_mode and loss_scale_factor."""
    key, scale = f"{ACTOR}.loss_agg_mode", f"{ACTOR}.loss_scale_factor"
    mode, path = str(c.value(key)), "algorithm.aggregation"
    loss_mode = c.value(f"{ACTOR}.policy_loss.loss_mode")
    limit = number(c, "data.max_response_length")
    if loss_mode in _FORCED:
        c.put(path, "sequence_mean", f"{ACTOR}.policy_loss.loss_mode", how=f"verl always averages {loss_mode} so")
        c.leave(key, text=f"has no effect on the {loss_mode} loss, which verl always averages by seq-mean-token-mean")
        c.leave(scale, text="has no effect without loss_agg_mode=seq-mean-token-sum-norm")
        return
    ours = {
        "token-mean": "token_mean", "seq-mean-token-mean": "sequence_mean", "seq-mean-token-sum": "constant_length",
        "seq-mean-token-sum-norm": "constant_length",
    }.get(mode)  # fmt: skip
    if ours is None:
        c.leave(key, text=f"rlvr does not have {mode}; the recipe has token_mean")
    else:
        c.put(path, ours, key)
    if mode == "seq-mean-token-sum":
        text = f"rlvr's loss is also divided by rollout.max_completion_tokens={limit:g}, which AdamW hardly notices"
        c.differently(key, ours=path, text=text)
    if mode == "seq-mean-token-sum-norm" and c.value(scale) != limit:
        divisor = "the batch's padded width" if c.value(scale) is None else f"loss_scale_factor={c.value(scale)}"
        text = (
            f"verl divides by {divisor}, rlvr by rollout.max_completion_tokens={limit:g}; "
            f"loss_scale_factor={limit:g} makes them equal"
        )
        c.differently(key, ours=path, text=text)
    c.exactly(key, ours=path)
    if mode == "seq-mean-token-sum-norm":
        c.exactly(scale, ours=path)
    c.leave(scale, text="has no effect without loss_agg_mode=seq-mean-token-sum-norm")


def kl(c: Conversion) -> None:
    """KL in the loss (use_kl_loss) or in the reward (use_kl_in_reward); rlvr has one place."""
    use, coef, kind = (f"{ACTOR}.{name}" for name in ("use_kl_loss", "kl_loss_coef", "kl_loss_type"))
    in_reward, reward_kind = "algorithm.use_kl_in_reward", "algorithm.kl_penalty"
    control, reward_coef = "algorithm.kl_ctrl.type", "algorithm.kl_ctrl.kl_coef"
    if c.value(use):
        _kl_at(c, "loss", use=use, coef=coef, kind=kind)
    c.exactly(use, ours="algorithm.kl_coef")
    c.leave(coef, kind, text="has no effect without use_kl_loss")
    if c.value(in_reward) and c.value(use):
        c.leave(in_reward, text="rlvr has KL in the loss or in the reward; the recipe has the loss's")
        c.leave(reward_kind, control, reward_coef, text="the recipe has the KL of the loss")
    elif c.value(in_reward):
        _kl_at(c, "reward", use=in_reward, coef=reward_coef, kind=reward_kind)
        if c.value(control) != "fixed":
            c.differently(
                control, ours="algorithm.kl_coef", text="rlvr's coefficient is constant; the recipe has the first one"
            )
        c.exactly(control, ours="algorithm.kl_coef")
    c.exactly(in_reward, ours="algorithm.kl_placement")
    c.leave(reward_kind, control, reward_coef, text="has no effect without use_kl_in_reward")


def _kl_at(c: Conversion, placement: str, *, use: str, coef: str, kind: str) -> None:
    name = str(c.value(kind))
    estimator = "k2" if name.endswith("+") else _ESTIMATORS.get(name)
    if estimator is None or (estimator == "k1" and placement == "loss"):
        why = "in the loss its gradient has mean 0 on-policy" if estimator else "rlvr has k1, k2 and k3"
        c.leave(kind, use, text=f"{name}: {why}; the recipe has no KL", is_default=True)
        c.leave(coef, text="the recipe has no KL")
        return
    c.put("algorithm.kl_coef", number(c, coef), coef, use)
    c.put("algorithm.kl_estimator", estimator, kind)
    c.put("algorithm.kl_placement", placement, use)
    if name.endswith("+"):
        c.differently(
            kind,
            ours="algorithm.kl_estimator",
            text=f"verl reports {name[:-1]} with the gradient of k2, which the recipe has",
        )
    elif estimator == "k3":
        c.differently(kind, ours="algorithm.kl_estimator", text=_HELD)
    c.exactly(coef, kind, use, ours="algorithm.kl_coef algorithm.kl_estimator")


def entropy(c: Conversion) -> None:
    """entropy_coeff."""
    key = f"{ACTOR}.entropy_coeff"
    coef = number(c, key)
    c.put("algorithm.entropy_coef", float(coef), key)
    forced = c.value(f"{ACTOR}.policy_loss.loss_mode") in _FORCED
    if coef and forced and c.value(f"{ACTOR}.loss_agg_mode") != "seq-mean-token-mean":
        text = "verl averages the bonus by loss_agg_mode, rlvr as it does the loss"
        c.differently(key, ours="algorithm.entropy_coef", text=text)
    c.exactly(key, ours="algorithm.entropy_coef")


def correction(c: Conversion) -> None:
    """algorithm.rollout_correction: importance weights, rejection, bypass."""
    weight, bounds = f"{CORRECTION}.rollout_is", f"{CORRECTION}.rollout_is_threshold"
    bypass, loss_type = f"{CORRECTION}.bypass_mode", f"{CORRECTION}.loss_type"
    if c.value(bypass):
        c.put("algorithm.correction.ratio_base", "behavior", bypass)
        if c.value(loss_type) == "reinforce":
            high = _pair(c, bounds)[1] if c.value(weight) else 1.0e9
            c.put("algorithm.loss", {"kind": "cispo", "ratio_min": 0.0, "ratio_max": max(1.0, high)}, loss_type, bounds)
            c.differently(
                weight, ours="algorithm.loss.ratio_max", text="the ratio to the engine is the weight", is_default=False
            )
            c.exactly(bounds, ours="algorithm.loss.ratio_max")
        c.leave(weight, text="verl's bypass mode takes no weights with ppo_clip: its ratio holds the mismatch")
        c.exactly(bypass, loss_type, ours="algorithm.correction.ratio_base")
    elif c.value(weight) in ("token", "sequence"):
        low, high = _pair(c, bounds)
        c.put("algorithm.correction.weight", c.value(weight), weight)
        c.put("algorithm.correction.bound", "mask" if _is_pair(c, bounds) else "truncate", bounds, always=True)
        c.put("algorithm.correction.weight_min", low, bounds)
        c.put("algorithm.correction.weight_max", high, bounds, always=True)
        c.exactly(weight, bounds, ours="algorithm.correction.weight algorithm.correction.weight_max")
    elif c.value(weight) is not None:
        c.leave(weight, text=f"rlvr has weights by token and by sequence, not {c.value(weight)!r}")
    c.exactly(weight, bypass, ours="algorithm.correction.weight")
    c.leave(bounds, text="has no effect without rollout_is")
    c.leave(loss_type, text="has no effect without bypass_mode")
    _rejection(c)


def _rejection(c: Conversion) -> None:
    key, bounds = f"{CORRECTION}.rollout_rs", f"{CORRECTION}.rollout_rs_threshold"
    kind = c.value(key)
    if kind == "seq_mean_k1" and _is_pair(c, bounds):
        low, high = _pair(c, bounds)
        how = "1 / verl's bounds, which are of engine / learner"
        c.put("algorithm.correction.geometric_min", 1.0 / high, key, bounds, how=how)
        c.put("algorithm.correction.geometric_max", 1.0 / low, key, bounds, how=how)
        if c.value(f"{ACTOR}.use_kl_loss"):
            text = "a rejected completion loses its KL too in verl; rlvr keeps KL on every token"
            c.differently(key, ours="algorithm.correction.geometric_max", text=text)
        c.exactly(key, bounds, ours="algorithm.correction.geometric_min algorithm.correction.geometric_max")
    elif kind is not None:
        text = f"rlvr rejects by the geometric mean of a completion's ratios (seq_mean_k1, two bounds), not by {kind}"
        c.leave(key, bounds, text=text)
    c.exactly(key, ours="algorithm.correction.geometric_max")
    c.leave(bounds, text="has no effect without rollout_rs")


def _is_pair(c: Conversion, key: str) -> bool:
    value = c.value(key)
    return isinstance(value, str) and "_" in value


def _pair(c: Conversion, key: str) -> tuple[float, float]:
    """Bounds written as `low_high`, or one upper bound."""
    value = c.value(key)
    if _is_pair(c, key):
        low, _, high = str(value).partition("_")
        return float(low), float(high)
    return 0.0, float(cast(float, number(c, key)))
