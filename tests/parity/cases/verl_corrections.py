"""verl: rollout correction (importance weights, rejection) and bypass mode."""

from tests.parity.case import Case, Claim
from tests.parity.cases.verl import KL_COEF, verl_case

GEOMETRIC = (0.8, 1.25)  # bounds of behavior / proximal; ours are of proximal / behavior
OURS_GEOMETRIC = {"geometric_min": 1 / GEOMETRIC[1], "geometric_max": 1 / GEOMETRIC[0]}

CASES: tuple[Case, ...] = (
    verl_case(
        "TIS token",
        "rollout_is token, 1.5",
        {"correction": {"weight": "token", "weight_max": 1.5}},
        rollout_is="token",
        rollout_is_threshold=(1.5,),
    ),
    verl_case(
        "TIS sequence",
        "rollout_is sequence, 2.0",
        {"correction": {"weight": "sequence", "weight_max": 2.0}},
        rollout_is="sequence",
        rollout_is_threshold=(2.0,),
    ),
    verl_case(
        "IcePop, KL",
        "rollout_is token 0.5_1.5, kl_loss",
        {"correction": {"weight": "token", "bound": "mask", "weight_min": 0.5, "weight_max": 1.5}, "kl_coef": KL_COEF},
        rollout_is="token",
        rollout_is_threshold=(0.5, 1.5),
        kl_loss_coef=KL_COEF,
    ),
    verl_case(
        "geo-RS",
        "rollout_rs seq_mean_k1 0.8_1.25",
        {"correction": OURS_GEOMETRIC},
        rollout_rs="seq_mean_k1",
        rollout_rs_threshold=GEOMETRIC,
    ),
    verl_case(
        "geo-RS, TIS",
        "the same, rollout_is token 2.0, seq means",
        {"correction": {"weight": "token", "weight_max": 2.0, **OURS_GEOMETRIC}, "aggregation": "sequence_mean"},
        rollout_rs="seq_mean_k1",
        rollout_rs_threshold=GEOMETRIC,
        rollout_is="token",
        loss_agg_mode="seq-mean-token-mean",
    ),
    verl_case(
        "geo-RS",
        "the same, use_v1 False",
        {"correction": OURS_GEOMETRIC},
        rollout_rs="seq_mean_k1",
        rollout_rs_threshold=GEOMETRIC,
        counts_after_rejection=True,
        claim=Claim.DIFFERS,
        reason="verl's older trainer counts tokens after the rejection; its default one and ours before",
    ),
    verl_case(
        "geo-RS, KL",
        "rollout_rs seq_mean_k1, kl_loss",
        {"correction": OURS_GEOMETRIC, "kl_coef": KL_COEF},
        rollout_rs="seq_mean_k1",
        rollout_rs_threshold=GEOMETRIC,
        kl_loss_coef=KL_COEF,
        claim=Claim.DIFFERS,
        reason="a rejected row loses its KL too in verl; ours keeps it on every token",
    ),
    verl_case(
        "token mask",
        "rollout_rs token_k1 0.67_1.5",
        {"correction": {"weight": "token", "bound": "mask", "weight_min": 1 / 1.5, "weight_max": 1 / 0.67}},
        rollout_rs="token_k1",
        rollout_rs_threshold=(0.67, 1.5),
        claim=Claim.DIFFERS,
        reason="the tokens that are left have no weight in verl; ours (IcePop) keep theirs",
    ),
    verl_case("bypass", "bypass_mode, ppo_clip", {"correction": {"ratio_base": "behavior"}}, bypass_mode="ppo_clip"),
    verl_case(
        "bypass",
        "bypass reinforce, rollout_is token 1.5",
        {"loss": {"kind": "cispo", "ratio_min": 0.0, "ratio_max": 1.5}, "correction": {"ratio_base": "behavior"}},
        bypass_mode="reinforce",
        rollout_is="token",
        rollout_is_threshold=(1.5,),
    ),
)
