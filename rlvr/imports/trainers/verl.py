"""verl: the order in which the parts of a configuration are taken over."""

from rlvr.imports.conversion import Part
from rlvr.imports.trainers import verl_algorithm, verl_data, verl_run

PARTS: dict[str, Part] = {
    "naming": verl_run.naming,
    "model": verl_data.model,
    "lora": verl_data.lora,
    "data": verl_data.data,
    "rewards": verl_data.rewards,
    "lengths": verl_run.lengths,
    "overlong": verl_run.overlong,
    "engine": verl_run.engine,
    "batch": verl_run.batch,
    "validation": verl_run.validation,
    "advantage": verl_algorithm.advantage,
    "loss": verl_algorithm.loss,
    "aggregation": verl_algorithm.aggregation,
    "kl": verl_algorithm.kl,
    "entropy": verl_algorithm.entropy,
    "filtering": verl_run.filtering,
    "correction": verl_algorithm.correction,
    "mode": verl_run.mode,
    "schedule": verl_run.schedule,
    "gradients": verl_run.gradients,
    "length": verl_run.length,
    "intervals": verl_run.intervals,
    "trackers": verl_run.trackers,
    "machines": verl_run.machines,
}
