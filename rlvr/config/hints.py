"""The names that other trainers use for a thing, and its key in rlvr; only for error messages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerName:
    """A name of another trainer.

    key: the full path in a recipe. remark: where the meaning differs.
    """

    peers: str
    key: str
    remark: str = ""


_SIZE = "rollout.group_size"
_PROMPTS = "rollout.prompts_per_step"
_TOKENS = "rollout.max_completion_tokens"
_PROMPT_TOKENS = "data.max_prompt_tokens"
_LOW = "algorithm.clip_low"
_HIGH = "algorithm.clip_high"
_KL = "algorithm.kl_coef"
_MINI = "learner.minibatches_per_step"
_MICRO = "learner.micro_batch_tokens"

_COUNTS_ROLLOUTS = "it counts rollouts; rlvr counts prompts, so divide by the group size"
_PER_MINIBATCH = "it is a size; rlvr wants how many minibatches a step has"
_BY_TOKENS = "rlvr bounds memory by tokens, and the gradient does not depend on it"
_NO_REUSE = "rlvr takes each completion once a step; this is the number of optimiser steps"
_BOTH_CLIPS = "it sets both sides; rlvr has clip_low and clip_high"
_BETA = "its default in rlvr is 0, and then no reference model is loaded"
_LENGTH_TOTAL = "it counts prompt and completion; rlvr bounds the completion alone"

PEER_NAMES: dict[str, PeerName] = {
    # how many completions
    "num_generations": PeerName("TRL", _SIZE),
    "n_samples_per_prompt": PeerName("OpenRLHF, SkyRL", _SIZE),
    "num_generations_per_prompt": PeerName("NeMo RL", _SIZE),
    "rollouts_per_example": PeerName("prime-rl", _SIZE),
    "orchestrator.group_size": PeerName("prime-rl", _SIZE),
    "rollout.n": PeerName("verl", _SIZE),
    "gconfig.n_samples": PeerName("AReaL", _SIZE),
    "n_samples": PeerName("AReaL", _SIZE),
    # how many prompts
    "train_batch_size": PeerName(
        "verl, SkyRL, OpenRLHF",
        _PROMPTS,
        "verl and SkyRL count prompts, OpenRLHF rollouts",
    ),
    "rollout_batch_size": PeerName("OpenRLHF", _PROMPTS),
    "generation_batch_size": PeerName("TRL", _PROMPTS, _COUNTS_ROLLOUTS),
    "num_prompts_per_step": PeerName("NeMo RL", _PROMPTS),
    "orchestrator.batch_size": PeerName("prime-rl", _PROMPTS, _COUNTS_ROLLOUTS),
    "train_dataset.batch_size": PeerName("AReaL", _PROMPTS),
    # minibatches and memory
    "ppo_mini_batch_size": PeerName("verl", _MINI, _PER_MINIBATCH),
    "policy_mini_batch_size": PeerName("SkyRL", _MINI, _PER_MINIBATCH),
    "train_global_batch_size": PeerName("NeMo RL", _MINI, _PER_MINIBATCH),
    "ppo_n_minibatches": PeerName("AReaL", _MINI),
    "num_iterations": PeerName("TRL", _MINI, _NO_REUSE),
    "ppo_epochs": PeerName("verl", _MINI, _NO_REUSE),
    "per_device_train_batch_size": PeerName("TRL", _MICRO, _BY_TOKENS),
    "gradient_accumulation_steps": PeerName("TRL", _MICRO, _BY_TOKENS),
    "micro_train_batch_size": PeerName("OpenRLHF", _MICRO, _BY_TOKENS),
    "micro_train_batch_size_per_gpu": PeerName("SkyRL", _MICRO, _BY_TOKENS),
    "ppo_micro_batch_size_per_gpu": PeerName("verl", _MICRO, _BY_TOKENS),
    "ppo_max_token_len_per_gpu": PeerName("verl", _MICRO),
    "train_micro_batch_size": PeerName("NeMo RL", _MICRO, _BY_TOKENS),
    "max_tokens_per_mb": PeerName("AReaL", _MICRO),
    # lengths and sampling
    "max_completion_length": PeerName("TRL", _TOKENS),
    "max_response_length": PeerName("verl", _TOKENS),
    "max_new_tokens": PeerName("NeMo RL, AReaL", _TOKENS),
    "max_generate_length": PeerName("SkyRL", _TOKENS),
    "generate_max_len": PeerName("OpenRLHF", _TOKENS),
    "sampling.max_completion_tokens": PeerName("prime-rl", _TOKENS),
    "max_tokens": PeerName("vLLM", _TOKENS),
    "seq_len": PeerName("prime-rl", _TOKENS, _LENGTH_TOTAL),
    "max_total_sequence_length": PeerName("NeMo RL", _TOKENS, _LENGTH_TOTAL),
    "max_prompt_length": PeerName("TRL, verl, SkyRL", _PROMPT_TOKENS),
    "prompt_max_len": PeerName("OpenRLHF", _PROMPT_TOKENS),
    "max_input_seq_length": PeerName("NeMo RL", _PROMPT_TOKENS),
    "stop": PeerName("vLLM", "rollout.stop_strings"),
    "stop_sequences": PeerName("prime-rl", "rollout.stop_strings"),
    # clipping and KL
    "epsilon": PeerName("TRL", _LOW, "clip_high is the other side"),
    "epsilon_high": PeerName("TRL", _HIGH),
    "eps_clip": PeerName("OpenRLHF, AReaL", _LOW, _BOTH_CLIPS),
    "clip_ratio": PeerName("verl", _LOW, _BOTH_CLIPS),
    "clip_eps": PeerName("TRL", _LOW, _BOTH_CLIPS),
    "eps_clip_low": PeerName("SkyRL", _LOW),
    "eps_clip_high": PeerName("SkyRL", _HIGH),
    "eps_clip_higher": PeerName("AReaL", _HIGH),
    "eps_clip_low_high": PeerName("OpenRLHF", _LOW, "a pair; rlvr has clip_low and clip_high"),
    "clip_ratio_low": PeerName("verl", _LOW),
    "clip_ratio_high": PeerName("verl", _HIGH),
    "ratio_clip_min": PeerName("NeMo RL", _LOW),
    "ratio_clip_max": PeerName("NeMo RL", _HIGH),
    "beta": PeerName("TRL", _KL, _BETA),
    "kl_loss_coef": PeerName("verl, SkyRL", _KL),
    "init_kl_coef": PeerName(
        "OpenRLHF", _KL, "OpenRLHF may put it in the reward, rlvr in the loss"
    ),
    "kl_ctl": PeerName("AReaL", _KL, "AReaL puts it in the reward; rlvr in the loss"),
    "kl_tau": PeerName("prime-rl", _KL),
    "reference_policy_kl_penalty": PeerName("NeMo RL", _KL),
    "kl_loss_type": PeerName("verl", "algorithm.kl_estimator", "low_var_kl is k3"),
    # advantage and aggregation
    "loss_type": PeerName(
        "TRL",
        "algorithm.aggregation",
        "dapo is token_mean, grpo is sequence_mean, dr_grpo is constant_length",
    ),
    "loss_agg_mode": PeerName(
        "verl",
        "algorithm.aggregation",
        "token-mean is token_mean, seq-mean-token-mean is sequence_mean",
    ),
    "loss_reduction": PeerName("SkyRL", "algorithm.aggregation"),
    "token_level_loss": PeerName("NeMo RL", "algorithm.aggregation", "true is token_mean"),
    "scale_rewards": PeerName("TRL", "algorithm.advantage"),
    "adv_estimator": PeerName("verl, NeMo RL", "algorithm.advantage"),
    "norm_adv_by_std_in_grpo": PeerName("verl", "algorithm.advantage"),
    "advantage_estimator": PeerName("OpenRLHF, SkyRL", "algorithm.advantage"),
    "reward_weights": PeerName("TRL", "data.train.N.checks.NAME.weight"),
    "reward_funcs": PeerName("TRL", "data.train.N.verifier"),
    "reward_model_path": PeerName("OpenRLHF", "data.train.N.verifier"),
    # optimiser
    "learning_rate": PeerName("TRL", "learner.lr"),
    "actor_learning_rate": PeerName("OpenRLHF", "learner.lr"),
    "optim.lr": PeerName("verl, prime-rl", "learner.lr"),
    "optimizer.lr": PeerName("AReaL", "learner.lr"),
    "warmup_steps": PeerName("TRL", "learner.lr_warmup_steps"),
    "num_warmup_steps": PeerName("SkyRL", "learner.lr_warmup_steps"),
    "warmup_ratio": PeerName("TRL", "learner.lr_warmup_steps", "rlvr counts steps"),
    "lr_warmup_ratio": PeerName("OpenRLHF", "learner.lr_warmup_steps", "rlvr counts steps"),
    "adam_beta1": PeerName("TRL", "learner.adam_betas", "a pair"),
    "adam_beta2": PeerName("TRL", "learner.adam_betas", "a pair"),
    "grad_clip": PeerName("verl", "learner.max_grad_norm"),
    "gradient_clipping": PeerName("AReaL", "learner.max_grad_norm"),
    "max_norm": PeerName("OpenRLHF, prime-rl", "learner.max_grad_norm"),
    "bf16": PeerName("TRL", "learner.dtype", "true is bfloat16_autocast"),
    "enable_gradient_checkpointing": PeerName("verl", "learner.gradient_checkpointing"),
    # model, data and run
    "model_name_or_path": PeerName("TRL", "model.path"),
    "model_name": PeerName("NeMo RL", "model.path"),
    "pretrain": PeerName("OpenRLHF", "model.path"),
    "dataset_name": PeerName("TRL", "data.train.N.source"),
    "dataset_config": PeerName("TRL", "data.train.N.subset"),
    "train_files": PeerName("verl", "data.train.N.source"),
    "val_files": PeerName("verl", "data.eval.N.source"),
    "prompt_data": PeerName("OpenRLHF", "data.train.N.source"),
    "prompt_key": PeerName("verl", "data.train.N.columns"),
    "input_key": PeerName("OpenRLHF", "data.train.N.columns"),
    "label_key": PeerName("OpenRLHF", "data.train.N.columns"),
    "apply_chat_template": PeerName("OpenRLHF", "data.train.N.template"),
    "max_steps": PeerName("TRL, prime-rl", "run.steps"),
    "max_num_steps": PeerName("NeMo RL", "run.steps"),
    "total_training_steps": PeerName("verl", "run.steps"),
    "total_train_steps": PeerName("AReaL", "run.steps"),
    "num_train_epochs": PeerName("TRL", "run.steps", "rlvr counts steps"),
    "total_epochs": PeerName("verl", "run.steps", "rlvr counts steps"),
    "num_episodes": PeerName("OpenRLHF", "run.steps", "rlvr counts steps"),
    "save_steps": PeerName("TRL, OpenRLHF", "run.checkpoint_every_steps"),
    "save_freq": PeerName("verl", "run.checkpoint_every_steps"),
    "ckpt_interval": PeerName("SkyRL", "run.checkpoint_every_steps"),
    "save_period": PeerName("NeMo RL", "run.checkpoint_every_steps"),
    "save_total_limit": PeerName("TRL", "run.keep_checkpoints"),
    "max_ckpt_to_keep": PeerName("verl", "run.keep_checkpoints"),
    "eval_steps": PeerName("TRL, OpenRLHF", "run.eval_every_steps"),
    "test_freq": PeerName("verl", "run.eval_every_steps"),
    "eval_interval": PeerName("SkyRL", "run.eval_every_steps"),
    "val_period": PeerName("NeMo RL", "run.eval_every_steps"),
    "report_to": PeerName("TRL", "run.trackers"),
}


def peer_hint(path: str) -> tuple[str, PeerName] | None:
    """The peer's name that a dotted path ends in, and what it is here; the longest ending wins.

    >>> peer_hint("actor_rollout_ref.rollout.n")
    ('rollout.n', PeerName(peers='verl', key='rollout.group_size', remark=''))
    """
    parts = path.split(".")
    for start in range(len(parts)):
        ending = ".".join(parts[start:])
        if ending in PEER_NAMES:
            return ending, PEER_NAMES[ending]
    return None
