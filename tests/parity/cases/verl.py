"""verl: losses, aggregations, KL, advantages."""

from functools import partial
from typing import Any

from rlvr.config.sections.algorithm import KlEstimator
from tests.parity import verl
from tests.parity.case import AdvantageCase, Case, Claim, LossCase, OverlongCase, RewardKlCase
from tests.parity.number import still
from tests.parity.ours import MAX_COMPLETION_TOKENS
from tests.parity.rows import Row, Spread

PEER = "verl"
DUAL = {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
KL_COEF = 0.01


def verl_case(algorithm: str, settings: str, ours: dict[str, Any], **theirs: Any) -> LossCase:
    """A case of `ppo_loss`; unset fields have verl's defaults, with clip_ratio_high 0.28."""
    known = {"claim", "reason", "spread"}
    about = {key: theirs.pop(key) for key in known & set(theirs)}
    chosen: dict[str, Any] = {"clip_ratio_high": 0.28, **theirs}
    return LossCase(
        peer=PEER,
        algorithm=algorithm,
        settings=settings,
        reference=partial(verl.loss, settings=verl.Settings(**chosen)),
        ours={"loss": DUAL, **ours},
        **about,
    )


def _reward_kl(row: Row, *, kind: str) -> float:
    """verl/trainer/ppo/ray_trainer.py, `apply_kl_penalty`, summed over the row: beta * KL(old, ref)."""
    estimates = [verl.kl(a, r, kind) for a, r in zip(row.proximal_T, row.ref_T, strict=True)]
    return KL_COEF * sum(still(estimate) for estimate in estimates)


LOSSES = [
    verl_case("PPO clip", "vanilla, clip_ratio_c 3, token-mean", {}, spread=Spread(step=0.6)),
    verl_case(
        "PPO clip",
        "vanilla, seq-mean-token-mean",
        {"aggregation": "sequence_mean"},
        loss_agg_mode="seq-mean-token-mean",
    ),
    verl_case(
        "Dr. GRPO",
        "seq-mean-token-sum-norm, factor = limit",
        {"aggregation": "constant_length"},
        loss_agg_mode="seq-mean-token-sum-norm",
        loss_scale_factor=MAX_COMPLETION_TOKENS,
    ),
    verl_case(
        "Dr. GRPO",
        "seq-mean-token-sum-norm, factor None",
        {"aggregation": "constant_length"},
        loss_agg_mode="seq-mean-token-sum-norm",
        claim=Claim.DIFFERS,
        reason="without loss_scale_factor verl divides by the batch's padded width; ours by the limit",
    ),
    verl_case(
        "GSPO",
        "gspo, clip 0.1 0.15",
        {"loss": {"kind": "gspo", "clip_low": 0.1, "clip_high": 0.15}, "aggregation": "sequence_mean"},
        loss_mode="gspo",
        clip_ratio_low=0.1,
        clip_ratio_high=0.15,
    ),
    verl_case(
        "GSPO",
        "gspo, token-mean configured",
        {"loss": {"kind": "gspo", "clip_low": 0.1, "clip_high": 0.15}},
        loss_mode="gspo",
        clip_ratio_low=0.1,
        clip_ratio_high=0.15,
        claim=Claim.DIFFERS,
        reason="verl aggregates gspo by seq-mean-token-mean whatever is configured; ours follows the setting",
    ),
    verl_case(
        "CISPO",
        "cispo, clip 0.5 0.5 (relative)",
        {"loss": {"kind": "cispo", "ratio_min": 0.5, "ratio_max": 1.5}},
        loss_mode="cispo",
        clip_ratio_low=0.5,
        clip_ratio_high=0.5,
    ),
    verl_case(
        "SAPO", "sapo, tau 1.0 1.05", {"loss": {"kind": "sapo"}, "aggregation": "sequence_mean"}, loss_mode="sapo"
    ),
    verl_case(
        "DPPO",
        "dppo_tv 0.2, clip_ratio_c 20",
        {"loss": {"kind": "dppo", "log_ratio_coef": 0.0}},
        loss_mode="dppo_tv",
        clip_ratio_high=0.2,
        clip_ratio_c=20.0,
        spread=Spread(engine=0.0),
        claim=Claim.SAME_GRADIENT,
        reason="verl reports ratio * A * log-prob with the ratio detached, ours ratio * A",
    ),
    verl_case("KL k3", "kl_loss low_var_kl", {"kl_coef": KL_COEF}, kl_loss_coef=KL_COEF),
    verl_case(
        "KL k1", "kl_loss k1", {"kl_coef": KL_COEF, "kl_estimator": "k1"}, kl_loss_coef=KL_COEF, kl_loss_type="k1"
    ),
    verl_case(
        "KL k2", "kl_loss k2", {"kl_coef": KL_COEF, "kl_estimator": "k2"}, kl_loss_coef=KL_COEF, kl_loss_type="k2"
    ),
    verl_case(
        "KL, ours k2",
        "kl_loss k3+",
        {"kl_coef": KL_COEF, "kl_estimator": "k2"},
        kl_loss_coef=KL_COEF,
        kl_loss_type="k3+",
        claim=Claim.SAME_GRADIENT,
        reason="verl reports k3 and takes the gradient of k2",
    ),
    verl_case(
        "KL k3, far",
        "kl_loss low_var_kl, k3 > 10",
        {"kl_coef": KL_COEF},
        kl_loss_coef=KL_COEF,
        spread=Spread(reference=2.0),
        claim=Claim.DIFFERS,
        reason="verl clamps k3 at 10, where its gradient ends; ours clamps only x at 20",
    ),
    verl_case(
        "entropy",
        "entropy_coeff, seq-mean-token-mean",
        {"entropy_coef": 0.01, "aggregation": "sequence_mean"},
        entropy_coeff=0.01,
        loss_agg_mode="seq-mean-token-mean",
    ),
]

REWARDS = [
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="grpo",
        reference=verl.grpo_advantages,
        ours={"kind": "grpo", "eps": 1e-6},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="grpo, norm_adv_by_std_in_grpo False",
        reference=partial(verl.grpo_advantages, by_std=False),
        ours={"kind": "dr_grpo"},
    ),
    AdvantageCase(peer=PEER, algorithm="RLOO", settings="rloo", reference=verl.rloo_advantages, ours={"kind": "rloo"}),
    AdvantageCase(
        peer=PEER,
        algorithm="REINFORCE++",
        settings="reinforce_plus_plus, gamma 1",
        reference=partial(verl.reinforce_plus_plus_advantages, with_baseline=False),
        ours={"kind": "batch_norm", "baseline": "none", "weighting": "token"},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="REINFORCE++",
        settings="reinforce_plus_plus_baseline",
        reference=partial(verl.reinforce_plus_plus_advantages, with_baseline=True),
        ours={"kind": "batch_norm", "baseline": "group", "weighting": "token"},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="GDPO",
        settings="gdpo",
        reference=verl.gdpo_advantages,
        ours={"kind": "gdpo", "eps": 1e-6},
        claim=Claim.DIFFERS,
        reason="verl's last step counts each rollout by its tokens; ours once, as TRL and the paper",
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="pass@k",
        settings="grpo_passk",
        reference=verl.pass_at_k_advantages,
        ours={"kind": "pass_at_k", "k": 2},
        claim=Claim.DIFFERS,
        reason="verl pays only the best rollout, best minus second best; ours takes all subsets of k",
    ),
    OverlongCase(
        peer=PEER,
        algorithm="overlong",
        settings="overlong_buffer 4, penalty_factor 0.5",
        reference=partial(verl.overlong, max_resp_len=MAX_COMPLETION_TOKENS, buffer_len=4, penalty_factor=0.5),
        buffer_tokens=4,
        penalty=0.5,
    ),
    RewardKlCase(
        peer=PEER,
        algorithm="KL in reward",
        settings="use_kl_in_reward, k1",
        reference=partial(_reward_kl, kind="k1"),
        estimator=KlEstimator.K1,
        coef=KL_COEF,
    ),
    RewardKlCase(
        peer=PEER,
        algorithm="KL in reward",
        settings="use_kl_in_reward, low_var_kl",
        reference=partial(_reward_kl, kind="low_var_kl"),
        estimator=KlEstimator.K3,
        coef=KL_COEF,
    ),
]

CASES: tuple[Case, ...] = (*LOSSES, *REWARDS)
