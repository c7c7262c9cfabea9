"""Checks, before anything is created, that this machine has a recipe's packages, in tested versions, and devices, and
can bear its counts.

`--dry-run`, `check` and a real start share these checks (`preflight.opened`); if the parts of a run live on other
machines (Ray), each checks its own devices when it starts.
"""

import logging
import os
from collections.abc import Iterator

from rlvr.config.extras import is_missing, needed
from rlvr.config.recipe import Backend, Recipe
from rlvr.config.sections.learner import Kernels, OptimizerKind
from rlvr.errors import ConfigError
from rlvr.run.record.sinks import require_trackers
from rlvr.versions import PYTHON, RAY, TORCH, TRANSFORMERS, installed_problems

logger = logging.getLogger(__name__)

_LIGER_NEEDS_GPU = "learner.kernels=liger needs the policy on a CUDA device; set learner.kernels=torch"


def require_machine(recipe: Recipe) -> None:
    """Raises ConfigError with everything that this machine lacks, one problem per line; warns of untested versions.

    torch is imported only if the recipe names a device.
    """
    problems = list(_problems(recipe))
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(recipe: Recipe) -> Iterator[str]:
    try:
        require_trackers(recipe.run.trackers)
    except ConfigError as error:
        yield str(error)
    is_local = recipe.cluster.backend is Backend.LOCAL
    yield from _versions(is_local=is_local)
    if is_local:
        yield from _packages(recipe)
    yield from _counts(recipe, is_local=is_local)
    if is_local:
        yield from _device(recipe)


def _versions(*, is_local: bool) -> Iterator[str]:
    """Refused versions; vLLM's is checked where an engine starts, and Ray compares the nodes with this machine."""
    for problem in installed_problems((PYTHON, TORCH, TRANSFORMERS, *(() if is_local else (RAY,)))):
        if problem.is_refused:
            yield problem.message
        else:
            logger.warning("%s", problem.message)


def _packages(recipe: Recipe) -> Iterator[str]:
    """Missing packages of the learner; if it runs elsewhere, its own errors say the same."""
    wanted = {
        "peft": recipe.model.lora.rank > 0,
        "bitsandbytes": recipe.learner.optimizer is OptimizerKind.ADAMW_8BIT,
        "liger_kernel": recipe.learner.kernels is Kernels.LIGER,
    }
    yield from (needed(name) for name, is_wanted in wanted.items() if is_wanted and is_missing(name))


def _counts(recipe: Recipe, *, is_local: bool) -> Iterator[str]:
    cores = os.cpu_count() or 1
    threads, most_threads = recipe.learner.num_threads, max(64, 4 * cores)
    if threads > most_threads:
        yield (
            f"learner.num_threads={threads}: at most {most_threads} on this machine of {cores} cores; 0 lets "
            "torch choose"
        )
    learners, most_learners = recipe.cluster.learners, max(16, 2 * cores)
    if is_local and learners > most_learners:
        yield (
            f"cluster.learners={learners}: each is a process with the whole model, at most {most_learners} on this "
            f"machine of {cores} cores"
        )


def _device(recipe: Recipe) -> Iterator[str]:
    """Problems with the learner's device, and with the number of learners."""
    name, learners = recipe.learner.device, recipe.cluster.learners
    needs_gpu = recipe.learner.kernels is Kernels.LIGER
    if name == "cpu" or (name == "auto" and learners == 1 and not needs_gpu):
        if needs_gpu:
            yield _LIGER_NEEDS_GPU
        return
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = "cuda" if num_gpus else "cpu"
    if name != "auto":
        try:
            kind = torch.empty(1, device=name).device.type
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            yield f"learner.device={name!r} cannot be used: {reason}; `rlvr doctor` lists the devices"
            return
    if kind == "meta":
        yield "learner.device='meta' holds no numbers; `rlvr doctor` lists the devices"
    if needs_gpu and kind != "cuda":
        yield _LIGER_NEEDS_GPU
    if kind == "cuda" and learners > num_gpus:
        yield (
            f"cluster.learners={learners} needs as many CUDA devices, and this machine has {num_gpus}; lower it, or "
            "set learner.device=cpu"
        )
