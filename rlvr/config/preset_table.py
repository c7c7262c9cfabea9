"""The presets as data: which keys of a recipe a published algorithm fixes.

A paper about one part (an advantage, a correction) sets only that part; the rest is left to the recipe. The
learner's log-probs, ratios and losses are float32 in every preset.
"""

from dataclasses import dataclass

from pydantic import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A published algorithm.

    summary: one line. paper: the source. keys: what it sets, by dotted path.
    left_out: what the paper also does, with the recipe key for it.
    """

    summary: str
    paper: str
    keys: dict[str, JsonValue]
    left_out: str = ""


def _algorithm(keys: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {f"algorithm.{key}": value for key, value in keys.items()}


_GRPO: dict[str, JsonValue] = {"advantage.kind": "grpo"}
_NO_KL: dict[str, JsonValue] = {"kl_coef": 0.0}
_CLIPPED: dict[str, JsonValue] = {
    "loss.kind": "clipped",
    "loss.clip_low": 0.2,
    "loss.clip_high": 0.2,
}

PRESETS: dict[str, Preset] = {
    "grpo": Preset(
        summary="group-normalised advantages, clipped ratio, mean within each completion, KL in the loss",
        paper="DeepSeekMath, arXiv:2402.03300",
        keys=_algorithm(
            _GRPO
            | _CLIPPED
            | {
                "aggregation": "sequence_mean",
                "kl_coef": 0.04,
                "kl_estimator": "k3",
                "kl_placement": "loss",
            }
        ),
    ),
    "dr_grpo": Preset(
        summary="GRPO without its two biases: no division by the group's deviation, none by the completion's length",
        paper="Dr. GRPO, arXiv:2503.20783",
        keys=_algorithm({"advantage.kind": "dr_grpo"} | _CLIPPED | {"aggregation": "constant_length"} | _NO_KL),
    ),
    "dapo": Preset(
        summary="a wider upper clip, mean over all tokens, no KL",
        paper="DAPO, arXiv:2503.14476",
        keys=_algorithm(_GRPO | _CLIPPED | {"loss.clip_high": 0.28, "aggregation": "token_mean"} | _NO_KL),
        left_out="`reward.overlong_buffer_tokens` (a fifth of `rollout.max_completion_tokens` there) and "
        "`algorithm.dynamic_sampling.enabled`",
    ),
    "gspo": Preset(
        summary="one ratio per completion, the geometric mean of its tokens' ratios, tightly clipped",
        paper="GSPO, arXiv:2507.18071",
        keys=_algorithm(
            _GRPO
            | {"loss.kind": "gspo", "loss.clip_low": 3e-4, "loss.clip_high": 4e-4}
            | {"aggregation": "sequence_mean"}
            | _NO_KL
        ),
        left_out="`learner.minibatches_per_step` (4 there); with one minibatch every ratio is 1",
    ),
    "cispo": Preset(
        summary="REINFORCE weighted by the detached ratio with an upper bound; no token loses its gradient",
        paper="MiniMax-M1, arXiv:2506.13585",
        keys=_algorithm(
            _GRPO
            | {"loss.kind": "cispo", "loss.ratio_min": 0.0, "loss.ratio_max": 5.0}
            | {"aggregation": "token_mean"}
            | _NO_KL
        ),
        left_out="the paper tunes its upper bound and does not report it; 5 is commonly used",
    ),
    "sapo": Preset(
        summary="a soft gate on the ratio in place of a clip, steeper where the advantage is negative",
        paper="SAPO, arXiv:2511.20347",
        keys=_algorithm(
            _GRPO
            | {"loss.kind": "sapo", "loss.tau_positive": 1.0, "loss.tau_negative": 1.05}
            | {"aggregation": "sequence_mean"}
            | _NO_KL
        ),
    ),
    "dppo": Preset(
        summary="no clip; a token leaves the loss when its probability moved too far from the engine's",
        paper="DPPO (binary TV), arXiv:2602.04879, with the settings of prime-rl",
        keys=_algorithm(
            {
                "advantage.kind": "dr_grpo",
                "loss.kind": "dppo",
                "loss.max_decrease": 0.2,
                "loss.max_increase": 0.2,
                "loss.log_ratio_coef": 1e-3,
                "aggregation": "token_mean",
                "correction.ratio_base": "behavior",
            }
            | _NO_KL
        ),
    ),
    "rloo": Preset(
        summary="REINFORCE with the mean of the others as baseline; a completion is one action",
        paper="RLOO, arXiv:2402.14740",
        keys=_algorithm(
            {
                "advantage.kind": "rloo",
                "loss.kind": "policy_gradient",
                "aggregation": "constant_length",
                "kl_estimator": "k1",
                "kl_placement": "reward",
            }
        ),
        left_out="`algorithm.kl_coef` (0.03 there, with a learned reward)",
    ),
    "reinforce_pp": Preset(
        summary="no baseline; rewards with their KL are normalised over all tokens of the step",
        paper="REINFORCE++, arXiv:2501.03262",
        keys=_algorithm(
            {
                "advantage.kind": "batch_norm",
                "advantage.baseline": "none",
                "advantage.weighting": "token",
            }
            | _CLIPPED
            | {"aggregation": "token_mean", "kl_estimator": "k1", "kl_placement": "reward"}
        ),
        left_out="`algorithm.kl_coef`",
    ),
    "reinforce_pp_baseline": Preset(
        summary="the group's mean as baseline, then normalised over all tokens of the step",
        paper="REINFORCE++ with baseline, arXiv:2501.03262",
        keys=_algorithm(
            {
                "advantage.kind": "batch_norm",
                "advantage.baseline": "group",
                "advantage.weighting": "token",
            }
            | _CLIPPED
            | {"aggregation": "token_mean", "kl_estimator": "k2", "kl_placement": "loss"}
        ),
        left_out="`algorithm.kl_coef`",
    ),
    "maxrl": Preset(
        summary="centred rewards divided by the group's mean, which approaches maximum likelihood",
        paper="MaxRL, arXiv:2602.02710",
        keys=_algorithm({"advantage.kind": "maxrl"}),
    ),
    "gdpo": Preset(
        summary="each check's reward is normalised in its group before the weighted sum is normalised over the step",
        paper="GDPO, arXiv:2601.05242",
        keys=_algorithm({"advantage.kind": "gdpo"}),
        left_out="two or more checks with role reward; with one check it is GRPO, normalised twice",
    ),
    "pass_at_k": Preset(
        summary="a group scores as the best of k of its completions, which rewards exploration",
        paper="Pass@k training, arXiv:2508.10751",
        keys=_algorithm({"advantage.kind": "pass_at_k", "advantage.k": 4, "advantage.threshold": 1.0}),
    ),
    "decoupled_ppo": Preset(
        summary="clips against the learner's policy before the step, with importance weights for the engine's",
        paper="AReaL, arXiv:2505.24298",
        keys=_algorithm(
            _CLIPPED
            | {
                "correction.ratio_base": "proximal",
                "correction.weight": "token",
                "correction.bound": "mask",
                "correction.weight_min": 0.0,
                "correction.weight_max": 5.0,
            }
        ),
        left_out="`rollout.max_staleness`; the bound of 5 is from AReaL's recipes, the paper has none",
    ),
    "icepop": Preset(
        summary="tokens on which engine and learner disagree leave the loss",
        paper="Ring-1T, arXiv:2510.18855",
        keys=_algorithm(
            {
                "correction.ratio_base": "proximal",
                "correction.weight": "token",
                "correction.bound": "mask",
                "correction.weight_min": 0.5,
                "correction.weight_max": 5.0,
            }
        ),
    ),
    "scalerl": Preset(
        summary="CISPO against the engine's log-probs, mean per prompt, advantages over the step's deviation, "
        "groups without a signal and prompts with a solve rate of 0.9 dropped",
        paper="ScaleRL, arXiv:2510.13786",
        keys=_algorithm(
            {
                "advantage.kind": "batch_norm",
                "advantage.baseline": "group",
                "advantage.weighting": "sequence",
                "loss.kind": "cispo",
                "loss.ratio_min": 0.0,
                "loss.ratio_max": 5.0,
                "aggregation": "prompt_mean",
                "zero_variance": "drop",
                "correction.ratio_base": "behavior",
            }
            | _NO_KL
        )
        | {"data.difficulty.retire_solve_rate": 0.9},
        left_out="`rollout.max_staleness` (8 there); rlvr always uses its float32 logits",
    ),
}
