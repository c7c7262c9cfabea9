"""Other trainers' names for the algorithm, the reward and the corrections; for error messages only."""

from rlvr.config.messages.peer_names import PeerName

_KIND = "algorithm.loss.kind"
_LOW = "algorithm.loss.clip_low"
_HIGH = "algorithm.loss.clip_high"
_DUAL = "algorithm.loss.dual_clip"
_RATIO_MIN = "algorithm.loss.ratio_min"
_RATIO_MAX = "algorithm.loss.ratio_max"
_TAU_POSITIVE = "algorithm.loss.tau_positive"
_TAU_NEGATIVE = "algorithm.loss.tau_negative"
_DECREASE = "algorithm.loss.max_decrease"
_INCREASE = "algorithm.loss.max_increase"
_ADVANTAGE = "algorithm.advantage.kind"
_AGGREGATION = "algorithm.aggregation"
_KL = "algorithm.kl_coef"
_ESTIMATOR = "algorithm.kl_estimator"
_PLACEMENT = "algorithm.kl_placement"
_ENTROPY = "algorithm.entropy_coef"
_DYNAMIC = "algorithm.dynamic_sampling.enabled"
_REFILL = "algorithm.dynamic_sampling.max_refill_factor"
_ZERO = "algorithm.zero_variance"
_BASE = "algorithm.correction.ratio_base"
_WEIGHT = "algorithm.correction.weight"
_BOUND = "algorithm.correction.bound"
_WEIGHT_MIN = "algorithm.correction.weight_min"
_WEIGHT_MAX = "algorithm.correction.weight_max"
_GEO_MIN = "algorithm.correction.geometric_min"
_GEO_MAX = "algorithm.correction.geometric_max"
_TRUNCATED = "reward.truncated"
_BUFFER = "reward.overlong_buffer_tokens"
_PENALTY = "reward.overlong_penalty"

_BOTH_CLIPS = "it sets both sides; rlvr has clip_low and clip_high"
_CISPO_HERE = "for CISPO rlvr has algorithm.loss.ratio_min and ratio_max"
_BETA = "its default in rlvr is 0, and then no reference model is loaded"
_KL_OFF = "0 is off, and then no reference model is loaded"
_IN_REWARD = "true is reward"
_GEOMETRIC = "the geometric mean of a completion's ratios"
_ABOVE_FIRST = "it counts generation batches including the first; rlvr counts only the replacements"
_BOUNDS_PAIR = "a pair; rlvr has weight_min and weight_max"
_INVERSE = "its bounds are on engine over learner, rlvr's on learner over engine"
_MASK = "true is mask"
_GSPO = "sequence is gspo, token is clipped"
_RELATIVE = "it is relative to 1, rlvr's is the ratio itself"
_MEAN_ONLY = "false is dr_grpo"
_NORMS = "per group is grpo (with deviation) or dr_grpo (without), over the batch is batch_norm"

ALGORITHM_NAMES: dict[str, PeerName] = {
    # the loss and its bounds
    "epsilon": PeerName("TRL", _LOW, "clip_high is the other side"),
    "epsilon_high": PeerName("TRL", _HIGH, "with loss_type cispo it is algorithm.loss.ratio_max"),
    "eps_clip": PeerName("OpenRLHF, AReaL", _LOW, _BOTH_CLIPS),
    "clip_ratio": PeerName("verl", _LOW, _BOTH_CLIPS),
    "clip_eps": PeerName("TRL", _LOW, _BOTH_CLIPS),
    "eps_clip_low": PeerName("SkyRL", _LOW),
    "eps_clip_high": PeerName("SkyRL", _HIGH),
    "eps_clip_higher": PeerName("AReaL", _HIGH),
    "eps_clip_low_high": PeerName("OpenRLHF", _LOW, "a pair; rlvr has clip_low and clip_high"),
    "clip_ratio_low": PeerName("verl", _LOW, f"{_CISPO_HERE}: ratio_min is 1 minus this"),
    "clip_ratio_high": PeerName("verl", _HIGH, f"{_CISPO_HERE}: ratio_max is 1 plus this"),
    "ratio_clip_min": PeerName("NeMo RL", _LOW, f"{_CISPO_HERE}: ratio_min is 1 minus this"),
    "ratio_clip_max": PeerName("NeMo RL", _HIGH, f"{_CISPO_HERE}: ratio_max is 1 plus this"),
    "delta": PeerName("TRL", _DUAL, "it bounds the ratio; where A < 0 that is the dual clip"),
    "clip_ratio_c": PeerName("verl, SkyRL", _DUAL, "verl always applies it, at 3"),
    "ratio_clip_c": PeerName("NeMo RL", _DUAL),
    "c_clip": PeerName("AReaL", _DUAL),
    "importance_sampling_level": PeerName("TRL, AReaL", _KIND, _GSPO),
    "sequence_level_importance_ratios": PeerName("NeMo RL", _KIND, "true is gspo"),
    "policy_loss_type": PeerName("SkyRL, OpenRLHF", _KIND, "regular and ppo are clipped"),
    "loss_mode": PeerName("verl", _KIND, "vanilla is clipped"),
    "loss.type": PeerName("prime-rl", _KIND, "default is dppo"),
    "use_cispo": PeerName("NeMo RL", _KIND, "true is cispo"),
    "use_sapo_loss": PeerName("AReaL", _KIND, "true is sapo"),
    "disable_ppo_ratio": PeerName("NeMo RL", _KIND, "true is policy_gradient"),
    "cispo_eps_clip_low": PeerName("SkyRL", _RATIO_MIN, f"{_RELATIVE}: 1 minus this"),
    "cispo_eps_clip_high": PeerName("SkyRL", _RATIO_MAX, f"{_RELATIVE}: 1 plus this"),
    "sapo_temperature_pos": PeerName("TRL", _TAU_POSITIVE),
    "sapo_temperature_neg": PeerName("TRL", _TAU_NEGATIVE),
    "sapo_tau_pos": PeerName("AReaL", _TAU_POSITIVE),
    "sapo_tau_neg": PeerName("AReaL", _TAU_NEGATIVE),
    "tau_pos": PeerName("verl, SkyRL", _TAU_POSITIVE),
    "tau_neg": PeerName("verl, SkyRL", _TAU_NEGATIVE),
    "dppo_mask_low": PeerName("prime-rl", _DECREASE),
    "dppo_mask_high": PeerName("prime-rl", _INCREASE),
    "delta_low": PeerName("SkyRL", _DECREASE),
    "delta_high": PeerName("SkyRL", _INCREASE),
    "kl_tau": PeerName("prime-rl", "algorithm.loss.log_ratio_coef"),
    # aggregation
    "loss_type": PeerName(
        "TRL",
        _AGGREGATION,
        "dapo is token_mean, grpo is sequence_mean, dr_grpo is constant_length; cispo and sapo are algorithm.loss.kind",
    ),
    "loss_agg_mode": PeerName(
        "verl",
        _AGGREGATION,
        "token-mean is token_mean, seq-mean-token-mean is sequence_mean, seq-mean-token-sum-norm is constant_length",
    ),
    "loss_scale_factor": PeerName("verl", _AGGREGATION, "constant_length divides by the limit"),
    "loss_reduction": PeerName("SkyRL", _AGGREGATION, "seq_mean_token_sum_norm is constant_length"),
    "token_level_loss": PeerName("NeMo RL", _AGGREGATION, "true is token_mean"),
    # KL and entropy
    "beta": PeerName("TRL", _KL, _BETA),
    "kl_loss_coef": PeerName("verl, SkyRL", _KL),
    "kl_ctrl.kl_coef": PeerName("verl", _KL, "verl puts it in the reward: kl_placement=reward"),
    "use_kl_loss": PeerName("verl, SkyRL", _KL, _KL_OFF),
    "init_kl_coef": PeerName("OpenRLHF", _KL, "where it goes is algorithm.kl_placement"),
    "kl.init_coef": PeerName("OpenRLHF", _KL, "where it goes is algorithm.kl_placement"),
    "kl_ctl": PeerName("AReaL", _KL, "AReaL puts it in the reward: kl_placement=reward"),
    "reference_policy_kl_penalty": PeerName("NeMo RL", _KL),
    "kl_loss_type": PeerName("verl", _ESTIMATOR, "low_var_kl is k3"),
    "kl_penalty": PeerName("verl", _ESTIMATOR, "kl is k1, mse is k2, low_var_kl is k3"),
    "kl_estimator_type": PeerName("SkyRL", _ESTIMATOR),
    "reference_policy_kl_type": PeerName("NeMo RL", _ESTIMATOR),
    "kl.estimator": PeerName("OpenRLHF", _ESTIMATOR),
    "use_kl_in_reward": PeerName("verl, SkyRL, NeMo RL", _PLACEMENT, _IN_REWARD),
    "kl.use_loss": PeerName("OpenRLHF", _PLACEMENT, "true is loss, false is reward"),
    "entropy_coeff": PeerName("verl", _ENTROPY),
    "entropy_loss_coef": PeerName("SkyRL", _ENTROPY),
    "use_entropy_loss": PeerName("SkyRL", _ENTROPY, "0 is off"),
    # the advantage
    "scale_rewards": PeerName("TRL", _ADVANTAGE, "group is grpo, none is dr_grpo, batch is batch_norm"),
    "adv_estimator": PeerName("verl", _ADVANTAGE, "reinforce_plus_plus is batch_norm with baseline none"),
    "adv_estimator.name": PeerName("NeMo RL", _ADVANTAGE, "reinforce_plus_plus is batch_norm with baseline none"),
    "advantage_estimator": PeerName(
        "OpenRLHF, SkyRL", _ADVANTAGE, "reinforce_baseline is batch_norm, group_norm is grpo"
    ),
    "advantage.estimator": PeerName("OpenRLHF", _ADVANTAGE, "reinforce_baseline is batch_norm, group_norm is grpo"),
    "algo.type": PeerName("prime-rl", _ADVANTAGE, "grpo is dr_grpo, max_rl is maxrl"),
    "norm_adv_by_std_in_grpo": PeerName("verl", _ADVANTAGE, _MEAN_ONLY),
    "grpo_norm_by_std": PeerName("SkyRL", _ADVANTAGE, _MEAN_ONLY),
    "no_std_norm": PeerName("OpenRLHF", _ADVANTAGE, "true is dr_grpo"),
    "normalize_rewards": PeerName("NeMo RL", _ADVANTAGE, _MEAN_ONLY),
    "use_leave_one_out_baseline": PeerName("NeMo RL", _ADVANTAGE, "true is rloo"),
    "normalize_advantages": PeerName("TRL", _ADVANTAGE, "true is batch_norm"),
    "advantage_batch_normalize": PeerName("SkyRL", _ADVANTAGE, "true is batch_norm"),
    "multi_objective_aggregation": PeerName("TRL", _ADVANTAGE, "normalize_then_sum is gdpo"),
    "adv_norm.mean_level": PeerName("AReaL", _ADVANTAGE, _NORMS),
    "adv_norm.std_level": PeerName("AReaL", _ADVANTAGE, _NORMS),
    "reward_norm.mean_level": PeerName("AReaL", _ADVANTAGE, _NORMS),
    "reward_norm.std_level": PeerName("AReaL", _ADVANTAGE, _NORMS),
    # groups without signal
    "filter_zero_advantages": PeerName("prime-rl", _ZERO, "true is drop"),
    "zero_variance_filter": PeerName("SkyRL", _ZERO, "true is drop"),
    "filter_groups.enable": PeerName("verl", _DYNAMIC),
    "use_dynamic_sampling": PeerName("NeMo RL", _DYNAMIC),
    "dynamic_sampling.type": PeerName("SkyRL", _DYNAMIC, "filter is true"),
    "dynamic_filtering": PeerName("OpenRLHF", _DYNAMIC),
    "dynamic_filtering_enable": PeerName("OpenRLHF", _DYNAMIC),
    "filter_groups.max_num_gen_batches": PeerName("verl", _REFILL, _ABOVE_FIRST),
    "dynamic_sampling_max_gen_batches": PeerName("NeMo RL", _REFILL, _ABOVE_FIRST),
    "max_sample_batches": PeerName("SkyRL", _REFILL, _ABOVE_FIRST),
    # corrections for the engine's mismatch
    "use_decoupled_loss": PeerName("AReaL", _BASE, "true is proximal"),
    "recompute_logprob": PeerName("AReaL", _BASE, "true is proximal"),
    "prox_logp_method": PeerName("AReaL", _BASE, "recompute is proximal"),
    "bypass_mode": PeerName("verl", _BASE, "true is behavior"),
    "use_rollout_log_probs": PeerName("verl", _BASE, "true is behavior"),
    "vllm_importance_sampling_correction": PeerName("TRL", _WEIGHT, "false is none"),
    "vllm_importance_sampling_mode": PeerName("TRL", _WEIGHT, "token_mask is weight token with bound mask"),
    "vllm_importance_sampling_cap": PeerName("TRL", _WEIGHT_MAX),
    "vllm_importance_sampling_clip_max": PeerName("TRL", _WEIGHT_MAX),
    "vllm_importance_sampling_clip_min": PeerName("TRL", _WEIGHT_MIN),
    "rollout_is": PeerName("verl", _WEIGHT),
    "rollout_is_threshold": PeerName("verl", _WEIGHT_MAX, "a pair LOW_HIGH is bound mask"),
    "rollout_rs": PeerName("verl", _GEO_MAX, f"seq_mean_k1 bounds {_GEOMETRIC}"),
    "rollout_rs_threshold": PeerName("verl", _GEO_MAX, _INVERSE),
    "tis_imp_ratio_cap": PeerName("verl, SkyRL", _WEIGHT_MAX),
    "use_tis": PeerName("SkyRL", _WEIGHT, "true is token"),
    "tis_ratio_type": PeerName("SkyRL", _WEIGHT),
    "token_tis_ratio_clip_high": PeerName("SkyRL", _WEIGHT_MAX),
    "sequence_tis_ratio_clip_high": PeerName("SkyRL", _WEIGHT_MAX),
    "token_mask_is_threshold_low": PeerName("SkyRL", _WEIGHT_MIN, "with bound mask"),
    "token_mask_is_threshold_high": PeerName("SkyRL", _WEIGHT_MAX, "with bound mask"),
    "sequence_mask_metric": PeerName("SkyRL", _GEO_MAX, f"geometric bounds {_GEOMETRIC}"),
    "geo_mask_low": PeerName("SkyRL", _GEO_MIN),
    "geo_mask_high": PeerName("SkyRL", _GEO_MAX),
    "product_mask_low": PeerName("SkyRL", _WEIGHT_MIN, "with weight sequence and bound mask"),
    "product_mask_high": PeerName("SkyRL", _WEIGHT_MAX, "with weight sequence and bound mask"),
    "use_importance_sampling_correction": PeerName("NeMo RL", _WEIGHT, "true is token"),
    "truncated_importance_sampling_type": PeerName(
        "NeMo RL", _BOUND, f"tis is truncate, icepop is mask; seq-mask-tis bounds {_GEOMETRIC}"
    ),
    "truncated_importance_sampling_ratio": PeerName("NeMo RL", _WEIGHT_MAX),
    "truncated_importance_sampling_ratio_min": PeerName("NeMo RL", _WEIGHT_MIN),
    "seq_logprob_error_threshold": PeerName(
        "NeMo RL", _GEO_MAX, f"it bounds the mean of each token's error, rlvr {_GEOMETRIC}"
    ),
    "rejection_sampling.action": PeerName("AReaL", _BOUND, "clamp is truncate"),
    "rejection_sampling.level": PeerName("AReaL", _WEIGHT),
    "rejection_sampling.upper": PeerName("AReaL", _WEIGHT_MAX),
    "rejection_sampling.lower": PeerName("AReaL", _WEIGHT_MIN),
    "behav_imp_weight_cap": PeerName("AReaL", _WEIGHT_MAX, "with bound mask"),
    "is_correction_enable": PeerName("OpenRLHF", _WEIGHT, "true is token"),
    "is_correction_threshold": PeerName("OpenRLHF", _WEIGHT_MAX, _BOUNDS_PAIR),
    "is_correction_type": PeerName(
        "OpenRLHF", _BOUND, f"tis is truncate, icepop is mask; seq-mask-tis bounds {_GEOMETRIC}"
    ),
    "enable_vllm_is_correction": PeerName("OpenRLHF", _WEIGHT, "true is token"),
    "vllm_is_truncated_threshold": PeerName("OpenRLHF", _WEIGHT_MAX, _BOUNDS_PAIR),
    "off_policy_mask_threshold": PeerName("TRL", "algorithm.correction.off_policy_threshold"),
    # the reward
    "reward_weights": PeerName("TRL", "data.train.N.checks.NAME.weight"),
    "gdpo_reward_weights": PeerName("verl", "data.train.N.checks.NAME.weight"),
    "reward_funcs": PeerName("TRL", "data.train.N.verifier"),
    "reward_model_path": PeerName("OpenRLHF", "data.train.N.verifier"),
    "mask_truncated_completions": PeerName("TRL", _TRUNCATED, _MASK),
    "apply_overlong_filtering": PeerName("SkyRL", _TRUNCATED, _MASK),
    "overlong_filtering": PeerName("NeMo RL", _TRUNCATED, _MASK),
    "mask_no_eos_with_zero": PeerName("AReaL", _TRUNCATED, _MASK),
    "zero_reward_on_non_stop": PeerName("SkyRL", _TRUNCATED, "true is zero"),
    "overlong_buffer.enable": PeerName("verl", _BUFFER, "0 is off"),
    "overlong_buffer.len": PeerName("verl", _BUFFER),
    "overlong_buffer_len": PeerName("OpenRLHF", _BUFFER),
    "overlong_buffer_length": PeerName("NeMo RL", _BUFFER),
    "overlong_tokens": PeerName("AReaL", _BUFFER),
    "overlong_reward_penalty": PeerName("AReaL", _BUFFER, "0 is off"),
    "soft_punish_cache": PeerName("TRL", _BUFFER),
    "overlong_buffer.penalty_factor": PeerName("verl", _PENALTY),
    "overlong_penalty_factor": PeerName("OpenRLHF, AReaL", _PENALTY),
    "overlong_buffer_penalty": PeerName("NeMo RL", _PENALTY),
}
