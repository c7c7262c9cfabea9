"""Other trainers' names for the batch, lengths, optimiser, memory, model, data and run; for error messages only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerName:
    """A name of another trainer.

    key: the full path in a recipe. remark: where the meaning differs.
    """

    peers: str
    key: str
    remark: str = ""

    def answer(self, name: str) -> str:
        """The message for this name."""
        remark = f"; {self.remark}" if self.remark else ""
        return f"did you mean {self.key}? {name} is its name in {self.peers}{remark}"


_SIZE = "rollout.group_size"
_PROMPTS = "rollout.prompts_per_step"
_TOKENS = "rollout.max_completion_tokens"
_PROMPT_TOKENS = "data.max_prompt_tokens"
_STALE = "rollout.max_staleness"
_MINI = "learner.minibatches_per_step"
_MICRO = "learner.micro_batch_tokens"
_CHECKPOINTING = "learner.gradient_checkpointing"
_KERNELS = "learner.kernels"
_LOGITS = "learner.logits_memory_mb"
_RANK = "model.lora.rank"
_ALPHA = "model.lora.alpha"
_TEMPLATE = "data.train.N.chat_template_kwargs"
_LEARNERS = "cluster.learners"

_COUNTS_ROLLOUTS = "it counts rollouts; rlvr counts prompts, so divide by the group size"
_PER_MINIBATCH = "it is a size; rlvr counts the minibatches per step"
_BY_TOKENS = "rlvr bounds memory by tokens, and the gradient does not depend on it"
_NO_REUSE = "rlvr uses each completion once per step; this is the number of optimiser steps"
_LENGTH_TOTAL = "it counts prompt and completion; rlvr limits only the completion"
_VERSIONS = "it counts optimiser steps; rlvr counts published versions, one per step"
_ON_BY_RANK = "true means a rank above 0"
_ALWAYS_BY_TOKENS = "rlvr always fills micro-batches up to a number of tokens"
_CHUNK = "it counts tokens; rlvr counts megabytes"
_PROCESSES = "processes that share one optimiser step; the batch keeps its size"
_LIGER = "true is liger"
_VLLM_WIDTH = "it takes vLLM's own arguments, this one as tensor_parallel_size"
_VLLM_OWN = "it takes vLLM's own arguments under their own names"

GENERAL_NAMES: dict[str, PeerName] = {
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
    "steps_per_generation": PeerName("TRL", _MINI),
    "num_iterations": PeerName("TRL", _MINI, _NO_REUSE),
    "update_epochs_per_batch": PeerName("SkyRL", _MINI, _NO_REUSE),
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
    "eos_token_id": PeerName("transformers", "rollout.stop_token_ids", "in addition to the model's own"),
    # staleness
    "max_off_policy_steps": PeerName("prime-rl", _STALE, _VERSIONS),
    "max_staleness_steps": PeerName("SkyRL", _STALE, _VERSIONS),
    "max_head_offpolicyness": PeerName("AReaL", _STALE),
    "max_trajectory_age_steps": PeerName("NeMo RL", _STALE, _VERSIONS),
    "staleness_threshold": PeerName("verl", _STALE, "it is a fraction of the batch; rlvr counts versions"),
    "async_queue_size": PeerName("OpenRLHF", _STALE, "it counts queued batches"),
    "async_grpo.enabled": PeerName("NeMo RL", _STALE, "0 is strictly on-policy"),
    "async_enable": PeerName("OpenRLHF", _STALE, "0 is strictly on-policy"),
    "fully_async.enabled": PeerName("SkyRL", _STALE, "0 is strictly on-policy"),
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
    "optim": PeerName("TRL", "learner.optimizer", "adamw_torch is adamw"),
    "optim.type": PeerName("prime-rl", "learner.optimizer"),
    "optimizer.type": PeerName("AReaL", "learner.optimizer"),
    "optimizer_impl": PeerName("verl", "learner.optimizer"),
    # memory and speed
    "enable_gradient_checkpointing": PeerName("verl", _CHECKPOINTING),
    "gradient_checkpointing_enable": PeerName("OpenRLHF", _CHECKPOINTING),
    "activation_checkpointing": PeerName("NeMo RL", _CHECKPOINTING),
    "ac.mode": PeerName("prime-rl", _CHECKPOINTING, "full is true"),
    "torch_compile": PeerName("TRL", "learner.compile"),
    "use_torch_compile": PeerName("verl, SkyRL", "learner.compile"),
    "enable_compile": PeerName("AReaL", "learner.compile"),
    "deepcompile": PeerName("OpenRLHF", "learner.compile"),
    "use_liger_kernel": PeerName("TRL, OpenRLHF", _KERNELS, _LIGER),
    "use_liger": PeerName("verl", _KERNELS, _LIGER),
    "use_kernels": PeerName("AReaL", _KERNELS, _LIGER),
    "use_liger_loss": PeerName("TRL", _LOGITS, "rlvr always works in blocks of this size"),
    "use_fused_kernels": PeerName("verl", _LOGITS, "rlvr always works in blocks of this size"),
    "fused_lm_head_token_chunk_size": PeerName("prime-rl", _LOGITS, _CHUNK),
    "logprob_chunk_size": PeerName("NeMo RL", _LOGITS, _CHUNK),
    "logprobs_chunk_size": PeerName("SkyRL", _LOGITS, _CHUNK),
    "entropy_from_logits_chunk_size": PeerName("verl", _LOGITS, _CHUNK),
    "vocab_entropy_chunk_memory_mb": PeerName("SkyRL", _LOGITS),
    "use_remove_padding": PeerName("verl", "learner.layout", "true is packed"),
    "remove_microbatch_padding": PeerName("SkyRL", "learner.layout", "true is packed"),
    "packing_samples": PeerName("OpenRLHF", "learner.layout", "true is packed"),
    "sequence_packing.enabled": PeerName("NeMo RL", "learner.layout", "true is packed"),
    "pad_to_maximum": PeerName("AReaL", "learner.layout", "true is padded"),
    "use_dynamic_bsz": PeerName("verl", _MICRO, _ALWAYS_BY_TOKENS),
    "dynamic_batch_enable": PeerName("OpenRLHF", _MICRO, _ALWAYS_BY_TOKENS),
    "dynamic_batching.enabled": PeerName("NeMo RL", _MICRO, _ALWAYS_BY_TOKENS),
    "train_mb_tokens": PeerName("NeMo RL", _MICRO),
    "max_tokens_per_gpu": PeerName("OpenRLHF", _MICRO),
    "max_tokens_per_microbatch": PeerName("SkyRL", _MICRO),
    "token_budget": PeerName("TRL", _MICRO),
    "use_prefix_grouper": PeerName("verl", "learner.share_prompt_prefix"),
    "enable_tree_training": PeerName("AReaL", "learner.share_prompt_prefix"),
    "fsdp_size": PeerName("verl, SkyRL", _LEARNERS, _PROCESSES),
    "n_gpus_per_node": PeerName("verl", _LEARNERS, _PROCESSES),
    "policy_num_gpus_per_node": PeerName("SkyRL", _LEARNERS, _PROCESSES),
    "actor.num_gpus_per_node": PeerName("OpenRLHF", _LEARNERS, _PROCESSES),
    "dp_replicate": PeerName("prime-rl", _LEARNERS, _PROCESSES),
    "num_processes": PeerName("TRL (accelerate)", _LEARNERS, _PROCESSES),
    # engines and their placement
    "use_vllm": PeerName("TRL", "rollout.engine", "true is vllm"),
    "vllm_mode": PeerName("TRL", "cluster.placement", "colocate is colocated, server disaggregated"),
    "colocate_all": PeerName("SkyRL", "cluster.placement", "true is colocated"),
    "colocate_all_models": PeerName("OpenRLHF", "cluster.placement", "true is colocated"),
    "colocated.enabled": PeerName("NeMo RL", "cluster.placement", "true is colocated"),
    "vllm_num_engines": PeerName("OpenRLHF", "cluster.engines"),
    "num_inference_engines": PeerName("SkyRL", "cluster.engines"),
    "tensor_model_parallel_size": PeerName("verl", "rollout.engine_args", _VLLM_WIDTH),
    "vllm_tensor_parallel_size": PeerName("TRL, OpenRLHF", "rollout.engine_args", _VLLM_WIDTH),
    "gpu_memory_utilization": PeerName("verl, SkyRL", "rollout.engine_args", _VLLM_OWN),
    "vllm_gpu_memory_utilization": PeerName("TRL, OpenRLHF", "rollout.engine_args", _VLLM_OWN),
    # adapters
    "use_peft": PeerName("TRL", _RANK, _ON_BY_RANK),
    "use_lora": PeerName("AReaL", _RANK, _ON_BY_RANK),
    "lora_r": PeerName("TRL", _RANK),
    "lora_rank": PeerName("verl, AReaL", _RANK),
    "lora.rank": PeerName("OpenRLHF, SkyRL, prime-rl", _RANK),
    "lora_cfg.dim": PeerName("NeMo RL", _RANK),
    "peft.dim": PeerName("NeMo RL", _RANK),
    "lora_alpha": PeerName("TRL, verl, AReaL", _ALPHA),
    "lora.alpha": PeerName("OpenRLHF, SkyRL, prime-rl", _ALPHA),
    "lora_cfg.alpha": PeerName("NeMo RL", _ALPHA),
    "lora_target_modules": PeerName("TRL", "model.lora.target_modules"),
    "lora.target_modules": PeerName("OpenRLHF, SkyRL", "model.lora.target_modules"),
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
    "chat_template_kwargs": PeerName("TRL, SkyRL", _TEMPLATE),
    "apply_chat_template_kwargs": PeerName("verl", _TEMPLATE),
    "enable_thinking": PeerName("AReaL", _TEMPLATE, "a key of it"),
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
    "checkpoint_must_save_by": PeerName("NeMo RL", "run.max_hours", "in hours"),
    "save_total_limit": PeerName("TRL", "run.keep_checkpoints"),
    "max_ckpt_to_keep": PeerName("verl", "run.keep_checkpoints"),
    "eval_steps": PeerName("TRL, OpenRLHF", "run.eval_every_steps"),
    "test_freq": PeerName("verl", "run.eval_every_steps"),
    "eval_interval": PeerName("SkyRL", "run.eval_every_steps"),
    "val_period": PeerName("NeMo RL", "run.eval_every_steps"),
    "report_to": PeerName("TRL", "run.trackers"),
}
