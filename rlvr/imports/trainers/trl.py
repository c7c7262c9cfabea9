"""TRL: the order in which the parts of a GRPOConfig are taken over."""

from rlvr.imports.conversion import Part
from rlvr.imports.trainers import trl_algorithm, trl_data, trl_rewards, trl_run

PARTS: dict[str, Part] = {
    "naming": trl_run.naming,
    "model": trl_data.model,
    "lora": trl_data.lora,
    "data": trl_data.data,
    "rewards": trl_rewards.rewards,
    "engine": trl_run.engine,
    "batch": trl_run.batch,
    "generation": trl_run.generation,
    "truncated": trl_algorithm.truncated,
    "advantage": trl_algorithm.advantage,
    "loss": trl_algorithm.loss,
    "kl": trl_algorithm.kl,
    "entropy": trl_algorithm.entropy,
    "correction": trl_algorithm.correction,
    "betas": trl_run.betas,
    "schedule": trl_run.schedule,
    "precision": trl_run.precision,
    "length": trl_run.length,
    "evaluation": trl_run.evaluation,
    "checkpoints": trl_run.checkpoints,
    "trackers": trl_run.trackers,
}
