"""A script as TRL's documentation has them; `rlvr import` reads it and never runs it."""

import os

from datasets import load_dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import accuracy_reward, get_soft_overlong_punishment

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def has_steps(completions, **kwargs):
    return [float("Step 1" in completion[0]["content"]) for completion in completions]


dataset = load_dataset("trl-lib/DeepMath-103K", split="train").select(range(1000))
config = GRPOConfig(
    "runs/smol",
    learning_rate=float(os.environ.get("LR", "1e-5")),
    per_device_train_batch_size=16,
    num_generations=16,
    max_completion_length=1280,
    loss_type="dr_grpo",
    scale_rewards=False,
    importance_sampling_level="token",
    max_steps=50,
    bf16=False,
    seed=7,
)
trainer = GRPOTrainer(
    model=MODEL,
    reward_funcs=[
        accuracy_reward,
        has_steps,
        get_soft_overlong_punishment(max_completion_len=1280, soft_punish_cache=256),
    ],
    args=config,
    train_dataset=dataset,
    peft_config=LoraConfig(r=16, lora_alpha=64, use_rslora=True, target_modules=["q_proj", "v_proj"]),
)
trainer.train()
