"""prime-rl."""

from functools import partial

from tests.parity import prime_rl
from tests.parity.case import AdvantageCase, Case, Claim, LossCase

PEER = "prime-rl"
BEHAVIOR = {"correction": {"ratio_base": "behavior"}}

CASES: tuple[Case, ...] = (
    LossCase(
        peer=PEER,
        algorithm="DPPO",
        settings="default: mask 0.2 0.2, kl_tau 1e-3",
        reference=partial(prime_rl.loss, settings=prime_rl.Settings()),
        ours={"loss": {"kind": "dppo"}, **BEHAVIOR},
    ),
    LossCase(
        peer=PEER,
        algorithm="DPPO",
        settings="default: mask 0.05 0.1, kl_tau 0.1",
        reference=partial(
            prime_rl.loss, settings=prime_rl.Settings(dppo_mask_low=0.05, dppo_mask_high=0.1, kl_tau=0.1)
        ),
        ours={"loss": {"kind": "dppo", "max_decrease": 0.05, "max_increase": 0.1, "log_ratio_coef": 0.1}, **BEHAVIOR},
    ),
    LossCase(
        peer=PEER,
        algorithm="IPO",
        settings="ipo_threshold 0.1",
        reference=partial(prime_rl.loss, settings=prime_rl.Settings(ipo_threshold=0.1)),
        ours={"loss": {"kind": "dppo", "max_decrease": 0.1, "max_increase": 0.1}, **BEHAVIOR},
        claim=Claim.DIFFERS,
        reason="ipo drops a token that moved either way; ours only one that moved with its advantage",
    ),
    AdvantageCase(
        peer=PEER, algorithm="advantage", settings="grpo", reference=prime_rl.grpo_advantages, ours={"kind": "dr_grpo"}
    ),
    AdvantageCase(
        peer=PEER,
        algorithm="MaxRL",
        settings="max_rl (eps 1e-12 on our side)",
        reference=prime_rl.max_rl_advantages,
        ours={"kind": "maxrl", "eps": 1e-12},
    ),
)
