"""prime-rl's advantage and loss; tests/parity compares each with the formulas of its `loss.py` and `algo/`."""

from rlvr.imports.conversion import Conversion
from rlvr.imports.trainers.parts import number

_ALGO, _LOSS = "orchestrator.algo", "trainer.loss"
_ADVANTAGES = {"grpo": "dr_grpo", "max_rl": "maxrl"}
_WHY = {
    "rae": "its baselines are of the agents of an environment",
    "hierarchical_grpo": "it compares solvers and proposers of an environment",
    "opd": "rlvr does not distil from a teacher",
    "opsd": "rlvr does not distil from a demonstration",
    "sft": "rlvr does not train on a teacher's completions",
    "echo": "rlvr does not train on an environment's messages; the rest of echo is grpo",
}


def advantage(c: Conversion) -> None:
    """orchestrator.algo."""
    key, path = f"{_ALGO}.type", "algorithm.advantage.kind"
    kind = str(c.value(key))
    c.put(path, _ADVANTAGES.get(kind, "dr_grpo"), key)
    if kind in _ADVANTAGES:
        c.exactly(key, ours=path)
    else:
        c.leave(
            key, text=f"{kind}: {_WHY.get(kind, 'rlvr does not have it')}; the recipe has prime-rl's grpo advantage"
        )
        if kind != "echo":
            c.ask(f"algo.type={kind} of prime-rl has no counterpart: choose algorithm.advantage")
    if kind == "max_rl":
        c.put("algorithm.advantage.eps", 1.0e-12, key, how="prime-rl adds nothing to the mean", always=True)
    penalty = [given for given in c.given if given.startswith(f"{_ALGO}.length_penalty")]
    text = "rlvr has no penalty by the group's longest completion; reward.overlong_* lowers rewards near the limit"
    c.leave(*penalty, text=text)
    c.leave(
        *(given for given in c.given if given.startswith(f"{_ALGO}.")),
        text=f"a setting of {kind}, which rlvr does not have",
    )


def loss(c: Conversion) -> None:
    """trainer.loss: DPPO's mask and the squared log-ratio; the ratio starts from the engine's log-probs."""
    key = f"{_LOSS}.type"
    kind = str(c.value(key))
    low, high, both = (f"{_LOSS}.{name}" for name in ("dppo_mask_low", "dppo_mask_high", "ipo_threshold"))
    tau, coef = f"{_LOSS}.adv_tau", f"{_LOSS}.kl_tau"
    if kind == "ipo":
        low_key = high_key = both
        text = (
            "ipo drops a token whose probability moved either way; rlvr's dppo only one that moved with its advantage"
        )
        c.differently(key, ours="algorithm.loss.kind", text=text)
    else:
        low_key, high_key = low, high
    if kind == "custom":
        c.leave(
            key, f"{_LOSS}.import_path", text="its function takes prime-rl's inputs; the recipe has the default loss"
        )
        c.ask("write trainer.loss.import_path as a plugin: algorithm.loss: {kind: plugin, name: module:function}")
    c.put("algorithm.loss.kind", "dppo", key, always=True)
    c.put("algorithm.loss.max_decrease", number(c, low_key), low_key, always=True)
    c.put("algorithm.loss.max_increase", number(c, high_key), high_key, always=True)
    scale = number(c, tau)
    if scale not in (0.0, 1.0):
        text = f"rlvr's loss is divided by adv_tau={scale:g}, which AdamW hardly notices; kl_tau is divided by it too"
        c.differently(tau, ours="algorithm.loss.log_ratio_coef", text=text)
    elif not scale:
        c.leave(tau, text="without advantages nothing is learned; the recipe has adv_tau=1")
    c.put("algorithm.loss.log_ratio_coef", number(c, coef) / (scale or 1.0), coef, tau, always=True)
    c.exactly(key, low_key, high_key, tau, coef, ours="algorithm.loss")
    c.leave(low, high, both, text=f"has no effect with loss.type={kind}")
    c.leave(*(given for given in c.given if given.startswith(f"{_LOSS}.")), text="a setting of another loss")
    c.put(
        "algorithm.correction.ratio_base",
        "behavior",
        key,
        how="its ratio starts from the engine's log-probs",
        always=True,
    )
    c.put("reward.truncated", "judge", how="a completion at the limit is judged and trained on like any other")


def filtering(c: Conversion) -> None:
    """filter_zero_advantages: what has no advantage leaves the batch and its denominator, as with `drop`."""
    key = "orchestrator.train.filter_zero_advantages"
    c.put("algorithm.zero_variance", "drop" if c.value(key) else "keep", key)
    if c.value(key):
        text = "prime-rl drops every completion with advantage 0, rlvr groups in which all are 0"
        c.differently(key, ours="algorithm.zero_variance", text=text)
    c.exactly(key, ours="algorithm.zero_variance")


def staleness(c: Conversion) -> None:
    """max_off_policy_steps."""
    key = "orchestrator.max_off_policy_steps"
    c.put("rollout.max_staleness", int(number(c, key)), key)
    text = "both count from the oldest token; prime-rl drops completions that are older, rlvr starts none that could be"
    c.differently(key, ours="rollout.max_staleness", text=text)
