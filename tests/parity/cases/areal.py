"""AReaL."""

from functools import partial
from typing import Any

from tests.parity import areal
from tests.parity.case import AdvantageCase, Case, Claim, LossCase

PEER = "AReaL"
CLIP = {"kind": "clipped", "clip_low": 0.4, "clip_high": 0.4}


def _case(algorithm: str, settings: str, ours: dict[str, Any], **theirs: Any) -> LossCase:
    about = {key: theirs.pop(key) for key in {"claim", "reason"} & set(theirs)}
    return LossCase(
        peer=PEER,
        algorithm=algorithm,
        settings=settings,
        reference=partial(areal.loss, settings=areal.Settings(**theirs)),
        ours={"loss": CLIP, **ours},
        **about,
    )


CASES: tuple[Case, ...] = (
    _case(
        "decoupled",
        "rejection ratio, mask, upper 1.5",
        {"correction": {"weight": "token", "bound": "mask", "weight_max": 1.5}},
        rejection_upper=1.5,
    ),
    _case(
        "decoupled",
        "rejection ratio, clamp 0.8 1.5, c_clip 1.6",
        {"loss": CLIP | {"dual_clip": 1.6}, "correction": {"weight": "token", "weight_min": 0.8, "weight_max": 1.5}},
        rejection_upper=1.5,
        rejection_lower=0.8,
        rejection_action="clamp",
        c_clip=1.6,
    ),
    _case(
        "GSPO",
        "importance_sampling_level sequence",
        {"loss": {"kind": "gspo", "clip_low": 0.1, "clip_high": 0.15}},
        importance_sampling_level="sequence",
        eps_clip=0.1,
        eps_clip_higher=0.15,
    ),
    _case(
        "decoupled",
        "rejection ratio, sequence, upper 1.1",
        {"correction": {"weight": "sequence", "bound": "mask", "weight_max": 1.1}},
        rejection_upper=1.1,
        rejection_level="sequence",
        claim=Claim.DIFFERS,
        reason="AReaL's weight of a sequence is the geometric mean of its tokens'; ours the product",
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="reward_norm group",
        reference=areal.group_advantages,
        ours={"kind": "grpo", "eps": 1e-5},
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="advantage",
        settings="gsm8k_grpo.yaml",
        reference=areal.gsm8k_advantages,
        ours={"kind": "grpo", "eps": 1e-5},
        claim=Claim.DIFFERS,
        reason="AReaL's recipe normalises twice, in the group and then over the batch's tokens",
    ),
)
