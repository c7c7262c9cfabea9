"""prime-rl: the order in which the parts of a configuration are taken over."""

from rlvr.imports.conversion import Part
from rlvr.imports.trainers import prime_rl_algorithm, prime_rl_data, prime_rl_run

PARTS: dict[str, Part] = {
    "naming": prime_rl_run.naming,
    "model": prime_rl_run.model,
    "lora": prime_rl_run.lora,
    "data": prime_rl_data.data,
    "lengths": prime_rl_run.lengths,
    "engine": prime_rl_run.engine,
    "batch": prime_rl_run.batch,
    "staleness": prime_rl_algorithm.staleness,
    "sampling": prime_rl_run.sampling,
    "advantage": prime_rl_algorithm.advantage,
    "loss": prime_rl_algorithm.loss,
    "filtering": prime_rl_algorithm.filtering,
    "betas": prime_rl_run.betas,
    "gradients": prime_rl_run.gradients,
    "schedule": prime_rl_run.schedule,
    "precision": prime_rl_run.precision,
    "length": prime_rl_run.length,
    "evaluation": prime_rl_run.evaluation,
    "checkpoints": prime_rl_run.checkpoints,
    "trackers": prime_rl_run.trackers,
    "machines": prime_rl_run.machines,
}
