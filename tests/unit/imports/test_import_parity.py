"""The algorithm that a recipe gets computes what the trainer does: loss and gradient equal those of tests/parity."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr.imports.records import Imported
from tests.parity import prime_rl, trl, verl
from tests.parity.case import AdvantageCase, Case, Claim, LossCase
from tests.parity.ours import MAX_COMPLETION_TOKENS
from tests.unit.imports.import_cases import import_keys

CLOSE = 1e-9
ACTOR = "actor_rollout_ref.actor"
CORRECTION = "algorithm.rollout_correction"


def algorithm(imported: Imported) -> dict[str, Any]:
    return yaml.safe_load(imported.recipe).get("algorithm", {})


def assert_equal(case: Case) -> None:
    difference = case.measure()
    assert difference.value <= CLOSE * max(1.0, difference.value_scale)
    if difference.gradient is not None:
        assert difference.gradient <= CLOSE * max(1.0, difference.gradient_scale)


def loss_case(imported: Imported, reference: Any) -> LossCase:
    return LossCase(
        peer="", algorithm="", settings="", claim=Claim.EQUAL, reference=reference, ours=algorithm(imported)
    )


TRL: list[dict[str, Any]] = [
    {},
    {"loss_type": "grpo", "epsilon": 0.1, "epsilon_high": 0.3},
    {"loss_type": "dr_grpo", "delta": 1.6},
    {"loss_type": "cispo", "epsilon_high": 1.5},
    {"loss_type": "sapo", "sapo_temperature_neg": 1.2},
    {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    {"beta": 0.04, "use_bias_correction_kl": False},
    {"entropy_coef": 0.01},
    {"off_policy_mask_threshold": 0.1},
    {"vllm_importance_sampling_mode": "sequence_mask"},
    {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 1.5},
    {"vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_min": 0.5},
]


@pytest.mark.parametrize("keys", TRL, ids=lambda keys: ",".join(keys) or "defaults")
def test_an_imported_config_of_trl_has_trl_s_loss(keys: dict[str, Any], tmp_path: Path) -> None:
    vllm = {"use_vllm": True} if any(key.startswith("vllm") for key in keys) else {}
    imported = import_keys("trl", keys | vllm, tmp_path)
    chosen = {"epsilon_high": keys.get("epsilon", 0.2), "max_completion_length": MAX_COMPLETION_TOKENS} | keys
    assert_equal(loss_case(imported, partial(trl.loss, settings=trl.Settings(**chosen))))


VERL: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({f"{ACTOR}.clip_ratio_high": 0.28, f"{ACTOR}.clip_ratio_c": 5.0}, {"clip_ratio_high": 0.28, "clip_ratio_c": 5.0}),
    ({f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean"}, {"loss_agg_mode": "seq-mean-token-mean"}),
    (
        {f"{ACTOR}.loss_agg_mode": "seq-mean-token-sum-norm", f"{ACTOR}.loss_scale_factor": MAX_COMPLETION_TOKENS},
        {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": MAX_COMPLETION_TOKENS},
    ),
    ({f"{ACTOR}.policy_loss.loss_mode": "gspo"}, {"loss_mode": "gspo"}),
    ({f"{ACTOR}.policy_loss.loss_mode": "sapo"}, {"loss_mode": "sapo"}),
    (
        {f"{ACTOR}.policy_loss.loss_mode": "cispo", f"{ACTOR}.clip_ratio_low": 0.5},
        {"loss_mode": "cispo", "clip_ratio_low": 0.5},
    ),
    ({f"{ACTOR}.use_kl_loss": True, f"{ACTOR}.kl_loss_coef": 0.01}, {"kl_loss_coef": 0.01}),
    ({f"{ACTOR}.use_kl_loss": True, f"{ACTOR}.kl_loss_type": "mse"}, {"kl_loss_coef": 0.001, "kl_loss_type": "k2"}),
    ({f"{ACTOR}.entropy_coeff": 0.01}, {"entropy_coeff": 0.01}),
    (
        {f"{CORRECTION}.rollout_is": "token", f"{CORRECTION}.rollout_is_threshold": 1.5},
        {"rollout_is": "token", "rollout_is_threshold": (1.5,)},
    ),
    (
        {f"{CORRECTION}.rollout_is": "token", f"{CORRECTION}.rollout_is_threshold": "0.5_1.5"},
        {"rollout_is": "token", "rollout_is_threshold": (0.5, 1.5)},
    ),
    (
        {f"{CORRECTION}.rollout_rs": "seq_mean_k1", f"{CORRECTION}.rollout_rs_threshold": "0.8_1.5"},
        {"rollout_rs": "seq_mean_k1", "rollout_rs_threshold": (0.8, 1.5)},
    ),
    ({f"{CORRECTION}.bypass_mode": True}, {"bypass_mode": "ppo_clip"}),
    (
        {
            f"{CORRECTION}.bypass_mode": True,
            f"{CORRECTION}.loss_type": "reinforce",
            f"{CORRECTION}.rollout_is": "token",
            f"{CORRECTION}.rollout_is_threshold": 1.5,
        },
        {"bypass_mode": "reinforce", "rollout_is": "token", "rollout_is_threshold": (1.5,)},
    ),
]


@pytest.mark.parametrize(("keys", "theirs"), VERL, ids=[",".join(theirs) or "defaults" for _, theirs in VERL])
def test_an_imported_config_of_verl_has_verl_s_loss(
    keys: dict[str, Any], theirs: dict[str, Any], tmp_path: Path
) -> None:
    imported = import_keys("verl", keys | {"data.max_response_length": MAX_COMPLETION_TOKENS}, tmp_path)
    assert_equal(loss_case(imported, partial(verl.loss, settings=verl.Settings(**theirs))))


@pytest.mark.parametrize("keys", [{}, {"dppo_mask_low": 0.05, "dppo_mask_high": 0.1, "kl_tau": 0.1}], ids=str)
def test_an_imported_config_of_prime_rl_has_its_loss(keys: dict[str, Any], tmp_path: Path) -> None:
    imported = import_keys("prime-rl", {f"trainer.loss.{key}": value for key, value in keys.items()}, tmp_path)
    assert_equal(loss_case(imported, partial(prime_rl.loss, settings=prime_rl.Settings(**keys))))


ADVANTAGES: list[tuple[str, dict[str, Any], Any, bool]] = [
    ("trl", {}, partial(trl.advantages, scale_rewards="group"), True),
    ("trl", {"scale_rewards": False}, partial(trl.advantages, scale_rewards="none"), True),
    ("trl", {"multi_objective_aggregation": "normalize_then_sum"}, trl.decoupled_advantages, False),
    ("verl", {}, verl.grpo_advantages, False),
    ("verl", {"algorithm.norm_adv_by_std_in_grpo": False}, partial(verl.grpo_advantages, by_std=False), False),
    ("verl", {"algorithm.adv_estimator": "rloo"}, verl.rloo_advantages, False),
    (
        "verl",
        {"algorithm.adv_estimator": "reinforce_plus_plus"},
        partial(verl.reinforce_plus_plus_advantages, with_baseline=False),
        False,
    ),
    (
        "verl",
        {"algorithm.adv_estimator": "reinforce_plus_plus_baseline"},
        partial(verl.reinforce_plus_plus_advantages, with_baseline=True),
        False,
    ),
    ("prime-rl", {}, prime_rl.grpo_advantages, False),
    ("prime-rl", {"orchestrator.algo.type": "max_rl"}, prime_rl.max_rl_advantages, False),
]


@pytest.mark.parametrize(
    ("trainer", "keys", "reference", "has_unjudged"), ADVANTAGES, ids=[f"{a[0]}-{[*a[1].values()]}" for a in ADVANTAGES]
)
def test_imported_advantages_are_the_trainer_s(
    trainer: str, keys: dict[str, Any], reference: Any, has_unjudged: bool, tmp_path: Path
) -> None:
    ours = algorithm(import_keys(trainer, keys, tmp_path)).get("advantage", {"kind": "grpo"})
    assert_equal(
        AdvantageCase(peer="", algorithm="", settings="", reference=reference, ours=ours, has_unjudged=has_unjudged)
    )
