"""NeMo RL."""

from functools import partial
from typing import Any

from tests.parity import nemo_rl
from tests.parity.case import AdvantageCase, Case, Claim, LossCase

PEER = "NeMo RL"
CLIP = {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.28}
IS = {"use_importance_sampling_correction": True}


def _case(algorithm: str, settings: str, ours: dict[str, Any], **theirs: Any) -> LossCase:
    about = {key: theirs.pop(key) for key in {"claim", "reason"} & set(theirs)}
    chosen: dict[str, Any] = {"ratio_clip_max": 0.28, **theirs}
    return LossCase(
        peer=PEER,
        algorithm=algorithm,
        settings=settings,
        reference=partial(nemo_rl.loss, settings=nemo_rl.Settings(**chosen)),
        ours={"loss": CLIP, **ours},
        **about,
    )


def _tis(kind: str, low: float, high: float) -> dict[str, Any]:
    return IS | {
        "truncated_importance_sampling_type": kind,
        "truncated_importance_sampling_ratio_min": low,
        "truncated_importance_sampling_ratio": high,
    }


LOSSES = [
    _case("PPO clip", "token_level_loss", {}),
    _case(
        "dual clip",
        "ratio_clip_c 1.6, sequence level",
        {"loss": CLIP | {"dual_clip": 1.6}, "aggregation": "sequence_mean"},
        ratio_clip_c=1.6,
        token_level_loss=False,
    ),
    _case(
        "GSPO, TIS",
        "sequence_level_importance_ratios, tis 2",
        {
            "loss": {"kind": "gspo", "clip_low": 0.1, "clip_high": 0.15},
            "aggregation": "sequence_mean",
            "correction": {"weight": "sequence", "weight_max": 2.0},
        },
        ratio_clip_min=0.1,
        ratio_clip_max=0.15,
        token_level_loss=False,
        sequence_level_importance_ratios=True,
        **_tis("tis", 0.0, 2.0),
    ),
    _case(
        "CISPO",
        "use_cispo 0.5 0.5 (relative)",
        {"loss": {"kind": "cispo", "ratio_min": 0.5, "ratio_max": 1.5}},
        use_cispo=True,
        ratio_clip_min=0.5,
        ratio_clip_max=0.5,
    ),
    _case("REINFORCE", "disable_ppo_ratio", {"loss": {"kind": "policy_gradient"}}, disable_ppo_ratio=True),
    _case(
        "TIS token",
        "tis 0.8 1.5",
        {"correction": {"weight": "token", "weight_min": 0.8, "weight_max": 1.5}},
        **_tis("tis", 0.8, 1.5),
    ),
    _case(
        "IcePop",
        "icepop 0.5 1.5",
        {"correction": {"weight": "token", "bound": "mask", "weight_min": 0.5, "weight_max": 1.5}},
        **_tis("icepop", 0.5, 1.5),
    ),
    _case(
        "seq-mask-tis",
        "seq-mask-tis 0.9 1.1",
        {"correction": {"weight": "token", "weight_max": 1e9, "geometric_min": 0.9, "geometric_max": 1.1}},
        **_tis("seq-mask-tis", 0.9, 1.1),
    ),
    _case(
        "KL k3",
        "reference_policy_kl_penalty 0.01",
        {"kl_coef": 0.01},
        reference_policy_kl_penalty=0.01,
        claim=Claim.DIFFERS,
        reason="the value is ours; NeMo RL adds the sampling's own gradient, KL times grad log-prob",
    ),
    _case(
        "KL, ours k2",
        "the same",
        {"kl_coef": 0.01, "kl_estimator": "k2"},
        reference_policy_kl_penalty=0.01,
        claim=Claim.SAME_GRADIENT,
        reason="k3 with the sampling's gradient has the gradient of k2",
    ),
    _case(
        "seq error",
        "seq_logprob_error_threshold 1.3",
        {"correction": {"geometric_min": 1 / 1.3, "geometric_max": 1.3}},
        seq_logprob_error_threshold=1.3,
        claim=Claim.DIFFERS,
        reason="a mean of e^|difference|, and dropped rows leave the denominators; ours has the geometric mask",
    ),
]

CASES: tuple[Case, ...] = (
    *LOSSES,
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="grpo, leave-one-out (its default)",
        reference=nemo_rl.grpo_advantages,
        ours={"kind": "grpo", "eps": 1e-6},
        claim=Claim.DIFFERS,
        reason="NeMo RL leaves each rollout out of its own mean and deviation; ours is one of each a group",
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="grpo, use_leave_one_out_baseline False",
        reference=partial(nemo_rl.grpo_advantages, leave_one_out=False),
        ours={"kind": "grpo", "eps": 1e-6},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="RLOO",
        settings="grpo, normalize_rewards False",
        reference=partial(nemo_rl.grpo_advantages, normalize=False),
        ours={"kind": "rloo"},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="REINFORCE++",
        settings="reinforce_plus_plus, minus_baseline",
        reference=nemo_rl.reinforce_plus_plus_advantages,
        ours={"kind": "batch_norm", "baseline": "group", "weighting": "token"},
        claim=Claim.DIFFERS,
        reason="NeMo RL's variance has n, ours (and verl's) n - 1",
    ),
)
