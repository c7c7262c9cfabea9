"""SkyRL."""

from functools import partial
from typing import Any

from tests.parity import skyrl
from tests.parity.case import AdvantageCase, Case, Claim, LossCase
from tests.parity.ours import MAX_COMPLETION_TOKENS

PEER = "SkyRL"
CLIP = {"kind": "clipped", "clip_low": 0.2, "clip_high": 0.28}


def _case(algorithm: str, settings: str, ours: dict[str, Any], **theirs: Any) -> LossCase:
    about = {key: theirs.pop(key) for key in {"claim", "reason"} & set(theirs)}
    chosen: dict[str, Any] = {"eps_clip_high": 0.28, **theirs}
    return LossCase(
        peer=PEER,
        algorithm=algorithm,
        settings=settings,
        reference=partial(skyrl.loss, settings=skyrl.Settings(**chosen)),
        ours={"loss": CLIP, **ours},
        **about,
    )


CASES: tuple[Case, ...] = (
    _case("PPO clip", "regular, token_mean", {}),
    _case("PPO clip", "regular, sequence_mean", {"aggregation": "sequence_mean"}, loss_reduction="sequence_mean"),
    _case(
        "Dr. GRPO",
        "seq_mean_token_sum_norm, max_seq_len 12",
        {"aggregation": "constant_length"},
        loss_reduction="seq_mean_token_sum_norm",
        max_seq_len=MAX_COMPLETION_TOKENS,
    ),
    _case("PPO clip", "regular, prompt_mean", {"aggregation": "prompt_mean"}, loss_reduction="prompt_mean"),
    _case(
        "dual clip",
        "dual_clip 1.6, token_mean",
        {"loss": CLIP | {"dual_clip": 1.6}},
        policy_loss_type="dual_clip",
        clip_ratio_c=1.6,
    ),
    _case(
        "GSPO",
        "gspo 0.1 0.15, sequence_mean",
        {"loss": {"kind": "gspo", "clip_low": 0.1, "clip_high": 0.15}, "aggregation": "sequence_mean"},
        policy_loss_type="gspo",
        loss_reduction="sequence_mean",
        eps_clip_low=0.1,
        eps_clip_high=0.15,
    ),
    _case(
        "CISPO",
        "cispo 0.5 0.5 (relative)",
        {"loss": {"kind": "cispo", "ratio_min": 0.5, "ratio_max": 1.5}},
        policy_loss_type="cispo",
        cispo_eps_clip_low=0.5,
        cispo_eps_clip_high=0.5,
    ),
    _case(
        "DPPO",
        "dppo binary_tv 0.1 0.1",
        {
            "loss": {"kind": "dppo", "max_decrease": 0.1, "max_increase": 0.1, "log_ratio_coef": 0.0},
            "correction": {"ratio_base": "behavior"},
        },
        policy_loss_type="dppo",
        delta_low=0.1,
        delta_high=0.1,
    ),
    _case(
        "TIS token",
        "tis token 1.5",
        {"correction": {"weight": "token", "weight_max": 1.5}},
        tis_ratio_type="token",
        tis_ratio_clip_high=1.5,
    ),
    _case(
        "TIS sequence",
        "tis sequence 2, prompt_mean",
        {"correction": {"weight": "sequence", "weight_max": 2.0}, "aggregation": "prompt_mean"},
        tis_ratio_type="sequence",
        tis_ratio_clip_high=2.0,
        loss_reduction="prompt_mean",
    ),
    _case(
        "geometric",
        "sequence_mask geometric 0.9 1.1",
        {"correction": {"geometric_min": 0.9, "geometric_max": 1.1}},
        sequence_mask_metric="geometric",
        sequence_mask_low=0.9,
        sequence_mask_high=1.1,
    ),
    _case(
        "product",
        "sequence_mask product 0.5 2",
        {"correction": {"weight": "sequence", "bound": "mask", "weight_min": 0.5, "weight_max": 2.0}},
        sequence_mask_metric="product",
        sequence_mask_low=0.5,
        sequence_mask_high=2.0,
        claim=Claim.DIFFERS,
        reason="SkyRL's mask alone gives the rows that are left no weight; ours (MIS) keeps it",
    ),
    _case(
        "IcePop",
        "tis token 1.5, token_mask 0.5 1.5",
        {"correction": {"weight": "token", "bound": "mask", "weight_min": 0.5, "weight_max": 1.5}},
        tis_ratio_type="token",
        tis_ratio_clip_high=1.5,
        token_mask_low=0.5,
        token_mask_high=1.5,
    ),
    _case(
        "KL k3",
        "kl_loss k3, sequence_mean",
        {"kl_coef": 0.01, "aggregation": "sequence_mean"},
        kl_loss_coef=0.01,
        loss_reduction="sequence_mean",
    ),
    _case(
        "KL k3",
        "kl_loss k3, token_mean",
        {"kl_coef": 0.01},
        kl_loss_coef=0.01,
        claim=Claim.DIFFERS,
        reason="SkyRL's KL is a mean over rows under every loss_reduction; ours is aggregated as the loss is",
    ),
    AdvantageCase(
        peer=PEER, algorithm="MaxRL", settings="maxrl", reference=skyrl.maxrl_advantages, ours={"kind": "maxrl"}
    ),
)
